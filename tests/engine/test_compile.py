"""torch.compile, torch.export and the operators' own promises: our kernels run inside, for any batch and time.

The compiled graph calls the very kernels that an eager call does, so what differs is the rounding of the operations
around them, some of which inductor fuses: a few parts in a million where gradients of up to 66 row-steps are summed.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import pack_sequence

from holdfast.engine import LSTM, Weights, backend_report, library, lstm
from holdfast.engine.backend import OPERATOR

from .single_layer import make, needs_native

# torch 2.13 itself uses what it calls deprecated, and warns of its own experimental switches.
pytestmark = [
    needs_native,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf", "ignore::torch.jit.TracerWarning"
    ),
]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="inductor writes C++, and there is no g++")
FEATURES, HIDDEN = 4, 7
SIZES = [(3, 5), (2, 9), (11, 6), (1, 4)]  # (batch, time); the first is what is compiled


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture(autouse=True)
def _afresh() -> Iterator[None]:
    """torch refuses to trace any module that is an nn.LSTM, ours too, until its own switch is set."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(allow_rnn=True):
        yield
    torch._dynamo.reset()


class Tagger(nn.Module):
    """A linear layer, a bidirectional stack, a linear layer."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.after = nn.Linear(FEATURES, FEATURES), nn.Linear(2 * HIDDEN, 3)
        self.lstm = LSTM(FEATURES, HIDDEN, 2, bidirectional=True, batch_first=batch_first)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y, (h, c) = self.lstm(self.before(x).relu())
        return self.after(y), h, c


class Ragged(nn.Module):
    """The function, both directions, with lengths and a given state, without a bias."""

    def __init__(self) -> None:
        super().__init__()
        case = make(hidden=HIDDEN)
        self.w, self.r, self.h = nn.Parameter(case.w), nn.Parameter(case.r), nn.Parameter(case.r[:1])

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.h.expand(x.shape[1], -1)
        y, (h, c) = lstm(x * 2, Weights(self.w, self.r), (h, h.tanh()), lengths=lengths)
        back, _ = lstm(x, Weights(self.w, self.r), lengths=lengths, reverse=True)
        return y + back, h, c


def outputs_and_gradients(run: Any, module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    x = inputs[0].clone().requires_grad_()
    outputs = run(x, *inputs[1:])
    loss = sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outputs)
    return [*outputs, *torch.autograd.grad(loss, [x, *module.parameters()])]


def same(module: nn.Module, compiled: Any, *inputs: Tensor, training: bool, calls: int) -> None:
    with torch.set_grad_enabled(training):
        found = []
        for run in (module, compiled):
            backend_report(reset=True)
            found.append(outputs_and_gradients(run, module, *inputs) if training else list(run(*inputs)))
    assert backend_report().calls == {OPERATOR: calls}
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("batch_first", "training"), [(False, True), (True, False)])
def test_a_model_compiles_whole(batch_first: bool, training: bool) -> None:
    model = Tagger(batch_first)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch, time in SIZES[: 3 if training else 4]:  # one row is compiled on its own, as torch always does
        x = normal(batch, time, FEATURES) if batch_first else normal(time, batch, FEATURES)
        same(model, compiled, x, training=training, calls=4)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=needs_compiler)])
def test_ragged_rows_compile_whole(backend: str) -> None:
    model = Ragged()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for training in (True, False):
        for batch, time in SIZES[:3]:
            lengths = torch.arange(batch).mul(5).remainder(time + 1)  # from 0 on
            same(model, compiled, normal(time, batch, FEATURES), lengths, training=training, calls=2)


@needs_compiler
def test_a_module_compiles_to_machine_code() -> None:
    model = LSTM(FEATURES, HIDDEN, batch_first=True)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for batch, time in SIZES[:3]:
            x = normal(batch, time, FEATURES)
            torch.testing.assert_close(compiled(x), model(x), rtol=1e-5, atol=1e-5)


def test_what_is_compiled_is_not_compiled_again_for_another_size() -> None:
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(LSTM(FEATURES, HIDDEN), backend="aot_eager", fullgraph=True, dynamic=True)
    for batch, time in SIZES[:3]:
        compiled(normal(time, batch, FEATURES))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@torch._dynamo.config.patch(allow_rnn=False)
def test_without_the_switch_the_graph_is_cut_and_the_kernels_run() -> None:
    model, x = Tagger(True), normal(3, 5, FEATURES)
    backend_report(reset=True)
    found = torch.compile(model, backend="aot_eager")(x)
    assert {choice.backend for choice in backend_report().calls} == {"native"}
    torch.testing.assert_close(found, model(x), rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match="allow_rnn"):  # or we could set it for our part of a model: see the guide
        torch._dynamo.patch_dynamo_config(allow_rnn=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="allow_rnn"):
        torch._dynamo.reset()
        torch.compile(model, backend="aot_eager", fullgraph=True)(x)


def test_a_packed_sequence_compiles() -> None:
    model = LSTM(FEATURES, HIDDEN, 2, bidirectional=True)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for lengths in ([5, 3, 1], [2, 6]):
        packed = pack_sequence([normal(n, FEATURES) for n in lengths], enforce_sorted=False)
        backend_report(reset=True)
        y, state = compiled(packed)
        assert backend_report().calls == {OPERATOR: 4}
        wanted, wanted_state = model(packed)
        torch.testing.assert_close((y.data, *state), (wanted.data, *wanted_state), rtol=1e-6, atol=1e-6)


def test_the_first_call_of_all_may_be_a_compiled_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = LSTM(FEATURES, HIDDEN), normal(5, 3, FEATURES)
    backend_report(reset=True)
    monkeypatch.setattr(library, "_library", None)  # as in a fresh process: not loaded yet
    torch.compile(model, backend="aot_eager", fullgraph=True)(x)
    assert backend_report().calls == {OPERATOR: 1}


def test_lengths_are_checked_when_it_runs() -> None:
    compiled = torch.compile(Ragged(), backend="aot_eager", fullgraph=True)
    with pytest.raises(ValueError, match="length"):
        compiled(normal(5, 3, FEATURES), torch.tensor([5, 6, 0]))


def test_transforms_inside_a_compiled_function() -> None:
    model, x = LSTM(FEATURES, HIDDEN), normal(2, 3, FEATURES)  # two steps: the reference's loop is unrolled here

    def tangent(x: Tensor) -> Tensor:
        return torch.func.jvp(lambda x: model(x)[0], (x,), (x.sin(),))[1]

    def per_row(x: Tensor) -> Tensor:
        return torch.func.vmap(torch.func.grad(lambda row: model(row.unsqueeze(1))[0].pow(2).sum()), in_dims=1)(x)

    for function in (tangent, per_row):
        found = torch.compile(function, backend="aot_eager", fullgraph=True)(x)
        torch.testing.assert_close(found, function(x), rtol=1e-5, atol=1e-6)
        assert found.abs().max() > 1e-2


def test_a_compiled_model_never_drops_a_tangent() -> None:
    model, x = LSTM(FEATURES, HIDDEN), normal(5, 3, FEATURES)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    wanted = torch.func.jvp(lambda x: model(x)[0], (x,), (x.sin(),))[1]
    with torch.no_grad():
        compiled(x)
    with torch.autograd.forward_ad.dual_level(), torch.no_grad():
        dual = torch.autograd.forward_ad.make_dual(x, x.sin())
        found = torch.autograd.forward_ad.unpack_dual(compiled(dual)[0]).tangent
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("strict", [False, True])
def test_export_for_any_batch_and_time(strict: bool) -> None:
    model = Tagger(True)
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("time")}
    program = torch.export.export(model, (normal(3, 5, FEATURES),), dynamic_shapes={"x": dims}, strict=strict)
    calls = [str(node.target) for node in program.graph.nodes if "holdfast" in str(node.target)]
    assert calls == ["holdfast.lstm.default"] * 4  # the operator alone: nothing is kept for a backward pass
    for exported in (program, program.run_decompositions()):
        for batch, time in [*SIZES, (1, 1), (4, 1)]:
            x = normal(batch, time, FEATURES)
            torch.testing.assert_close(exported.module()(x), model(x), rtol=1e-6, atol=1e-6)


def test_export_of_ragged_rows() -> None:
    model = Ragged()
    batch, time = torch.export.Dim("batch"), torch.export.Dim("time")
    example = (normal(5, 3, FEATURES), torch.tensor([5, 0, 2]))
    program = torch.export.export(model, example, dynamic_shapes={"x": {0: time, 1: batch}, "lengths": {0: batch}})
    given = (normal(8, 2, FEATURES), torch.tensor([0, 7]))
    torch.testing.assert_close(program.module()(*given), model(*given), rtol=1e-6, atol=1e-6)


def test_an_exported_program_runs_in_another_process(tmp_path: Any) -> None:
    """Which must import holdfast, for the operator; the model's own class it does not need."""
    model, x = Tagger(True), normal(3, 5, FEATURES)
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
    torch.save((x, model(x)[0].detach()), tmp_path / "expected.pt")
    code = (
        "import sys, torch, holdfast.engine\n"
        "x, expected = torch.load(sys.argv[2])\n"
        "torch.testing.assert_close(torch.export.load(sys.argv[1]).module()(x)[0], expected, rtol=1e-6, atol=1e-6)\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, tmp_path / "model.pt2", tmp_path / "expected.pt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_stand_ins_without_numbers_never_reach_the_kernels() -> None:
    model = LSTM(FEATURES, HIDDEN, batch_first=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        y, _ = model(torch.empty(3, 5, FEATURES))
    assert y.shape == (3, 5, HIDDEN) and y.stride() == model(normal(3, 5, FEATURES))[0].stride()


def test_jit_trace_runs_torchs_operator() -> None:
    model, x = LSTM(FEATURES, HIDDEN, 2), normal(5, 3, FEATURES)
    traced = torch.jit.trace(model, (x,))
    other = normal(9, 2, FEATURES)
    torch.testing.assert_close(traced(other)[0], model(other)[0], rtol=1e-4, atol=2e-6)


def test_checkpointing() -> None:
    """Activations forgotten and computed again: with either of torch's ways."""
    model, x = LSTM(FEATURES, HIDDEN), normal(5, 3, FEATURES).requires_grad_()
    wanted = torch.autograd.grad(model(x)[0].pow(2).sum(), [x, *model.parameters()])
    again = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)[0]
    found = torch.autograd.grad(again.pow(2).sum(), [x, *model.parameters()])
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
