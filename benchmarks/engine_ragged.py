"""Rows of unequal length, float32: 32 rows of 10 to 100 steps, 128 features, 128 units.

    python benchmarks/engine_ragged.py [--threads 1 2] [--quick]

The rival is torch.nn.LSTM with a PackedSequence throughout. Packed: holdfast.LSTM with the same PackedSequence, which
is there before the clock starts, as where a data loader packs. Packing too: both sides pack the padded batch and unpack
the result, by torch's functions. Lengths: holdfast.lstm takes the padded batch and the lengths as they are, against a
rival that packs and unpacks.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import holdfast
from measure import Row, Shape, options, report, row

SHAPE = Shape(32, 100, 128, 128)


class Batch:
    """The same rows, padded and packed, and the gradients that come back into the outputs."""

    def __init__(self) -> None:
        rng = torch.Generator().manual_seed(0)
        self.lengths = torch.randint(10, 101, (SHAPE.batch,), generator=rng)
        self.lengths[0] = SHAPE.time
        self.x = torch.randn(SHAPE.time, SHAPE.batch, SHAPE.features, generator=rng)
        self.dy = torch.randn(SHAPE.time, SHAPE.batch, SHAPE.hidden, generator=rng)
        self.packed = pack_padded_sequence(self.x, self.lengths, enforce_sorted=False)
        self.packed_dy = pack_padded_sequence(self.dy, self.lengths, enforce_sorted=False).data
        self.x.requires_grad_()
        self.packed.data.requires_grad_()


def packed(layer: nn.LSTM, batch: Batch) -> Tensor:
    y: PackedSequence = layer(batch.packed)[0]
    return y.data


def packing_too(layer: nn.LSTM, batch: Batch) -> Tensor:
    y, _ = layer(pack_padded_sequence(batch.x, batch.lengths, enforce_sorted=False))
    return pad_packed_sequence(y)[0]


def by_lengths(layer: nn.LSTM, batch: Batch) -> Tensor:
    assert isinstance(layer, holdfast.LSTM)
    return holdfast.lstm(batch.x, layer.weights(0), lengths=batch.lengths)[0]


Run = Callable[[nn.LSTM, Batch], Tensor]
CASES: tuple[tuple[str, Run, Run], ...] = (  # ours, the rival's
    ("packed", packed, packed),
    ("packing too", packing_too, packing_too),
    ("lengths", by_lengths, packing_too),
)


def train(run: Run, layer: nn.LSTM, batch: Batch) -> None:
    batch.x.grad = batch.packed.data.grad = None
    layer.zero_grad(set_to_none=True)
    run(layer, batch).backward(batch.packed_dy if run is packed else batch.dy)


def main() -> None:
    given = options(__doc__ or "")
    batch = Batch()
    rival = nn.LSTM(SHAPE.features, SHAPE.hidden)
    ours = holdfast.LSTM(SHAPE.features, SHAPE.hidden)
    ours.load_state_dict(rival.state_dict())
    flops = SHAPE.flops(int(batch.lengths.sum()))
    rows: list[Row] = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for name, mine, theirs in CASES:
            pair = (lambda f=mine: train(f, ours, batch), lambda f=theirs: train(f, rival, batch))
            rows.append(row(f"{name}, 10-100 steps, training", threads, 3 * flops, *pair, given.seconds))
            with torch.no_grad():
                pair = (lambda f=mine: f(ours, batch), lambda f=theirs: f(rival, batch))
                rows.append(row(f"{name}, 10-100 steps, inference", threads, flops, *pair, given.seconds))
    report("engine_ragged", "torch.nn.LSTM with a PackedSequence", given, rows)


if __name__ == "__main__":
    main()
