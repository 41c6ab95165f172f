"""One layer in one direction on a GPU: the loop over the steps, a product and a kernel in each, large products outside.

    forwards     W x + b of all steps in one product; then per step R h' by torch and the cell by a kernel
    backwards    per step the cell's gradient by a kernel and its product with R; then dW, dR and dx in one product each

So LMNT's haste is organised, and cuDNN was (Appleyard et al., "Optimizing Performance of Recurrent Neural Networks on
GPUs", 2016). Kept for the backward pass: the gates as they act and the states, 4 + 2 numbers per unit and step.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..cells import State, Variant, Weights, Zoneout, mixed, seed_number
from .exponential import exponential_backward, exponential_forward
from .pointwise import BLOCK
from .sigmoid import sigmoid_backward, sigmoid_forward


@dataclass(frozen=True)
class Call:
    """What goes in, known to fit. `lengths` are on the CPU."""

    x: Tensor  # [time, batch, features]
    weights: Weights
    h0: Tensor | None  # [batch, width of h]
    c0: Tensor | None  # [batch, hidden], of the exponential cell [3, batch, hidden]
    lengths: Tensor | None
    reverse: bool
    variant: Variant

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """Steps, rows, units."""
        return self.x.shape[0], self.x.shape[1], self.weights.recurrent.shape[0] // 4

    @cached_property
    def memory(self) -> tuple[int, ...]:
        """The shape of c."""
        return (3, *self.sizes[1:]) if self.variant.exponential else self.sizes[1:]

    @cached_property
    def times(self) -> list[int]:
        """The steps, in the order in which they run; of nobody there are none."""
        steps = range(self.sizes[0] if self.sizes[1] else 0)
        return list(reversed(steps)) if self.reverse else list(steps)

    @cached_property
    def ends(self) -> Tensor | None:
        """The lengths where the kernels are."""
        return None if self.lengths is None else self.lengths.to(self.x.device).contiguous()

    @cached_property
    def runs(self) -> Tensor | None:
        """Where a row has a step, bool [time, batch, 1]."""
        if self.ends is None:
            return None
        return (torch.arange(self.sizes[0], device=self.x.device).unsqueeze(1) < self.ends).unsqueeze(-1)

    @cached_property
    def grid(self) -> tuple[int]:
        return (-(-self.sizes[1] * self.sizes[2] // BLOCK),)

    @cached_property
    def draw(self) -> tuple[int, int, float, float]:
        """start, high, keep_h and keep_c of pointwise.keeps."""
        return draw_of(self.variant.zoneout)

    @cached_property
    def sigmoid_options(self) -> dict[str, bool]:
        """What the kernels of the sigmoid cell are compiled for."""
        zoneout = self.variant.zoneout
        return {
            "coupled": self.variant.coupled,
            "zoneout": bool(zoneout.h or zoneout.c),
            "drawn": zoneout.seed is not None,
            "reverse": self.reverse,
        }

    def on_device(self) -> AbstractContextManager[Any]:
        """Triton launches on the current device, whatever device its tensors are on."""
        return torch.cuda.device(self.x.device) if self.x.is_cuda else nullcontext()


def draw_of(zoneout: Zoneout) -> tuple[int, int, float, float]:
    if zoneout.seed is None:
        return 0, 0, zoneout.h, zoneout.c
    seed = seed_number(zoneout.seed)
    start = int(mixed(torch.tensor((seed + 0x9E3779B9) & 0xFFFFFFFF)))
    of_h, of_c = (torch.tensor([zoneout.h, zoneout.c]) * 2**24).long().tolist()  # of float32, as cells.zoneout_masks
    return signed(start), signed(seed >> 32), float(of_h), float(of_c)


def signed(word: int) -> int:
    """The same 32 bits with a sign. Else a kernel would be compiled for large words and another for small ones."""
    return word - 2**32 if word >= 2**31 else word


class Kept(NamedTuple):
    """What the backward pass needs."""

    gates: Tensor  # float32 [time, batch, 4 * hidden], see pointwise.py
    h: Tensor  # [steps + 1, batch, width of h]: before the first step and after each, in the order in which they run
    c: Tensor  # float32 [steps + 1, batch, hidden], or [steps + 1, 3, batch, hidden]
    shown: Tensor | None  # [time, batch, hidden]: what a projection sees


def forward(call: Call, keep: bool) -> tuple[Tensor, State, Kept]:
    """y, the state after each row's last step, and, where `keep`, what `backward` needs."""
    with call.on_device():
        (steps, batch, hidden), width = call.sizes, call.weights.recurrent.shape[1]
        x, mask, p = call.x, call.variant.h_mask, call.weights.projection
        borders = steps + 1 if keep else 1
        shown = None if p is None else x.new_empty((steps, batch, hidden))
        kept = Kept(
            input_sums(call),
            x.new_empty((borders, batch, width)),
            x.new_empty((borders, *call.memory), dtype=torch.float32),
            shown,
        )
        for now, before in ((kept.h, call.h0), (kept.c, call.c0)):
            now[0] = 0 if before is None else before
        y = x.new_empty((steps, batch, width))
        recurrent = x.new_empty((batch, 4 * hidden))
        seen = None if mask is None else kept.h[0] * mask
        for s, t in enumerate(call.times):
            place = s if keep else 0
            torch.mm(kept.h[place] if seen is None else seen, call.weights.recurrent.T, out=recurrent)
            launch_forward(call, kept, (recurrent, seen, y), (t, s), keep)
            if shown is not None:
                project(call, kept, (shown[t], seen, y), t, place, place + keep)
        c = kept.c[-1].to(x.dtype, copy=True)
        return y, State(kept.h[-1].clone(), c), kept


