"""Forward and backward pass of one layer, in float32, against torch.nn.LSTM with the same weights and input.

    python benchmarks/engine_training.py [--threads 1 2] [--quick]

The input wants a gradient too, as every layer's but the first does.
"""

import torch
from torch import nn

import holdfast
from measure import SHAPES, Row, Shape, options, report, row


def work(layer: nn.LSTM, shape: Shape) -> tuple[nn.LSTM, torch.Tensor, torch.Tensor]:
    """The layer, its input and the gradient of its output, the same for both sides."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(shape.time, shape.batch, shape.features, generator=rng).requires_grad_()
    return layer, x, torch.randn(shape.time, shape.batch, shape.hidden, generator=rng)


def step(layer: nn.LSTM, x: torch.Tensor, dy: torch.Tensor) -> None:
    layer.zero_grad(set_to_none=True)
    x.grad = None
    layer(x)[0].backward(dy)


def main() -> None:
    given = options(__doc__ or "")
    rows: list[Row] = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for shape in SHAPES:
            rival = nn.LSTM(shape.features, shape.hidden)
            ours = holdfast.LSTM(shape.features, shape.hidden)
            ours.load_state_dict(rival.state_dict())
            mine, theirs = work(ours, shape), work(rival, shape)
            flops = 3 * shape.flops()
            rows.append(
                row(str(shape), threads, flops, lambda m=mine: step(*m), lambda t=theirs: step(*t), given.seconds)
            )
    report("engine_training", "torch.nn.LSTM", given, rows)


if __name__ == "__main__":
    main()
