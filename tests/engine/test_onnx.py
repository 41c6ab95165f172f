"""The ONNX file, run by onnxruntime, against the reference in float64: every kind of stack, ragged rows, empty rows.

Tolerance: both sum in float32 in orders of their own, over five to nine steps and up to three layers; the worst seen is
2.6e-7. A gate in a wrong place is wrong by more than a hundredth.
"""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from holdfast.engine import LSTM, reference
from holdfast.engine.onnx import export_onnx
from holdfast.engine.reference import State

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
FEATURES, HIDDEN = 4, 7
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
STACKS = [
    dict(zip(("num_layers", "bidirectional", "bias", "batch_first", "proj_size"), values, strict=True))
    for values in itertools.product([1, 3], [False, True], [True, False], [False, True], [0, 2])
]
RAGGED = [(5, [5, 0, 2]), (1, [1]), (9, [1, 9, 4, 4]), (3, [0, 0])]  # time, lengths


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def session(path: Path) -> Any:
    onnx.checker.check_model(path, full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return onnxruntime.InferenceSession(path, options)


def truth(module: nn.LSTM, x: Tensor, state: tuple[Tensor, Tensor] | None, lengths: Tensor | None) -> list[Tensor]:
    """The stack, layer by layer, by the reference in float64."""
    layer_of = LSTM(FEATURES, HIDDEN, **options_of(module)).double()
    layer_of.load_state_dict(module.state_dict())
    x = (x.transpose(0, 1) if module.batch_first else x).double()
    directions, ends = 2 if module.bidirectional else 1, []
    for layer in range(module.num_layers):
        outputs = []
        for place in range(layer * directions, (layer + 1) * directions):
            before = None if state is None else State(*(s[place].double() for s in state))
            weights, reverse = layer_of.weights(place), place % directions == 1
            y, last = reference.lstm(x, weights, before, lengths=lengths, reverse=reverse)
            outputs.append(y)
            ends.append(last)
        x = torch.cat(outputs, dim=-1)
    y = x.transpose(0, 1) if module.batch_first else x
    return [y.detach(), *(torch.stack(parts).detach() for parts in zip(*ends, strict=True))]


def options_of(module: nn.LSTM) -> dict[str, Any]:
    return {name: getattr(module, name) for name in ("num_layers", "bidirectional", "bias", "batch_first", "proj_size")}


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("stack", range(len(STACKS)))
def test_the_file_computes_what_the_module_does(stack: int, state: bool, lengths: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = LSTM(FEATURES, HIDDEN, **STACKS[stack])
    export_onnx(module, tmp_path / "lstm.onnx", lengths=lengths, state=state)
    run = session(tmp_path / "lstm.onnx")
    places = module.num_layers * (2 if module.bidirectional else 1)
    for time, rows in RAGGED:
        batch = len(rows)
        x = normal(batch, time, FEATURES) if module.batch_first else normal(time, batch, FEATURES)
        before = (
            (normal(places, batch, module.proj_size or HIDDEN), normal(places, batch, HIDDEN) * 2) if state else None
        )
        lens = torch.tensor(rows) if lengths else None
        feed = {"x": x} | (dict(zip(("h0", "c0"), before, strict=True)) if before else {})
        feed |= {} if lens is None else {"lengths": lens}
        found = run.run(None, {name: tensor.numpy() for name, tensor in feed.items()})
        for mine, wanted in zip(found, truth(module, x, before, lens), strict=True):
            torch.testing.assert_close(torch.from_numpy(mine).double(), wanted, **CLOSE)


@pytest.mark.parametrize("proj_size", [0, 2])
def test_what_lies_past_a_rows_end_is_never_seen(proj_size: int, tmp_path: Path) -> None:
    module = LSTM(FEATURES, HIDDEN, 2, bidirectional=True, proj_size=proj_size)
    export_onnx(module, tmp_path / "lstm.onnx", state=False)
    run, lengths = session(tmp_path / "lstm.onnx"), torch.tensor([2, 5, 0])
    x = normal(5, 3, FEATURES)
    poisoned = torch.where(torch.arange(5).view(5, 1, 1) < lengths.view(1, 3, 1), x, torch.nan)
    clean, spoilt = (run.run(None, {"x": t.numpy(), "lengths": lengths.numpy()}) for t in (x, poisoned))
    for mine, wanted in zip(spoilt, clean, strict=True):
        torch.testing.assert_close(torch.from_numpy(mine), torch.from_numpy(wanted), rtol=0, atol=0)


def test_torchs_own_module_and_a_parametrised_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.utils.parametrizations.weight_norm(nn.LSTM(FEATURES, HIDDEN), "weight_hh_l0")
    export_onnx(module, tmp_path / "lstm.onnx", lengths=False, state=False)
    x = normal(5, 3, FEATURES)
    found = session(tmp_path / "lstm.onnx").run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), module(x)[0].detach(), **CLOSE)


def test_the_files_inputs_outputs_and_bytes(tmp_path: Path) -> None:
    module = LSTM(FEATURES, HIDDEN, 2, batch_first=True, dropout=0.3)  # in training, which the file is not
    one, other = tmp_path / "one.onnx", tmp_path / "other.onnx"
    export_onnx(module, one)
    export_onnx(module, str(other))
    assert one.read_bytes() == other.read_bytes()
    run = session(one)
    assert [(i.name, i.shape) for i in run.get_inputs()] == [
        ("x", ["batch", "time", FEATURES]),
        ("h0", [2, "batch", HIDDEN]),
        ("c0", [2, "batch", HIDDEN]),
        ("lengths", ["batch"]),
    ]
    assert [o.name for o in run.get_outputs()] == ["y", "h_n", "c_n"]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "lstm.onnx"
    path.write_text("old")
    with pytest.raises(ValueError, match="float64"):
        export_onnx(LSTM(FEATURES, HIDDEN).double(), path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError):
        export_onnx(LSTM(FEATURES, HIDDEN), tmp_path / "nowhere" / "lstm.onnx")


@pytest.mark.filterwarnings("ignore:Exporting a model to ONNX with a batch_size", "ignore::torch.jit.TracerWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the exporter itself, since torch 2.9
def test_a_whole_model_through_torchs_own_exporter(tmp_path: Path) -> None:
    """The exporter by tracing, which sees torch's operator in a holdfast.LSTM."""
    torch.manual_seed(0)

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = LSTM(FEATURES, HIDDEN, 2, bidirectional=True, batch_first=True), nn.Linear(14, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.lstm(x)[0])

    model, axes = Tagger().eval(), {0: "batch", 1: "time"}
    names: Any = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": axes, "y": axes}}
    torch.onnx.export(model, (normal(1, 5, FEATURES),), tmp_path / "model.onnx", dynamo=False, **names)
    x = normal(3, 8, FEATURES)
    found = session(tmp_path / "model.onnx").run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), model(x).detach(), **CLOSE)
