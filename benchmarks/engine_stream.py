"""One step at a time: holdfast.Streams against what people step an LSTM with today, the Python call included.

    python benchmarks/engine_stream.py [--threads 1 2] [--quick]

One stream, 64 features: torch.nn.LSTM over a sequence of one, torch.nn.LSTMCell, onnxruntime's session.run of the same
LSTM, and for int8 what torch.ao.quantization.quantize_dynamic makes of it; all carry their state from step to step. A
run is BLOCK steps. The roof is how fast one thread reads as many bytes as the weights have.

Every variant of the cell, one stream: against the same cell as a step in tensor operations (engine/cells.py), and
against our own plain cell.

A thousand streams stepped together: against holdfast.LSTM over whole sequences of a thousand rows, which reads every
weight as rarely as may be and knows all of its input beforehand.
"""

import json
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

import holdfast
from holdfast import Cell, LSTMLayer
from holdfast.engine.cells import step as cell_step
from holdfast.engine.stream import Precision
from holdfast.engine.stream_native import read_speed
from measure import CALM, RESULTS, Options, compare, machine, options

FEATURES = 64
BLOCK = (
    200  # steps in a run: a single one is as short as the clock's own noise, and finds the rival's data in the caches
)
MANY, STEPS = 1000, 20
BYTES: dict[Precision, int] = {"highest": 4, "medium": 2, "int8": 1}

Work = Callable[[], object]


@dataclass(frozen=True)
class Found:
    """One comparison; times of a step, in microseconds."""

    case: str
    precision: Precision
    rival: str
    threads: int
    ours_us: float
    ours_iqr_us: float
    rival_us: float
    rival_iqr_us: float
    ratio: float
    weight_bytes: int
    gigabytes_per_second: float  # of weights, by our time


def found(
    case: str, precision: Precision, rival: str, weights: int, pair: tuple[Work, Work, int], given: Options
) -> Found:
    """Compare two runs of so many steps; where the machine was disturbed, up to three times: the calmest counts."""
    ours, theirs, steps = pair
    seconds = given.seconds / 4  # there are many cases, and their runs are short
    tries = [compare(ours, theirs, seconds)]
    while len(tries) < 3 and max(t.spread for t in tries[-1]) >= CALM:
        tries.append(compare(ours, theirs, seconds))
    mine, other = min(tries, key=lambda both: both[0].spread + both[1].spread)
    size = weights * BYTES[precision]
    us = 1e3 / steps
    return Found(
        case, precision, rival, torch.get_num_threads(), mine.median_ms * us, mine.iqr_ms * us, other.median_ms * us,
        other.iqr_ms * us, other.median_ms / mine.median_ms, size, size / (mine.median_ms * us) / 1e3,
    )  # fmt: skip


def block(step: Callable[[], object]) -> Work:
    def run() -> None:
        for _ in range(BLOCK):
            step()

    return run


def torch_lstm(lstm: nn.Module, x: Tensor, hidden: int) -> Work:
    """nn.LSTM, quantised or not, over a sequence of one."""
    sequence = x.view(1, 1, -1)
    state = [(torch.zeros(1, 1, hidden), torch.zeros(1, 1, hidden))]

    def step() -> None:
        _, state[0] = lstm(sequence, state[0])

    return block(step)


def torch_cell(lstm: nn.LSTM, x: Tensor, hidden: int) -> Work:
    cell = nn.LSTMCell(FEATURES, hidden)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in lstm.state_dict().items()})
    row = x.view(1, -1)
    state = [(torch.zeros(1, hidden), torch.zeros(1, hidden))]

    def step() -> None:
        state[0] = cell(row, state[0])

    return block(step)


def quantized(lstm: nn.LSTM) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        return torch.ao.quantization.quantize_dynamic(nn.Sequential(lstm), {nn.LSTM}, dtype=torch.qint8)[0]