def input_sums(call: Call) -> Tensor:
    """W x + b in float32 [time, batch, 4 * hidden], in memory that is ours: the gates replace it."""
    w, bias = call.weights.input, call.weights.bias
    if w is None:
        sums = call.x.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        return sums if bias is None else sums.add_(bias)
    flat = call.x.reshape(-1, call.x.shape[2])
    sums = flat @ w.T if bias is None else torch.addmm(bias, flat, w.T)
    return sums.view(*call.x.shape[:2], sums.shape[1]).float()


def launch_forward(
    call: Call, kept: Kept, moving: tuple[Tensor, Tensor | None, Tensor], step: tuple[int, int], keep: bool
) -> None:
    """The cell at one step, from R h' to what it shows."""
    launch: Any  # the types of a kernel's arguments are Triton's, not Python's
    recurrent, seen, y = moving
    _, batch, hidden = call.sizes
    h, mask = kept.h, call.variant.h_mask
    if kept.shown is not None:
        h, mask, seen, y = None, None, None, kept.shown
    if call.variant.exponential:
        tensors = kept.gates, recurrent, h, kept.c, y, seen, mask, call.ends
        launch = exponential_forward[call.grid]
        launch(*tensors, batch, hidden, *step, keep=keep, block=BLOCK)
    else:
        tensors = kept.gates, recurrent, h, kept.c, y, seen, call.weights.peephole, mask, call.ends
        options = call.sigmoid_options
        launch = sigmoid_forward[call.grid]
        launch(*tensors, batch, hidden, *step, *call.draw, **options, keep=keep, block=BLOCK)


def project(
    call: Call, kept: Kept, moving: tuple[Tensor, Tensor | None, Tensor], t: int, before: int, after: int
) -> None:
    """h = P shown, where a row has a step."""
    shown, seen, y = moving
    assert call.weights.projection is not None
    torch.mm(shown, call.weights.projection.T, out=y[t])  # zero where a row has no step, for there it shows nothing
    if call.runs is None:
        kept.h[after] = y[t]
    else:
        torch.where(call.runs[t], y[t], kept.h[before], out=kept.h[after])
    if seen is not None and call.variant.h_mask is not None:
        torch.mul(kept.h[after], call.variant.h_mask, out=seen)


class Gradients(NamedTuple):
    """Those of everything that went in."""

    x: Tensor | None
    h0: Tensor
    c0: Tensor
    weights: Weights


class Flow(NamedTuple):
    """What moves from step to step on the way back."""

    h: Tensor  # float32 [batch, width of h]: what reaches h past R
    c: Tensor  # float32, like c
    product: Tensor  # [batch, width of h]: what reaches h through R, but for the mask
    gates: Tensor  # [time, batch, 4 * hidden]: of the sums
    peephole: Tensor | None  # float32 [batch, 3 * hidden]
    h_made: Tensor | None  # [time, batch, width of h]: of what a projection made


