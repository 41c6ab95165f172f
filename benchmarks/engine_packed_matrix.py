"""PackedMatrix against torch.addmm: rows by the same weights at every step of a loop, packing counted in beside.

    python benchmarks/engine_packed_matrix.py [--threads 1 2] [--quick]

A case is STEPS products of a row block by one matrix, into one buffer, starting from ready sums: what a loop over a
decoder's steps does. "and packing" packs the matrix first, once for all of them; torch packs for each.
"""

from collections.abc import Callable

import torch

from holdfast.engine.packed_matrix import PackedMatrix
from measure import Row, options, report, row

STEPS = 20
SIZES = ((96, 1024, 2048), (96, 512, 1024), (32, 512, 2048))  # rows, depth, columns


def sides(rows: int, depth: int, columns: int) -> tuple[Callable[[], None], Callable[[], None], Callable[[], None]]:
    """Ours, ours with packing, torch's."""
    rng = torch.Generator().manual_seed(0)
    a, init = torch.randn(rows, depth, generator=rng), torch.randn(rows, columns, generator=rng)
    matrix, out = torch.randn(columns, depth, generator=rng).T, torch.empty(rows, columns)
    packed = PackedMatrix(matrix)

    def multiplied(by: PackedMatrix) -> None:
        for _ in range(STEPS):
            by.product(a, init=init, out=out)

    def torchs() -> None:
        for _ in range(STEPS):
            torch.addmm(init, a, matrix, out=out)

    return lambda: multiplied(packed), lambda: multiplied(PackedMatrix(matrix)), torchs


def main() -> None:
    given = options(__doc__ or "")
    found: list[Row] = []
    for precision in ("highest", "medium"):
        torch.set_float32_matmul_precision(precision)
        for threads in given.threads:
            torch.set_num_threads(threads)
            for size in SIZES:
                ours, packing, torchs = sides(*size)
                rows, depth, columns = size
                flops, name = (
                    2.0 * STEPS * rows * depth * columns,
                    f"{precision}, {rows} x {depth} by {depth} x {columns}",
                )
                found.append(row(name, threads, flops, ours, torchs, given.seconds / 4))
                found.append(row(f"{name}, and packing", threads, flops, packing, torchs, given.seconds / 4))
    torch.set_float32_matmul_precision("highest")
    report("engine_packed_matrix", "torch.addmm", given, found)


if __name__ == "__main__":
    main()
