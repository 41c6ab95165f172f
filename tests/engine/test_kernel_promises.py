"""What the native kernels promise beside right numbers: the same bits, rows apart, memory kept, misuse refused."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from torch import Tensor

from holdfast.engine import library, native
from holdfast.engine.cells import Weights

from .single_layer import ISAS, Case, agree, make, needs_native, run, same_bits

pytestmark = needs_native


# (time, batch, features, hidden) large enough to be shared between threads: by rows; by units (few rows, wide state).
SHARED = [(30, 13, 20, 64), (40, 2, 30, 160), (50, 1, 16, 256), (12, 5, 200, 200)]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shape", SHARED)
def test_same_bits_on_any_number_of_threads(isa: str, shape: tuple[int, int, int, int]) -> None:
    native.use_isa(isa)
    for ragged in (False, True):
        case = make(*shape, ragged=ragged)
        alone = run(case, 1)
        agree(case, alone)
        for threads in (2, 3, 4):
            same_bits(alone, run(case, threads))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("ragged", [False, True])
def test_same_bits_alone_and_in_a_batch(isa: str, ragged: bool) -> None:
    native.use_isa(isa)
    case = make(9, 17, 10, 33, ragged=ragged)
    together = run(case)
    for row in range(17):
        alone = run(case.rows([row]))
        for name in ("y", "dx"):
            assert torch.equal(together[name][:, row], alone[name][:, 0]), name
        for name in ("h_last", "c_last", "dh0", "dc0"):
            assert torch.equal(together[name][row], alone[name][0]), name


@pytest.mark.parametrize("isa", ISAS)
def test_same_bits_with_and_without_keeping(isa: str) -> None:
    native.use_isa(isa)
    case = make(9, 5, 10, 33, ragged=True)
    inputs = (case.x, case.weights(), case.h0, case.c0, case.lengths)
    *kept, _ = native.forward(*inputs, reverse=False, keep=True)
    *not_kept, nothing = native.forward(*inputs, reverse=False, keep=False)
    assert nothing is None
    assert all(torch.equal(one, other) for one, other in zip(kept, not_kept, strict=True))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("hidden", [7, 32])
def test_poison_stays_in_its_row(isa: str, poison: float, hidden: int) -> None:
    native.use_isa(isa)
    case = make(6, 8, 4, hidden)
    clean = run(case)
    case.x[2, 3, 1] = poison
    spoilt = run(case)
    others = [row for row in range(8) if row != 3]
    for name, axis in (("y", 1), ("h_last", 0), ("c_last", 0), ("dx", 1), ("dh0", 0), ("dc0", 0)):
        rows = torch.tensor(others)
        assert torch.equal(clean[name].index_select(axis, rows), spoilt[name].index_select(axis, rows)), name
    assert torch.equal(clean["y"][:2], spoilt["y"][:2])  # and in its future
    if poison != poison:
        assert spoilt["y"][2:, 3].isnan().all()
        assert spoilt["dx"][:3, 3].isnan().all()


def test_backward_twice_gives_the_same() -> None:
    c = make(9, 4, 5, 20)
    y, _, _, kept = native.forward(c.x, c.weights(), c.h0, c.c0, None, reverse=False, keep=True)
    one, two = (
        native.backward((c.dy, c.dh, c.dc), c.x, c.weights(), c.h0, c.c0, None, y, kept, reverse=False, need_x=False)
        for _ in range(2)
    )
    assert one.x is None and two.x is None
    pairs = zip((*one.weights[:3], one.h0, one.c0), (*two.weights[:3], two.h0, two.c0), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs if a is not None and b is not None)


def test_kept_memory_is_used_again_only_once_nobody_holds_it() -> None:
    c = make(100, 16, 4, 64)

    def kept() -> Tensor:
        return native.forward(c.x, c.weights(), None, None, None, reverse=False, keep=True)[3]

    one, two = kept(), kept()
    assert one.data_ptr() != two.data_ptr()
    address, end = one.data_ptr(), one[-1:]
    del one
    held = [kept() for _ in range(9)]
    assert address not in {tensor.data_ptr() for tensor in held}  # `end` still lives there
    del end
    held += [kept() for _ in range(9)]
    assert address in {tensor.data_ptr() for tensor in held}


def test_two_python_threads_at_once() -> None:
    torch.set_num_threads(2)
    cases = [make(20, 12, 30, 64, seed=seed, ragged=bool(seed)) for seed in range(2)]
    expected = [run(case, 2) for case in cases]
    wrong: list[str] = []

    def work(case: Case, answer: dict[str, Tensor]) -> None:
        for _ in range(20):
            got = run(case, 2)
            wrong.extend(name for name in answer if not torch.equal(got[name], answer[name]))

    threads = [threading.Thread(target=work, args=pair) for pair in zip(cases, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_kept_of_another_instruction_set_is_refused() -> None:
    if len(ISAS) < 2:
        pytest.skip("this machine has one instruction set only")
    c = make(5, 3, 4, 16)  # 16 units: the sizes agree, so only the header tells
    native.use_isa(ISAS[0])
    y, _, _, kept = native.forward(c.x, c.weights(), None, None, None, reverse=False, keep=True)
    native.use_isa(ISAS[-1])
    with pytest.raises(ValueError, match="kept"):
        native.backward((c.dy, None, None), c.x, c.weights(), None, None, None, y, kept, reverse=False, need_x=False)


def test_an_unknown_instruction_set_in_the_environment_is_named() -> None:
    code = "from holdfast.engine import native; print(native.available(), native.why_not())"
    environment = {**os.environ, "HOLDFAST_ISA": "avx9"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.startswith("False") and "HOLDFAST_ISA=avx9" in done.stdout


def test_a_library_of_another_abi_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(path for path in library._library_paths() if path.exists())
    monkeypatch.setattr(library, "_ABI", 1)
    with pytest.raises(OSError, match=r"speaks ABI \d+, this Holdfast speaks 1"):
        library.Library(path)


def test_what_does_not_fit_is_refused() -> None:
    c = make()

    def call(
        x: Tensor = c.x, w: Tensor = c.w, r: Tensor = c.r, h0: Tensor | None = c.h0, lengths: Tensor | None = None
    ) -> None:
        native.forward(x, Weights(w, r, c.b), h0, c.c0, lengths, reverse=False, keep=False)

    call()
    with pytest.raises(ValueError, match=r"w_input .*\[28, 5\].*\[28, 4\]"):
        call(w=torch.zeros(28, 5))
    with pytest.raises(ValueError, match=r"x came as .*float64"):
        call(x=c.x.double())
    with pytest.raises(ValueError, match="axes"):
        call(x=c.x[0])
    with pytest.raises(ValueError, match=r"3 row-steps.*add up to 7"):
        call(x=c.x[0], lengths=torch.tensor([5, 0, 2]))
    with pytest.raises(ValueError, match="length"):
        call(x=c.x[0], lengths=torch.tensor([5, -2, 0]))
    with pytest.raises(ValueError, match="w_recurrent"):
        call(r=torch.zeros(27, 7))
    with pytest.raises(ValueError, match="h0"):
        call(h0=torch.zeros(2, 7))
    with pytest.raises(ValueError, match="lengths"):
        call(lengths=torch.zeros(3))
    for bad in (-1, 6, -1000, 1 << 40):
        lengths = torch.tensor([0, bad, 5])
        with pytest.raises(ValueError, match="length"):
            call(lengths=lengths)
        with pytest.raises(ValueError, match="length"):
            native.forward(c.x, c.weights(), c.h0, c.c0, lengths, reverse=False, keep=True)
    with pytest.raises(ValueError, match="avx9"):
        native.use_isa("avx9")
