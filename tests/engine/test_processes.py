"""What users do around a module: copies, files, other dtypes, hooks of torch.nn.utils, other processes.

A process that waits for ever is killed by its time-out and fails its test: after a fork the threads of an OpenMP team
are gone, and who still counts on them waits for them.
"""

import copy
import io
import multiprocessing
import os
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.utils import clip_grad_norm_, parametrizations, parametrize

from holdfast.engine import LSTM, State, backend_report

from .single_layer import needs_native

pytestmark = needs_native
BATCH, TIME, FEATURES, HIDDEN = 3, 5, 4, 7
PATIENCE = 60  # seconds; what is waited for takes one or two
CLOSE = {"rtol": 1e-4, "atol": 2e-6}  # two float32 LSTMs that sum in another order


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


X = normal(TIME, BATCH, FEATURES)


def step(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs and gradients of one training step."""
    y, (h, c) = module(x)
    return [y, h, c, *torch.autograd.grad(y.pow(2).sum() + (h * c).sum(), list(module.parameters()))]


# Copies and files


def through_a_file(module: LSTM) -> LSTM:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_state_dict(module: LSTM) -> LSTM:
    theirs = nn.LSTM(FEATURES, HIDDEN, 2, bidirectional=True)
    theirs.load_state_dict(module.state_dict())
    again = LSTM(FEATURES, HIDDEN, 2, bidirectional=True)
    again.load_state_dict(theirs.state_dict())
    return again


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, through_a_file, by_state_dict])
def test_a_copy_does_what_the_original_does(copied: Callable[[LSTM], LSTM]) -> None:
    module = LSTM(FEATURES, HIDDEN, 2, bidirectional=True)
    wanted = step(module, X)
    other = copied(module)
    assert type(other) is LSTM
    torch.testing.assert_close(step(other, X), wanted, rtol=0, atol=0)
    if copied is not copy.copy:
        with torch.no_grad():
            other.weight_hh_l1.zero_()
        torch.testing.assert_close(step(module, X), wanted, rtol=0, atol=0)


def test_a_saved_state_loads_as_one() -> None:
    """With torch's default, which takes nothing but tensors and what has been declared safe."""
    state = LSTM(FEATURES, HIDDEN)(X)[1]
    file = io.BytesIO()
    torch.save({"carried": [state]}, file)
    file.seek(0)
    (found,) = torch.load(file, weights_only=True)["carried"]
    assert type(found) is State and torch.equal(found.c, state.c) and torch.equal(found.h, state.h)


# What torch.nn.utils does to a module


def test_inference_mode_and_back() -> None:
    module = LSTM(FEATURES, HIDDEN)
    with torch.inference_mode():
        y, (h, _) = module(X)
        assert y.is_inference() and h.is_inference()
        torch.testing.assert_close(module(y[..., :FEATURES])[0], module(y[..., :FEATURES].clone())[0])
    assert module(X)[0].requires_grad
    with pytest.raises(RuntimeError, match=r"[Ii]nference"):  # as with torch's: such a tensor is not for training
        module(y[..., :FEATURES])


def test_weight_norm() -> None:
    """The weight is computed anew at every access; gradients reach its direction and its length."""
    torch.manual_seed(0)
    ours = LSTM(FEATURES, HIDDEN, 2)
    theirs = copy.deepcopy(ours)
    theirs.__class__ = nn.LSTM
    for module in (ours, theirs):
        parametrizations.weight_norm(module, "weight_hh_l0")
        assert parametrize.is_parametrized(module)
        with torch.no_grad():
            module.parametrizations.weight_hh_l0.original0.mul_(1.5)
    backend_report(reset=True)
    mine, wanted = step(ours, X), step(theirs, X)
    assert {choice.backend for choice in backend_report().calls} == {"native"}
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    torch.testing.assert_close(mine, wanted, rtol=1e-3, atol=1e-5)
    parametrize.remove_parametrizations(ours, "weight_hh_l0")
    torch.testing.assert_close(ours(X)[0], mine[0], **CLOSE)


def test_a_parametrisation_of_ones_own() -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    module = LSTM(FEATURES, HIDDEN)
    plain = copy.deepcopy(module)
    parametrize.register_parametrization(module, "weight_ih_l0", Halved())
    with torch.no_grad():
        plain.weight_ih_l0.div_(2)
    torch.testing.assert_close(module(X)[0], plain(X)[0], rtol=0, atol=0)


def test_clipping_gradients() -> None:
    module = LSTM(FEATURES, HIDDEN)
    (module(X)[0].sum() * 1e3).backward()
    assert clip_grad_norm_(module.parameters(), 0.5) > 0.5
    norm = torch.stack([p.grad.norm() for p in module.parameters() if p.grad is not None]).norm()
    torch.testing.assert_close(norm, torch.tensor(0.5))


def test_hooks_run() -> None:
    module = LSTM(FEATURES, HIDDEN)
    seen: list[str] = []
    module.register_forward_hook(lambda *_: seen.append("forward"))
    module.register_full_backward_hook(lambda *_: seen.append("backward"))
    module.weight_hh_l0.register_post_accumulate_grad_hook(lambda _: seen.append("accumulated"))
    module(X.clone().requires_grad_())[0].sum().backward()
    assert seen == ["forward", "accumulated", "backward"]


# Other processes


def large() -> tuple[LSTM, Tensor]:
    """Enough work for a team of two threads, but not for one of torch's own operators: those do wait for ever."""
    torch.manual_seed(0)
    return LSTM(32, 64), normal(30, 16, 32)


def in_a_child(answer: Connection) -> None:
    torch.set_num_threads(2)
    answer.send([t.detach().numpy() for t in step(*large())])
    answer.close()


def ask(method: str) -> list[Any]:
    """What a child process, started in this way, computes."""
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=in_a_child, args=(theirs,))
    child.start()
    theirs.close()
    try:
        assert ours.poll(PATIENCE), f"a child made by {method} waits for ever"
        return ours.recv()
    finally:
        child.kill()
        child.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_child_computes_what_its_parent_computes(method: str) -> None:
    torch.set_num_threads(2)
    wanted = step(*large())  # the parent's team has run, forwards and backwards
    for _ in range(2 if method == "fork" else 1):
        found = ask(method)
        torch.testing.assert_close([torch.from_numpy(t) for t in found], wanted, rtol=0, atol=0)
    torch.testing.assert_close(step(*large()), wanted, rtol=0, atol=0)  # and the parent goes on


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_child_does_not_write_into_its_parents_memory() -> None:
    """What the parent keeps for its backward pass lies in pages that are used again, by whoever finds them free."""
    module, x = LSTM(64, 128), normal(100, 32, 64)
    (wanted,) = torch.autograd.grad(module(x)[0].sum(), module.weight_hh_l0)
    held = [module(x)[0]]

    def forget_and_run() -> None:
        held.clear()  # in the child; the parent's stays
        module(x * 0)

    child: Any = multiprocessing.get_context("fork").Process(target=forget_and_run)
    child.start()
    child.join(PATIENCE)
    child.kill()
    assert child.exitcode == 0
    torch.testing.assert_close(torch.autograd.grad(held[0].sum(), module.weight_hh_l0)[0], wanted, rtol=0, atol=0)


