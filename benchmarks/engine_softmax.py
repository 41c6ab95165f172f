"""The last layer of a language model with its loss: times and peak memory.

    python benchmarks/engine_softmax.py [--threads 1 2] [--quick]

Fused: parts.softmax.linear_cross_entropy against F.cross_entropy(F.linear(...)), forward and backward pass, 700 tokens
(20 rows, 35 steps), everything wanting a gradient; and the forward pass alone under no_grad. Adaptive:
parts.adaptive_softmax against torch.nn.AdaptiveLogSoftmaxWithLoss with the same parameters, targets by Zipf's law.
Medium: the fused loss with torch.set_float32_matmul_precision("medium") at the sizes of word models, training, against
torch under autocast to bfloat16 and in float32; and ours in float32 against torch's at the same sizes.
Errors: of losses and gradients of 256 tokens, width 256, 2000 words, against float64; "high" by the emulation of AMX.
Memory: how far the peak of a process of its own rises above what it had before the first pass, inputs and weights not
counted, gradients counted.
"""

import json
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from engine_medium import in_precision, under_autocast
from holdfast.engine import native
from holdfast.parts.adaptive_softmax import AdaptiveSoftmax
from holdfast.parts.softmax import Reduction, linear_cross_entropy
from measure import RESULTS, Row, options, report, row

TOKENS = 700
SIZES = ((512, 10_000), (650, 10_000), (512, 33_278), (650, 33_278))  # width, vocabulary
WORD_MODELS = ((2240, 512, 33_278), (4096, 256, 8000), (2048, 128, 12_101))  # tokens, width, vocabulary
CUTOFFS = {10_000: [2000, 5000], 33_278: [2000, 10_000]}
Pass = Callable[[], object]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def fused(ours: bool, width: int, vocabulary: int, training: bool = True, tokens: int = TOKENS) -> Pass:
    torch.manual_seed(0)
    leaves = [torch.randn(tokens, width), torch.randn(vocabulary, width) / width**0.5, torch.zeros(vocabulary)]
    h, weight, bias = (leaf.requires_grad_(training) for leaf in leaves)
    targets = torch.randint(0, vocabulary, (tokens,))

    def loss() -> Tensor:
        if ours:
            return linear_cross_entropy(h, weight, bias, targets)
        return functional.cross_entropy(functional.linear(h, weight, bias), targets)

    return stepping(loss, [h, weight, bias]) if training else loss


def adaptive(ours: bool, width: int, vocabulary: int) -> Pass:
    torch.manual_seed(0)
    mine = AdaptiveSoftmax(width, vocabulary, CUTOFFS[vocabulary])
    theirs = nn.AdaptiveLogSoftmaxWithLoss(width, vocabulary, CUTOFFS[vocabulary])
    theirs.load_state_dict(mine.state_dict())
    h = torch.randn(TOKENS, width, requires_grad=True)
    targets = torch.multinomial(1 / torch.arange(1.0, vocabulary + 1), TOKENS, replacement=True)
    module = mine if ours else theirs
    return stepping(lambda: mine.loss(h, targets) if ours else theirs(h, targets).loss, [h, *module.parameters()])


def stepping(loss: Callable[[], Tensor], leaves: list[Tensor]) -> Pass:
    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    return step


def word_model_rows(tokens: int, width: int, vocabulary: int, threads: int, seconds: float) -> list[Row]:
    flops = 6.0 * tokens * width * vocabulary
    name = f"{tokens} tokens, width {width}, vocabulary {vocabulary}"
    mine, theirs = (fused(ours, width, vocabulary, tokens=tokens) for ours in (True, False))
    medium = in_precision("medium", mine)
    return [
        row(f"medium, {name}, torch bfloat16", threads, flops, medium, under_autocast(theirs), seconds),
        row(f"medium, {name}, torch float32", threads, flops, medium, theirs, seconds),
        row(f"float32, {name}, torch float32", threads, flops, mine, theirs, seconds),
    ]


def differences(h: Tensor, weight: Tensor, targets: Tensor, loss: Loss) -> list[Tensor]:
    leaves = [t.detach().requires_grad_() for t in (h, weight)]
    losses = loss(*leaves, targets)
    return [t.double() for t in (losses.detach(), *torch.autograd.grad(losses.mean(), leaves))]


