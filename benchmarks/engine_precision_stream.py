"""What stepping in bf16 and int8 costs in accuracy: the largest |h - h in float64| over 1000 steps.

    python benchmarks/engine_precision_stream.py [--quick]

Weights as torch.nn.LSTM draws them, and three times as large, which makes the memory long and carries errors on; x is
standard normal. Beside ours: torch.nn.LSTM in float32, and what torch.ao.quantization.quantize_dynamic makes of it.
"""

import argparse
import json
import warnings

import torch
from torch import Tensor, nn

import holdfast
from measure import RESULTS, machine

STREAMS, FEATURES = 8, 64


def make(hidden: int, times: float) -> nn.LSTM:
    torch.manual_seed(0)
    lstm = nn.LSTM(FEATURES, hidden).eval()
    for parameter in lstm.parameters():
        parameter.mul_(times)
    return lstm


def quantized(lstm: nn.LSTM) -> nn.Module:
    """torch's dynamically quantised LSTM: int8 weights, x and h quantised at every step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(lstm), {nn.LSTM}, dtype=torch.qint8)[0]


def stepped(lstm: nn.LSTM, x: Tensor, precision: holdfast.engine.stream.Precision) -> Tensor:
    """Every step's h, [steps, streams, hidden]."""
    streams = holdfast.Streams(lstm, x.shape[1], precision=precision)
    for _ in range(x.shape[1]):
        streams.open()
    return torch.stack([streams.step(at).clone() for at in x])


def errors(hidden: int, times: float, steps: int) -> dict[str, float]:
    lstm = make(hidden, times)
    x = torch.randn(steps, STREAMS, FEATURES, generator=torch.Generator().manual_seed(1))
    truth = make(hidden, times).double()(x.double())[0]
    found = {
        "torch float32": lstm(x)[0],
        "highest": stepped(lstm, x, "highest"),
        "medium": stepped(lstm, x, "medium"),
        "int8": stepped(lstm, x, "int8"),
        "torch quantize_dynamic": quantized(lstm)(x)[0],
    }
    return {name: float((h.double() - truth).abs().max()) for name, h in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer steps, nothing written")
    quick = bool(parser.parse_args().quick)
    steps = 100 if quick else 1000
    rows: list[dict[str, object]] = []
    torch.set_num_threads(1)
    with torch.inference_mode():
        for hidden in (128, 512):
            for times in (1.0, 3.0):
                rows.append({"hidden": hidden, "weights_times": times, "errors": errors(hidden, times, steps)})
                print(rows[-1])
    if not quick:
        found = {"steps": steps, "streams": STREAMS, "features": FEATURES, "machine": machine(), "rows": rows}
        (RESULTS / "engine_precision_stream.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
