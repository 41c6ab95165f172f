"""One layer in float32 against JAX (lax.scan, jit-compiled) and onnxruntime: who else runs an LSTM on a CPU.

    python benchmarks/engine_others.py [--threads 1 2] [--quick]          needs jax: pip install -c constraints.txt jax

JAX's scan gets W x made for all steps at once, as ours has it, and one fused product for the recurrence; compilation is
not counted. onnxruntime has no training. Every number of threads is a process of its own that may use as many CPUs,
since JAX takes all it finds. The input wants a gradient too.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measure import SHAPES, Options, Row, Shape, Timing, options, report, row

PAUSE = 0.02  # seconds: onnxruntime's pool spins for a while after a run, and would take a core from the next


def jax_layer(weights: list[Any]) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """(inference, training) of the layer with torch's weights: y of x, and the gradients of (x, weights)."""
    import jax
    from jax import numpy as jnp

    def layer(x: Any, w: Any, r: Any, b: Any) -> Any:
        def step(state: Any, hoisted: Any) -> Any:
            h, c = state
            i, f, g, o = jnp.split(hoisted + h @ r.T, 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((x.shape[1], r.shape[1]), x.dtype)
        return jax.lax.scan(step, (zero, zero), x @ w.T + b)[1]

    infer = jax.jit(lambda x: layer(x, *weights))

    def along(x: Any, w: Any, r: Any, b: Any, dy: Any) -> Any:
        return (layer(x, w, r, b) * dy).sum()

    gradients = jax.jit(jax.grad(along, argnums=(0, 1, 2, 3)))
    return infer, lambda x, dy: gradients(x, *weights, dy)


def onnx_layer(layer: Any, x: Any, threads: int) -> Callable[[], Any]:
    """Running the layer on x from a state of zeros."""
    import numpy as np
    import onnxruntime

    from holdfast.engine.onnx import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layer.onnx"
        export_onnx(layer, path)
        wanted = onnxruntime.SessionOptions()
        wanted.intra_op_num_threads, wanted.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(path.read_bytes(), wanted, providers=["CPUExecutionProvider"])
    zeros = np.zeros((1, x.shape[1], layer.hidden_size), np.float32)
    feed = {"x": x.numpy(), "h0": zeros, "c0": zeros, "lengths": np.full(x.shape[1], x.shape[0], np.int64)}
    feed = {given.name: feed[given.name] for given in session.get_inputs()}
    return lambda: session.run(None, feed)


def rows_of(shape: Shape, threads: int, seconds: float) -> list[Row]:
    import jax
    import torch

    import holdfast

    ours = holdfast.LSTM(shape.features, shape.hidden)
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(shape.time, shape.batch, shape.features, generator=rng).requires_grad_()
    dy = torch.randn(shape.time, shape.batch, shape.hidden, generator=rng)
    w, r, *biases = (p.detach() for p in ours.parameters())
    infer, train = jax_layer([jax.numpy.asarray(t.numpy()) for t in (w, r, biases[0] + biases[1])])
    their_x, their_dy = (jax.numpy.asarray(t.detach().numpy()) for t in (x, dy))
    run_onnx = onnx_layer(ours, x.detach(), threads)

    def mine(training: bool) -> Any:
        if not training:
            with torch.inference_mode():
                return ours(x)[0]
        ours.zero_grad(set_to_none=True)
        x.grad = None
        ours(x)[0].backward(dy)
        return x.grad

    # All three compute the same thing, or their times would mean nothing.
    torch.testing.assert_close(mine(False), torch.tensor(infer(their_x).__array__()), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(mine(True), torch.tensor(train(their_x, their_dy)[0].__array__()), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(mine(False), torch.tensor(run_onnx()[0]), rtol=1e-3, atol=1e-4)

    def against(who: str, training: bool, work: Callable[[], object]) -> Row:
        flops = shape.flops() * (3 if training else 1)
        case = f"{'training' if training else 'inference'} {shape}, {who}"
        return row(case, threads, flops, lambda: mine(training), work, seconds, PAUSE if threads > 1 else 0.0)

    return [
        against("JAX", True, lambda: jax.block_until_ready(train(their_x, their_dy))),
        against("JAX", False, lambda: jax.block_until_ready(infer(their_x))),
        against("onnxruntime", False, run_onnx),
    ]


def measured_apart(threads: int, given: Options) -> list[Row]:
    """The rows of one number of threads, from a process that sees as many CPUs."""
    cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[:threads]))
    command = ["taskset", "-c", cpus, sys.executable, __file__, "--one", str(threads), str(given.seconds / 3)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    rows = json.loads(done.stdout.splitlines()[-1])
    return [Row(**{**r, "ours": Timing(**r["ours"]), "rival": Timing(**r["rival"])}) for r in rows]


def one(threads: int, seconds: float) -> None:
    import torch

    torch.set_num_threads(threads)
    print(json.dumps([asdict(r) for shape in SHAPES for r in rows_of(shape, threads, seconds)]))


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        parser = argparse.ArgumentParser()
        parser.add_argument("--one", nargs=2)
        threads, seconds = parser.parse_args().one
        one(int(threads), float(seconds))
        return
    given = options(__doc__ or "")
    rows = [r for threads in given.threads for r in measured_apart(threads, given)]
    report("engine_others", "the engine named", given, rows)


if __name__ == "__main__":
    main()
