"""Products by a matrix that is packed once, against torch's, in every instruction set and precision."""

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from holdfast.engine import native
from holdfast.engine.packed_matrix import PackedMatrix

ISAS = [*native.isas(), "amx_emulated"] if native.available() else []
HALVES = ("avx512bf16", "amx", "amx_emulated")
SIZES = [(1, 1, 1), (3, 5, 7), (33, 40, 17), (70, 31, 100), (6, 130, 64), (64, 96, 192)]  # rows, depth, columns
needs_native = pytest.mark.skipif(not native.available(), reason=f"no native engine: {native.why_not()}")


@pytest.fixture(autouse=True, params=ISAS or [""])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param and not native.has_isa(request.param):
        pytest.skip(f"this CPU has no {request.param}")
    before, threads = native.isa() if request.param else "", torch.get_num_threads()
    if request.param:
        native.use_isa(request.param)
    yield request.param
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(threads)
    if before:
        native.use_isa(before)


def made(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def rounded(t: Tensor, isa: str) -> Tensor:
    halves = isa in HALVES and torch.get_float32_matmul_precision() == "medium"
    return (t.bfloat16() if halves else t).double()


@needs_native
@pytest.mark.parametrize("precision", ["highest", "medium"])
@pytest.mark.parametrize("turned", [False, True])
def test_is_the_product_of_rounded_factors(isa: str, precision: str, turned: bool) -> None:
    torch.set_float32_matmul_precision(precision)
    for rows, depth, columns in SIZES:
        a, matrix = made(rows, depth), made(columns, depth).T if turned else made(depth, columns)
        for init in (None, made(columns), made(rows, columns)):
            wanted = rounded(a, isa) @ rounded(matrix, isa) + (0 if init is None else init.double())
            out = torch.full((rows, columns), torch.nan)
            assert PackedMatrix(matrix).product(a, init=init, out=out) is out
            torch.testing.assert_close(out.double(), wanted, rtol=0, atol=2e-5)


@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_writes_nothing_but_its_rows_and_columns(isa: str, precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    for rows, depth, columns in SIZES:
        wide = torch.full((rows + 1, columns + 3), 5.0)
        a = made(rows, depth + 2)[:, 1 : depth + 1]  # rows with gaps between them
        out, matrix = wide[:rows, 1 : columns + 1], made(depth, columns)
        PackedMatrix(matrix).product(a, out=out)
        expected = torch.full_like(wide, 5.0)
        expected[:rows, 1 : columns + 1] = PackedMatrix(matrix).product(a.contiguous(), out=torch.empty(rows, columns))
        assert torch.equal(wide, expected)


def test_adds_to_what_is_there(isa: str) -> None:
    for rows, depth, columns in SIZES:
        a, matrix, out = made(rows, depth), made(depth, columns), made(rows, columns, seed=1)
        wanted = PackedMatrix(matrix).product(a, init=out.clone(), out=torch.empty_like(out))
        assert torch.equal(PackedMatrix(matrix).product(a, init=out, out=out), wanted)


@needs_native
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_the_same_bits_on_two_threads_and_for_a_row_alone(isa: str, precision: str) -> None:
    torch.set_float32_matmul_precision(precision)
    a, matrix = made(130, 160), made(160, 320)  # 13 million operations: more than one thread takes alone
    packed, found = PackedMatrix(matrix), list[Tensor]()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(packed.product(a, out=torch.empty(130, 320)))
    alone = [packed.product(a[n : n + 1], out=torch.empty(1, 320)) for n in range(130)]
    assert torch.equal(*found) and torch.equal(torch.cat(alone), found[0])


def test_is_of_the_matrix_as_it_was() -> None:
    matrix, a = made(8, 9), made(4, 8)
    packed = PackedMatrix(matrix)
    wanted = a @ matrix
    if native.available():
        matrix.zero_()
    torch.testing.assert_close(packed.product(a, out=torch.empty(4, 9)), wanted)


def test_no_rows_and_other_types_are_torchs() -> None:
    assert PackedMatrix(made(3, 4)).product(made(0, 3), out=torch.empty(0, 4)).shape == (0, 4)
    a, matrix, init = made(5, 3).double(), made(3, 4).double(), made(4).double()
    out = PackedMatrix(matrix).product(a, init=init, out=torch.empty(5, 4, dtype=torch.float64))
    torch.testing.assert_close(out, a @ matrix + init)


def test_what_does_not_fit_is_refused() -> None:
    packed = PackedMatrix(made(3, 4))
    with pytest.raises(ValueError, match="two axes"):
        PackedMatrix(made(3))
    for a, out, init in itertools.product((made(2, 3), made(2, 4)), (made(2, 4), made(2, 5)), (None, made(3))):
        if a.shape[1] != 3 or out.shape[1] != 4 or init is not None:
            with pytest.raises(ValueError, match=r"by a matrix \[3, 4\]"):
                packed.product(a, out=out, init=init)
    with pytest.raises(ValueError, match=r"torch.float32"):
        packed.product(made(2, 3).double(), out=made(2, 4))
    with pytest.raises(ValueError, match=r"torch.float32"):
        packed.product(made(2, 3), init=made(4).double(), out=made(2, 4))


@needs_native
def test_rows_of_out_lie_together() -> None:
    with pytest.raises(ValueError, match="adjacent"):
        PackedMatrix(made(3, 4)).product(made(2, 3), out=made(4, 2).T)
