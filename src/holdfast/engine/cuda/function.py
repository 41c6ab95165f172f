"""The Triton kernels as one node of autograd's graph, with everything checked before an address is used."""

from typing import Any

import torch
from torch import Tensor

from ..backend import tangents_are_possible
from ..cells import State, Variant, Weights
from ..reference import lstm_packed
from ..second_order import pull_back
from .layer import Call, Kept, backward, forward
from .pointwise import BLOCK

_NOT_TENSORS = 3  # arguments of TritonLSTM before the first that may have a gradient


def lstm(
    x: Tensor,
    weights: Weights,
    state: State | tuple[Tensor, Tensor] | None,
    *,
    lengths: Tensor | None,
    reverse: bool = False,
    variant: Variant,
) -> tuple[Tensor, State]:
    """One layer in one direction; arguments as for `holdfast.lstm`, x also packed.

    Under autocast factors of products, y and the state have autocast's dtype; sums, gates and c are float32 in any
    case.
    """
    if x.dim() == 2 and lengths is not None:
        before = None if state is None else State(*state)
        return lstm_packed(x, weights, before, lengths=lengths, reverse=reverse, variant=variant, padded=lstm)
    h0, c0 = (None, None) if state is None else state
    device = x.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, h0 = x.to(dtype), None if h0 is None else h0.to(dtype)
        weights = Weights(*(None if t is None else t.to(dtype) for t in weights))  # pyright: ignore[reportArgumentType]
    if weights.peephole is not None:
        weights = weights._replace(peephole=weights.peephole.contiguous())
    if variant.h_mask is not None:
        variant = variant._replace(h_mask=variant.h_mask.to(x.dtype).contiguous())
    with torch.autocast(device, enabled=False):
        return checked(x, weights, (h0, c0), lengths, reverse, variant)


def checked(
    x: Tensor,
    weights: Weights,
    before: tuple[Tensor | None, Tensor | None],
    lengths: Tensor | None,
    reverse: bool,
    variant: Variant,
) -> tuple[Tensor, State]:
    """`lstm` in one dtype, with autograd where a gradient will be asked for."""
    call = Call(x, weights, *before, lengths, reverse, variant)
    check(call)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *before, *weights)):
        y, h, c = TritonLSTM.apply(lengths, reverse, variant.settled(), x, *before, *weights)
        return y, State(h, c)
    with torch.no_grad():
        y, last, _ = forward(call, keep=False)
    return y, last


def check(call: Call) -> None:
    """Raise ValueError where a kernel would read what is not there, or the cell has no meaning."""
    (_, batch, hidden), width = call.sizes, call.weights.recurrent.shape[1]
    w, variant = call.weights, call.variant
    wanted = (
        ("x", call.x, call.x.shape if w.input is not None else (*call.x.shape[:2], 4 * hidden)),
        ("w_input", w.input, (4 * hidden, call.x.shape[2])),
        ("w_recurrent", w.recurrent, (4 * hidden, width if w.projection is not None else hidden)),
        ("bias", w.bias, (4 * hidden,)),
        ("projection", w.projection, (width, hidden)),
        ("peephole", w.peephole, (3 * hidden,)),
        ("h0", call.h0, (batch, width)),
        ("c0", call.c0, call.memory),
        ("h_mask", variant.h_mask, (batch, width)),
    )
    for name, tensor, shape in wanted:
        if tensor is not None and (tensor.shape != shape or tensor.device != call.x.device):
            raise ValueError(
                f"{name} came with shape {list(tensor.shape)} on {tensor.device}; "
                f"expected {list(shape)} on {call.x.device}"
            )
    if batch * hidden >= 2**31 - BLOCK:
        raise ValueError(f"{batch} rows of {hidden} units are too many for one call on a GPU: split the batch")
    zoneout = variant.zoneout
    if not (0 <= zoneout.h <= 1 and 0 <= zoneout.c <= 1):
        raise ValueError(f"zoneout's probabilities lie between 0 and 1, not {zoneout.h} and {zoneout.c}")
    if variant.exponential and (variant.coupled or w.peephole is not None or zoneout.h or zoneout.c):
        raise ValueError("the exponential cell has no peepholes, no coupled gates and no zoneout")
    if w.projection is not None and zoneout.h:
        raise ValueError("zoneout of h does not go with a projection; that of c does")


class TritonLSTM(torch.autograd.Function):
    """A layer's forward and backward pass."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        lengths, reverse, variant, x, h0, c0, *weights = args
        y, last, kept = forward(Call(x, Weights(*weights), h0, c0, lengths, reverse, variant), keep=True)
        ctx.save_for_backward(lengths, variant.h_mask, *kept, x, h0, c0, *weights)
        ctx.set_materialize_grads(False)  # a gradient nobody asked for stays None and costs nothing
        ctx.reverse, ctx.variant = reverse, variant
        return y, last.h, last.c

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        lengths, mask = saved[:2]
        first = 2 + len(Kept._fields)
        kept, inputs = Kept(*saved[2:first]), saved[first:]
        variant = ctx.variant._replace(h_mask=mask)  # saved, so that autograd notices when it is changed meanwhile
        wanted = ctx.needs_input_grad[_NOT_TENSORS:]
        if torch.is_grad_enabled() or tangents_are_possible():  # the gradient must itself be differentiable
            flat = pull_back(grads, inputs, lengths, ctx.reverse, variant)
        else:
            x, h0, c0, *weights = inputs
            call = Call(x, Weights(*weights), h0, c0, lengths, ctx.reverse, variant)
            found = backward(call, kept, (grads[0], grads[1], grads[2]), wanted[0])
            flat = (found.x, found.h0, found.c0, *found.weights)
        return *(None,) * _NOT_TENSORS, *(d if want else None for d, want in zip(flat, wanted, strict=True))
