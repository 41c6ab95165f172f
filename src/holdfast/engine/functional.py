"""The one front door: a pure function that checks its arguments, chooses a backend and calls it."""

from typing import Any

import torch
from torch import Tensor

from . import derivatives, native, operator, reference, second_order
from .backend import OPERATOR, OPERATOR_BFLOAT16, Choice, choose, count, tangents_are_possible
from .bfloat16 import wide, wide_state, wide_weights
from .cells import PLAIN, State, Variant, Weights
from .reference import zero_state
from .second_order import pull_back


def lstm(
    x: Tensor,
    weights: Weights,
    state: State | tuple[Tensor, Tensor] | None = None,
    *,
    lengths: Tensor | None = None,
    reverse: bool = False,
    variant: Variant = PLAIN,
) -> tuple[Tensor, State]:
    """Run one LSTM layer in one direction over a batch of sequences.

    Drop-connect, weight tying and the like are callers of this function: they hand in the weights they want.

    Args:
        x: [time, batch, features], any strides.
        weights: W [4 * hidden, features], R [4 * hidden, hidden], the bias [4 * hidden] or None, and what a variant has
            more, see `Weights`; rows in gate order i, f, g, o.
        state: (h, c), each [batch, hidden]; zeros where it is None.
        lengths: [batch] int64 on the CPU: how many steps each row really has, in any order, 0 allowed. Past a row's
            length x is never read and y is zero.
        reverse: run every row from its own last step to its first.
        variant: what makes the cell another than the plain one, beside its weights.

    Returns:
        y [time, batch, hidden], or with a projection as wide as that, and the state after each row's own last step. In
        bfloat16 or under autocast all three are bfloat16; what lies between them and the input is float32.

    Raises:
        ValueError: a shape or a length does not fit; the message says which.
    """
    check(x, weights, lengths)
    choice = choose(x, weights, lengths, variant)
    # Of a compiler's stand-in nobody knows the numbers yet.
    if lengths is not None and choice is not OPERATOR and choice is not OPERATOR_BFLOAT16:
        check_numbers(lengths, x.shape[0])
    count(choice)
    return run_between_doors(choice, x, weights, state, lengths, reverse, variant)


def run_between_doors(
    choice: Choice,
    x: Tensor,
    weights: Weights,
    state: State | tuple[Tensor, Tensor] | None,
    lengths: Tensor | None,
    reverse: bool,
    variant: Variant,
) -> tuple[Tensor, State]:
    """`run`, of a call in bfloat16 on tensors widened to float32; what comes out is rounded again."""
    if not choice.bfloat16:
        return run(choice, x, weights, state, lengths, reverse, variant)
    if variant.h_mask is not None:
        variant = variant._replace(h_mask=wide(variant.h_mask))
    y, (h, c) = run(choice, wide(x), wide_weights(weights), wide_state(state), lengths, reverse, variant)
    return y.bfloat16(), State(h.bfloat16(), c.bfloat16())


def run(
    choice: Choice,
    x: Tensor,
    weights: Weights,
    state: State | tuple[Tensor, Tensor] | None,
    lengths: Tensor | None,
    reverse: bool,
    variant: Variant = PLAIN,
) -> tuple[Tensor, State]:
    """`lstm` where the arguments are known to fit and the backend is chosen; all but torch's also take x packed.

    What is computed in bfloat16 comes and goes in float32.
    """
    if choice is OPERATOR or choice is OPERATOR_BFLOAT16:
        call = operator.call_of(x, weights, state, lengths, reverse, variant, choice.bfloat16)
        y, h, c = derivatives.lstm(*call)
        return y, State(h, c)
    if choice.backend == "native":
        return run_native(x, weights, state, lengths, reverse, variant, choice.bfloat16)
    before = None if state is None else State(*state)
    if choice.backend == "torch":
        return run_torch(x, weights, before or zero_state(x, weights), reverse)
    if choice.backend == "triton":
        from .cuda.function import lstm as run_triton  # imports triton, which few calls need and few machines have

        return run_triton(x, weights, before, lengths=lengths, reverse=reverse, variant=variant)
    if choice.bfloat16:  # in float32 although autocast is on
        h0, c0 = (None, None) if before is None else before
        y, h, c = second_order.forward(x, h0, c0, weights, lengths, reverse, variant)
        return y, State(h, c)
    if x.dim() == 2 and lengths is not None:
        return reference.lstm_packed(x, weights, before, lengths=lengths, reverse=reverse, variant=variant)
    return reference.lstm(x, weights, before, lengths=lengths, reverse=reverse, variant=variant)


def lstm_packed(
    x: Tensor, weights: Weights, state: State, lengths: Tensor, variant: Variant = PLAIN
) -> tuple[Tensor, State]:
    """`lstm` over rows as torch's PackedSequence has them: x [sum of lengths, features], y [sum of lengths, width].

    Step by step the rows still running, in the order of falling length. State and lengths are by row.
    """
    choice = choose(x, weights, lengths, variant)
    count(choice)
    return run_between_doors(choice, x, weights, state, lengths, False, variant)


