"""Forward pass of one layer without gradients, in float32, against torch.nn.LSTM with the same weights and input.

    python benchmarks/engine_inference.py [--threads 1 2] [--quick]

Beside the shapes of the training benchmark there are the calls that a live application makes: one row, one step.
"""

import torch
from torch import nn

import holdfast
from measure import SHAPES, Row, Shape, options, report, row

LIVE = (Shape(1, 1, 64, 128), Shape(1, 1, 64, 256), Shape(1, 100, 40, 128))


def main() -> None:
    given = options(__doc__ or "")
    rows: list[Row] = []
    for threads in given.threads:
        torch.set_num_threads(threads)
        for shape in (*SHAPES, *LIVE):
            rival = nn.LSTM(shape.features, shape.hidden).eval()
            ours = holdfast.LSTM(shape.features, shape.hidden).eval()
            ours.load_state_dict(rival.state_dict())
            x = torch.randn(shape.time, shape.batch, shape.features, generator=torch.Generator().manual_seed(0))
            with torch.inference_mode():
                rows.append(
                    row(
                        str(shape),
                        threads,
                        shape.flops(),
                        lambda layer=ours, x=x: layer(x),
                        lambda layer=rival, x=x: layer(x),
                        given.seconds,
                    )
                )
    report("engine_inference", "torch.nn.LSTM", given, rows)


if __name__ == "__main__":
    main()