def train_one_step(rank: int, meeting: str, found: str, both_done: Any) -> None:
    """One of two processes, each with its half of the rows.

    Neither closes its connection before both have all they wait for: a socket that is closed with something unread in
    it resets the connection, and what was on its way to the other is lost. One of the two was once aborted by gloo as
    it left. They tell each other past gloo, whose own barrier ends in such a closing too.
    """
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    module, x = large()
    model = nn.parallel.DistributedDataParallel(module)
    y, (h, _) = model(x[:, rank::2])
    (y.pow(2).sum() + h.sum()).backward()
    if rank == 0:
        torch.save([p.grad for p in module.parameters()], found)
    both_done.wait(PATIENCE)
    del model, y, h  # what holds the group, so that it is taken down here and not as the interpreter ends
    distributed.destroy_process_group()


def test_two_processes_share_a_gradient(tmp_path: Path) -> None:
    """DistributedDataParallel over gloo: the mean of both halves' gradients, which is half of the whole's."""
    context = multiprocessing.get_context("spawn")  # gloo in a fork of a process with threads may wait for ever
    arguments = (str(tmp_path / "meeting"), str(tmp_path / "found.pt"), context.Barrier(2))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    children = [context.Process(target=train_one_step, args=(rank, *arguments)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(PATIENCE)
    codes = [child.exitcode for child in children]
    for child in children:
        child.kill()
    assert codes == [0, 0]
    module, x = large()
    y, (h, _) = module(x)
    wanted = torch.autograd.grad((y.pow(2).sum() + h.sum()) / 2, list(module.parameters()))
    torch.testing.assert_close(torch.load(tmp_path / "found.pt"), list(wanted), rtol=1e-4, atol=1e-4)
