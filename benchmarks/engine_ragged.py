"""Rows of unequal length, float32: 32 rows of 10 to 100 steps, 128 features, 128 units.

    python benchmarks/engine_ragged.py [--threads 1 2] [--quick]

Packed: a PackedSequence through holdfast.LSTM against the same through torch.nn.LSTM, packing and unpacking included on
both sides. Lengths: holdfast.lstm takes the padded batch and the lengths as they are, against the same packed rival.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import holdfast
from measure import Row, Shape, options, report, row

SHAPE = Shape(32, 100, 128, 128)


def packed(layer: nn.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    y, _ = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))
    return pad_packed_sequence(y)[0]


def by_lengths(layer: holdfast.LSTM, x: Tensor, lengths: Tensor) -> Tensor:
    return holdfast.lstm(x, layer.weights(0), lengths=lengths)[0]


def main() -> None:
    given = options(__doc__ or "")
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(10, 101, (SHAPE.batch,), generator=rng)
    lengths[0] = SHAPE.time
    x = torch.randn(SHAPE.time, SHAPE.batch, SHAPE.features, generator=rng).requires_grad_()
    dy = torch.randn(SHAPE.time, SHAPE.batch, SHAPE.hidden, generator=rng)
    rival = nn.LSTM(SHAPE.features, SHAPE.hidden)
    ours = holdfast.LSTM(SHAPE.features, SHAPE.hidden)
    ours.load_state_dict(rival.state_dict())
    forward = SHAPE.flops(int(lengths.sum()))

    def train(y: Tensor) -> None:
        x.grad = None
        ours.zero_grad(set_to_none=True)
        rival.zero_grad(set_to_none=True)
        y.backward(dy)

    rows: list[Row] = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for name, run in (("packed", packed), ("lengths", by_lengths)):
            case = f"{name}, 10-100 steps, training"
            rows.append(
                row(
                    case,
                    threads,
                    3 * forward,
                    lambda run=run: train(run(ours, x, lengths)),
                    lambda: train(packed(rival, x, lengths)),
                    given.seconds,
                )
            )
            with torch.no_grad():
                case = f"{name}, 10-100 steps, inference"
                rows.append(
                    row(
                        case,
                        threads,
                        forward,
                        lambda run=run: run(ours, x, lengths),
                        lambda: packed(rival, x, lengths),
                        given.seconds,
                    )
                )
    report("engine_ragged", "torch.nn.LSTM with a PackedSequence", given, rows)


if __name__ == "__main__":
    main()