def check(x: Tensor, weights: Weights, lengths: Tensor | None) -> None:
    """Raise ValueError where the arguments do not fit each other."""
    if x.dim() != 3:
        raise ValueError(f"x must be [time, batch, features], not {list(x.shape)}")
    wanted = weights.recurrent.shape[0] if weights.input is None else weights.input.shape[1]
    if x.shape[2] != wanted:
        raise ValueError(f"x has {x.shape[2]} features at {list(x.shape)}; these weights were made for {wanted}")
    if lengths is not None:
        check_lengths(lengths, x)


def check_lengths(lengths: Tensor, x: Tensor) -> None:
    """Raise ValueError where these are no lengths for x [time, batch, ...]."""
    if not isinstance(lengths, Tensor):  # pyright: ignore[reportUnnecessaryIsInstance]  users do
        raise ValueError(f"lengths must be an int64 tensor [batch], not a {type(lengths).__name__}")
    if lengths.dtype != torch.int64 or lengths.shape != x.shape[1:2] or lengths.device.type != "cpu":
        raise ValueError(
            f"lengths must be int64 [batch {x.shape[1]}] on the CPU, not {lengths.dtype} {list(lengths.shape)}"
        )


def check_numbers(lengths: Tensor, steps: int) -> None:
    """Raise ValueError where a row would be shorter than nothing or longer than x."""
    if lengths.numel() and not 0 <= int(lengths.min()) <= int(lengths.max()) <= steps:
        raise ValueError(f"lengths must lie between 0 and {steps}: {lengths.tolist()}")


def run_native(
    x: Tensor,
    weights: Weights,
    state: State | tuple[Tensor, Tensor] | None,
    lengths: Tensor | None,
    reverse: bool,
    variant: Variant,
    bfloat16: bool = False,
) -> tuple[Tensor, State]:
    """The C++ kernels, with autograd where a gradient will be asked for.

    x [time, batch, features]; or packed as in torch's PackedSequence, [sum of lengths, features], and so is then y.
    """
    h0, c0 = (None, None) if state is None else state
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *weights, h0, c0)):
        y, h, c = NativeLSTM.apply(lengths, reverse, variant.settled(), bfloat16, x, h0, c0, *weights)
    else:
        y, h, c, _ = native.forward(
            x, weights, h0, c0, lengths, reverse=reverse, keep=False, variant=variant, bfloat16=bfloat16
        )
    return y, State(h, c)


class NativeLSTM(torch.autograd.Function):
    """The kernels as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
        lengths, reverse, variant, bfloat16, x, h0, c0, *weights = args
        y, h, c, kept = native.forward(
            x, Weights(*weights), h0, c0, lengths, reverse=reverse, keep=True, variant=variant, bfloat16=bfloat16
        )
        ctx.save_for_backward(x, h0, c0, *weights, lengths, variant.h_mask, y, kept)
        ctx.set_materialize_grads(False)  # a gradient nobody asked for stays None and costs nothing
        ctx.reverse, ctx.variant, ctx.bfloat16 = reverse, variant, bfloat16
        return y, h, c

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *inputs, lengths, mask, y, kept = ctx.saved_tensors
        variant = ctx.variant._replace(h_mask=mask)  # saved, so that autograd notices when it is changed meanwhile
        x, h0, c0, *weights = inputs
        wanted = ctx.needs_input_grad[NOT_TENSORS:]
        if torch.is_grad_enabled() or tangents_are_possible():  # the gradient must itself be differentiable
            flat = pull_back(grads, inputs, lengths, ctx.reverse, variant)
            return *(None,) * NOT_TENSORS, *(d if want else None for d, want in zip(flat, wanted, strict=True))
        found = native.backward(
            (grads[0], grads[1], grads[2]),
            x,
            Weights(*weights),
            h0,
            c0,
            lengths,
            y,
            kept,
            reverse=ctx.reverse,
            need_x=wanted[0],
            variant=variant,
            bfloat16=ctx.bfloat16,
        )
        flat = (found.x, found.h0, found.c0, *found.weights)
        return *(None,) * NOT_TENSORS, *(d if want else None for d, want in zip(flat, wanted, strict=True))


NOT_TENSORS = 4  # arguments of NativeLSTM before the first that may have a gradient


def run_torch(x: Tensor, weights: Weights, state: State, reverse: bool) -> tuple[Tensor, State]:
    """torch's own operator, for one layer and direction. Backwards in time is forwards on the flipped sequence."""
    w, r, b, p, *_ = weights
    flat = [w, r]
    if b is not None:
        flat += [b, torch.zeros_like(b)]  # torch wants two biases
    if p is not None:
        flat.append(p)
    x = x.flip(0) if reverse else x
    hx = [state.h.unsqueeze(0), state.c.unsqueeze(0)]
    y, h, c = torch._VF.lstm(x, hx, flat, b is not None, 1, 0.0, torch.is_grad_enabled(), False, False)  # pyright: ignore
    return (y.flip(0) if reverse else y), State(h[0], c[0])