def onnx_session(lstm: nn.LSTM) -> Any:
    """An onnxruntime session of one step of this layer; None where onnx or onnxruntime is absent."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    order = [0, 3, 1, 2]  # ours i f g o; ONNX's i o f c
    weights = {
        name: value.detach().unflatten(0, (4, -1))[order].flatten(0, 1) for name, value in lstm.named_parameters()
    }
    bias = torch.cat([weights["bias_ih_l0"], weights["bias_hh_l0"]])
    constants = {"W": weights["weight_ih_l0"], "R": weights["weight_hh_l0"], "B": bias}
    node = helper.make_node(
        "LSTM", ["x", "W", "R", "B", "", "h", "c"], ["", "h_out", "c_out"], hidden_size=lstm.hidden_size
    )
    shapes = {"x": lstm.input_size, "h": lstm.hidden_size, "c": lstm.hidden_size}
    graph = helper.make_graph(
        [node],
        "step",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, size]) for name, size in shapes.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 1, lstm.hidden_size]) for n in ("h_out", "c_out")],
        [numpy_helper.from_array(value.unsqueeze(0).numpy(), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])


def onnx_steps(lstm: nn.LSTM, x: Tensor) -> Work | None:
    session = onnx_session(lstm)
    if session is None:
        return None
    zeros = np.zeros((1, 1, lstm.hidden_size), np.float32)
    state = [[zeros, zeros]]
    sequence = x.view(1, 1, -1).numpy()
    # The same question as to ours, so that nobody measures two different networks.
    ours = holdfast.Streams(lstm).step(x).numpy()
    answer = session.run(["h_out"], {"x": sequence, "h": zeros, "c": zeros})[0]
    if abs(answer[0, 0] - ours).max() > 1e-5:
        raise AssertionError("onnxruntime computes something else")

    def step() -> None:
        h, c = state[0]
        state[0] = session.run(["h_out", "c_out"], {"x": sequence, "h": h, "c": c})

    return block(step)


def one_stream(hidden: int, given: Options) -> list[Found]:
    lstm = nn.LSTM(FEATURES, hidden).eval()
    x = torch.randn(FEATURES, generator=torch.Generator().manual_seed(0))
    weights = 4 * hidden * (FEATURES + hidden)
    rivals: dict[str, Work | None] = {"nn.LSTM": torch_lstm(lstm, x, hidden)}
    if torch.get_num_threads() == 1:  # the others are no faster on more
        rivals["nn.LSTMCell"] = torch_cell(lstm, x, hidden)
        rivals["onnxruntime"] = onnx_steps(lstm, x)
        rivals["quantize_dynamic"] = torch_lstm(quantized(lstm), x, hidden)
    rows: list[Found] = []
    for precision in BYTES:
        streams = holdfast.Streams(lstm, precision=precision)
        ours = block(lambda step=streams.step: step(x))
        for name, rival in rivals.items():
            if rival is not None and (name != "quantize_dynamic" or precision == "int8"):
                case = f"one stream, I{FEATURES} H{hidden}"
                rows.append(found(case, precision, name, weights, (ours, rival, BLOCK), given))
        in_place = block(lambda step=streams.step, kept=streams.input: step(kept))
        case = f"one stream, I{FEATURES} H{hidden}, input filled in place"
        rows.append(found(case, precision, "nn.LSTM", weights, (in_place, torch_lstm(lstm, x, hidden), BLOCK), given))
    return rows


def many_streams(hidden: int, given: Options) -> list[Found]:
    """MANY at every step, in an order of slots that is not theirs in memory."""
    lstm = holdfast.LSTM(FEATURES, hidden).eval()
    x = torch.randn(STEPS, MANY, FEATURES, generator=torch.Generator().manual_seed(0))
    slots = torch.randperm(MANY, generator=torch.Generator().manual_seed(1))
    rows: list[Found] = []
    for precision in BYTES:
        streams = holdfast.Streams(lstm, MANY, precision=precision)
        for _ in range(MANY):
            streams.open()

        def ours(streams: holdfast.Streams = streams) -> None:
            for at in x:
                streams.step(at, slots)

        case = f"{MANY} streams together, I{FEATURES} H{hidden}"
        weights = 4 * hidden * (FEATURES + hidden)
        rows.append(found(case, precision, "holdfast.LSTM", weights, (ours, lambda: lstm(x), STEPS), given))
    return rows


VARIANTS = {
    "peephole": Cell(peephole=True),
    "coupled": Cell(coupled=True),
    "zoneout": Cell(zoneout_h=0.1, zoneout_c=0.1),
    "exponential": Cell(exponential=True),
    "normalised": Cell(normalised=True),
    "projection": Cell(projection=64, peephole=True),
}


def variant_in_torch(layer: LSTMLayer, x: Tensor) -> Work:
    """The cell as one writes it in tensor operations, carrying its state."""
    row, weights = x.view(1, -1), layer.weights()
    variant = layer.variant(row)
    state = [layer.initial_state(row[None], weights, variant)]

    def step() -> None:
        hoisted = linear(row, weights.input, None if layer.cell.normalised else weights.bias)
        if layer.cell.normalised:
            hoisted = layer_norm(hoisted, hoisted.shape[1:], weights.gain_x, weights.bias)
        state[0] = cell_step(hoisted, state[0], weights, variant, 0).state

    return block(step)


def variant_streams(hidden: int, given: Options) -> list[Found]:
    x = torch.randn(FEATURES, generator=torch.Generator().manual_seed(0))
    plain = holdfast.Streams(LSTMLayer(FEATURES, hidden).eval())
    plain_step = block(lambda step=plain.step: step(x))
    rows: list[Found] = []
    for name, cell in VARIANTS.items():
        layer = LSTMLayer(FEATURES, hidden, cell).eval()
        weights = 4 * hidden * (FEATURES + layer.width) + (cell.projection or 0) * hidden
        streams = holdfast.Streams(layer)
        ours = block(lambda step=streams.step: step(x))
        case = f"{name}, I{FEATURES} H{hidden}"
        rivals = {"torch operations": variant_in_torch(layer, x), "plain stream": plain_step}
        rows += [found(case, "highest", rival, weights, (ours, work, BLOCK), given) for rival, work in rivals.items()]
    return rows


def report(rows: list[Found], roofs: dict[int, float], given: Options) -> None:
    print(f"{'case':45} {'precision':9} threads  ours us (iqr)     rival us (iqr)    ratio   GB/s  of roof")
    for r in rows:
        ours, theirs = f"{r.ours_us:8.2f} ({r.ours_iqr_us:5.2f})", f"{r.rival_us:8.1f} ({r.rival_iqr_us:5.1f})"
        share = (
            f"{r.gigabytes_per_second / roofs[r.weight_bytes]:5.0%}"
            if r.case.startswith("one") and r.threads == 1
            else ""
        )
        noisy = " disturbed" if max(r.ours_iqr_us / r.ours_us, r.rival_iqr_us / r.rival_us) >= CALM else ""
        rival = f"{r.rival:16} {r.ratio:6.2f}x"
        print(
            f"{r.case:45} {r.precision:9} {r.threads}  {ours} {theirs} {rival} {r.gigabytes_per_second:4.0f} "
            f"{share}{noisy}"
        )
    if given.write:
        done = {
            "benchmark": "engine_stream",
            "machine": machine(),
            "read_gigabytes_per_second": {str(size): speed for size, speed in sorted(roofs.items())},
            "rows": [asdict(r) for r in rows],
        }
        (RESULTS / "engine_stream.json").write_text(json.dumps(done, indent=1) + "\n")


def main() -> None:
    given = options(__doc__ or "")
    rows: list[Found] = []
    with torch.inference_mode():
        for threads in given.threads:
            torch.set_num_threads(threads)
            for hidden in (128, 256, 512):
                rows += one_stream(hidden, given)
            for hidden in (128, 256) if threads == 1 else ():  # a second thread changes nothing about the cells
                rows += variant_streams(hidden, given)
            for hidden in (128, 256):
                rows += many_streams(hidden, given)
    sizes = {r.weight_bytes for r in rows if r.case.startswith("one")} | {
        64 << 10,
        512 << 10,
        1 << 20,
        4 << 20,
        8 << 20,
    }
    report(rows, {size: read_speed(size) / 1e9 for size in sorted(sizes)}, given)


if __name__ == "__main__":
    main()