def backward(
    call: Call, kept: Kept, outer: tuple[Tensor | None, Tensor | None, Tensor | None], need_x: bool
) -> Gradients:
    """Gradients, given those of y, h and c (None is zero)."""
    with call.on_device():
        dy = None if outer[0] is None else outer[0].contiguous()
        flow = begin(call, kept, outer)
        for s, t in reversed(list(enumerate(call.times))):
            if kept.shown is None:
                launch_backward(call, kept, flow, dy, (t, s))
            else:
                pull_through_projection(call, kept, flow, dy, (t, s))
            torch.mm(flow.gates[t], call.weights.recurrent, out=flow.product)
        mask = call.variant.h_mask
        dh0 = flow.h + (flow.product if mask is None else flow.product * mask)
        x = call.x
        dx = None
        if need_x:
            w = call.weights.input
            dx = flow.gates if w is None else (flow.gates.flatten(0, 1) @ w).view(x.shape)
        return Gradients(dx, dh0.to(x.dtype), flow.c.to(x.dtype), weight_gradients(call, kept, flow))


def begin(call: Call, kept: Kept, outer: tuple[Tensor | None, ...]) -> Flow:
    """Behind the last step."""

    def start(given: Tensor | None, shape: torch.Size) -> Tensor:
        zero = call.x.new_zeros(shape, dtype=torch.float32)
        return zero if given is None else zero.copy_(given)

    _, batch, hidden = call.sizes
    h, peephole = kept.h[0].shape, call.weights.peephole
    return Flow(
        start(outer[1], h),
        start(outer[2], kept.c[0].shape),
        call.x.new_zeros(h),
        call.x.new_empty(kept.gates.shape),
        None if peephole is None else call.x.new_zeros((batch, 3 * hidden), dtype=torch.float32),
        None if kept.shown is None else call.x.new_empty((call.sizes[0], *h)),
    )


def launch_backward(call: Call, kept: Kept, flow: Flow, dy: Tensor | None, step: tuple[int, int]) -> None:
    """The cell's gradient at one step."""
    launch: Any
    _, batch, hidden = call.sizes
    mask = call.variant.h_mask if kept.shown is None else None
    moving = flow.product, flow.h, flow.c, flow.gates
    if call.variant.exponential:
        tensors = kept.gates, kept.c, dy, *moving, mask, call.ends
        launch = exponential_backward[call.grid]
        launch(*tensors, batch, hidden, *step, block=BLOCK)
    else:
        tensors = kept.gates, kept.c, dy, *moving, flow.peephole, call.weights.peephole, mask, call.ends
        options = call.sigmoid_options
        launch = sigmoid_backward[call.grid]
        launch(*tensors, batch, hidden, *step, *call.draw, **options, block=BLOCK)


def pull_through_projection(call: Call, kept: Kept, flow: Flow, dy: Tensor | None, step: tuple[int, int]) -> None:
    """The same where h = P shown: the kernel gets what reaches `shown` and nothing else."""
    assert call.weights.projection is not None and flow.h_made is not None
    t, mask = step[0], call.variant.h_mask
    flow.h.add_(flow.product if mask is None else flow.product * mask)
    total = flow.h if dy is None else flow.h + dy[t]
    if call.runs is None:
        flow.h_made[t] = total
        flow.h.zero_()
    else:
        flow.h_made[t] = torch.where(call.runs[t], total, 0)
        flow.h.masked_fill_(call.runs[t], 0)
    shown = torch.mm(flow.h_made[t], call.weights.projection)  # [batch, hidden]
    inner = flow._replace(product=shown, h=torch.zeros_like(shown, dtype=torch.float32))
    launch_backward(call, kept, inner, None, step)


def weight_gradients(call: Call, kept: Kept, flow: Flow) -> Weights:
    """One product over all row-steps each. Where a row has no step its gates have no gradient."""
    flat = flow.gates.flatten(0, 1).T  # [4 * hidden, time * batch]
    seen = kept.h[:-1] if call.variant.h_mask is None else kept.h[:-1] * call.variant.h_mask
    if call.reverse:
        seen = seen.flip(0)
    x = call.x if call.runs is None else torch.where(call.runs, call.x, 0)  # 0 * NaN would reach the weights
    w, _, bias, p, peephole, *_ = call.weights
    dp = None
    if p is not None and kept.shown is not None and flow.h_made is not None:
        dp = flow.h_made.flatten(0, 1).T @ kept.shown.flatten(0, 1)
    return Weights(
        None if w is None else flat @ x.reshape(-1, x.shape[2]),
        flat @ seen.flatten(0, 1),
        None if bias is None else flow.gates.sum((0, 1), dtype=torch.float32).to(bias.dtype),
        dp,
        None if peephole is None or flow.peephole is None else flow.peephole.sum(0).to(peephole.dtype),
    )
