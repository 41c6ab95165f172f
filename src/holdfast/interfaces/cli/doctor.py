"""`holdfast doctor`: what this machine has, what Holdfast makes of it, and whether it computes right."""

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from ... import __version__
from ...engine import LSTM, native, reference
from ...engine.reference import State, Weights
from ...parts.errors import HoldfastError
from . import output

PACKAGES = ("torch", "numpy", "safetensors", "cyclopts", "rich", "polars", "narwhals", "pyarrow", "matplotlib")


class WrongResultError(HoldfastError):
    """The kernels and the reference disagree."""


def doctor(
    *,
    quick: Annotated[bool, Parameter(help="kernels and self-test only")] = False,
    json: Annotated[bool, Parameter(help="JSON instead of text")] = False,
) -> int:
    """Versions, CPU, kernels, a self-test: what to send with a bug report."""
    facts: dict[str, Any] = {"holdfast": __version__, "kernels": kernels(), "self-test": self_test()}
    if not quick:
        facts |= {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpu": cpu(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            **{name: installed(name) for name in PACKAGES},
            "speed": speed(),
        }
    output.print_facts(facts, json)
    return 0


def kernels() -> str:
    """Which native kernels are in use, or why there are none."""
    if not native.available():
        return f"none, the reference takes over: {native.why_not()}"
    return f"{native.isa()} (of {', '.join(native.isas())})"


def self_test() -> str:
    """Compare the fast path with the float64 reference on every instruction set. Raises WrongResultError."""
    if not native.available():
        return "nothing to compare"
    worst, chosen = 0.0, native.isa()
    dice = torch.Generator().manual_seed(0)
    made = [torch.randn(*shape, generator=dice) for shape in ((5, 3, 4), (28, 4), (28, 7), (28,), (3, 7), (3, 7))]
    x, w, r, b, h, c = made
    lengths = torch.tensor([2, 5, 0])
    exact = Weights(w.double(), r.double(), b.double())
    want, _ = reference.lstm(x.double(), exact, State(h.double(), c.double()), lengths=lengths)
    try:
        for isa in native.isas():
            native.use_isa(isa)
            y = native.forward(x, Weights(w, r, b), h, c, lengths, reverse=False, keep=False)[0]
            worst = max(worst, float((y.double() - want).abs().max()))
    finally:
        native.use_isa(chosen)
    if not worst < 1e-5:  # also where it is NaN
        raise WrongResultError(f"the kernels differ from the reference by {worst:.2g}", hint="set HOLDFAST_ISA=generic")
    return f"passed, largest error {worst:.1e}"


def speed() -> str:
    """One training step of an ordinary layer, beside torch's, interleaved; medians."""
    ours, theirs, x = LSTM(64, 128), torch.nn.LSTM(64, 128), torch.randn(50, 32, 64)
    times: dict[torch.nn.Module, list[float]] = {ours: [], theirs: []}
    for _ in range(9):
        for module, taken in times.items():
            started = time.perf_counter()
            module(x)[0].sum().backward()
            taken.append(time.perf_counter() - started)
    mine, wanted = (sorted(taken)[4] * 1e3 for taken in times.values())
    return f"training step [time 50, batch 32, 64 -> 128]: {mine:.1f} ms, torch.nn.LSTM {wanted:.1f} ms"


def cpu() -> str:
    """The CPU's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return names[0].split(":", 1)[1].strip() if names else platform.processor()


def installed(package: str) -> str:
    """A package's version, or that it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