def errors() -> dict[str, dict[str, float]]:
    """Of a token's loss in nats, the largest; of gradients the largest as a share of the largest element."""
    torch.manual_seed(0)
    h, weight, targets = torch.randn(256, 256), torch.randn(2000, 256) / 16, torch.randint(0, 2000, (256,))
    wanted = differences(h.double(), weight.double(), targets, every_of_torch)
    chosen = native.isa()
    found: dict[str, dict[str, float]] = {}
    for name, loss in (("highest", every), ("high", every), ("medium", every), ("torch bfloat16", every_of_torch)):
        if name == "high" and chosen != "amx" and native.has_isa("amx_emulated"):
            native.use_isa("amx_emulated")
        torch.set_float32_matmul_precision(name if loss is every else "highest")
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=loss is every_of_torch):
            got = differences(h, weight, targets, loss)
        native.use_isa(chosen)
        off = [(one - other).abs().max().item() for one, other in zip(got, wanted, strict=True)]
        shares = (error / other.abs().max().item() for error, other in zip(off[1:], wanted[1:], strict=True))
        found[name] = dict(zip(("loss", "dh", "dweight"), (off[0], *shares), strict=True))
    torch.set_float32_matmul_precision("highest")
    return found


def every(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return linear_cross_entropy(h, weight, None, targets, reduction=Reduction.NONE)


def every_of_torch(h: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(h, weight), targets, reduction="none")


def peak(case: str) -> float:
    """MiB by which one pass raises the peak of a process of its own. `case` is the expression that makes the pass."""
    code = f"""
import resource, torch
import engine_softmax
torch.set_num_threads(1)
torch.nn.functional.linear(*(torch.randn(64, 64, requires_grad=True) for _ in "xw")).sum().backward()
work = engine_softmax.{case}
def status(key):
    return next(int(l.split()[1]) for l in open("/proc/self/status") if l.startswith(key)) / 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = status("VmRSS")
work()
print(status("VmHWM") - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=RESULTS.parent)
    return float(done.stdout)


def memory() -> dict[str, dict[str, float]]:
    cases = {f"fused, width {w}, vocabulary {v}, training": f"fused({{}}, {w}, {v})" for w, v in SIZES}
    cases |= {f"fused, width {w}, vocabulary {v}, inference": f"fused({{}}, {w}, {v}, False)" for w, v in SIZES[-1:]}
    cases |= {f"adaptive, width {w}, vocabulary {v}": f"adaptive({{}}, {w}, {v})" for w, v in SIZES[-1:]}
    return {name: {who: peak(case.format(who == "ours")) for who in ("ours", "rival")} for name, case in cases.items()}


def main() -> None:
    given = options(__doc__ or "")
    rows: list[Row] = []

    def add(name: str, threads: int, flops: float, make: Callable[[bool], Pass]) -> None:
        rows.append(
            row(name, threads, flops, make(True), make(False), given.seconds / 8)
        )  # five runs of the largest take 12 s

    for threads in given.threads:
        torch.set_num_threads(threads)
        for width, vocabulary in SIZES:
            flops = 2.0 * TOKENS * width * vocabulary
            name = f"width {width}, vocabulary {vocabulary}"
            add(f"fused, {name}, training", threads, 3 * flops, lambda o, w=width, v=vocabulary: fused(o, w, v))
            with torch.no_grad():
                add(f"fused, {name}, inference", threads, flops, lambda o, w=width, v=vocabulary: fused(o, w, v, False))
            add(f"adaptive, {name}", threads, 0.0, lambda o, w=width, v=vocabulary: adaptive(o, w, v))
        for tokens, width, vocabulary in WORD_MODELS:
            rows += word_model_rows(tokens, width, vocabulary, threads, given.seconds / 8)
    report("engine_softmax", "torch", given, rows)
    wrong = errors()
    for name, of in wrong.items():
        print(f"{name:16} wrong by " + ", ".join(f"{what} {error:.1e}" for what, error in of.items()))
    found = memory()
    for case, sides in found.items():
        print(f"{case:48} peak MiB: ours {sides['ours']:.0f}, rival {sides['rival']:.0f}")
    if given.write:
        path = RESULTS / "engine_softmax.json"
        path.write_text(
            json.dumps({**json.loads(path.read_text()), "peak_mib": found, "errors": wrong}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
