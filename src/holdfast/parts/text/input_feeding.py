"""The decoder with input feeding, forwards and backwards through all steps of a batch of known translations.

What `holdfast.engine.decoder.DecoderStep` computes, one step at a time, with a' the a of the step before:

    x = [embedding of the token ; a'],  s = the LSTM's output at x,  context = attention of s,
    a = tanh(Wc [context ; s] + bc)

Input feeding makes each step wait for the one before. So what need not wait is left out of the loop: the embeddings'
part of W x before it, the gradients of all weights behind it, each one product over all steps. A graph of single steps
would add up megabytes of weight gradients once per step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from holdfast.engine import Weights

from .attention import Source, attend


class Masks(NamedTuple):
    """What is left out while training, zero or 1 / (1 - share); None: nothing."""

    between: Tensor | None  # [layers - 1, batch, hidden]: of the input of every layer but the first
    combined: Tensor | None  # [steps, batch, combined]: of a, as it is given out and as it is fed


class Combine(NamedTuple):
    """The layer that makes a."""

    weight: Tensor  # Wc [combined, remembered + hidden]
    bias: Tensor  # bc [combined]


def feed_input(
    embedded: Tensor,
    layers: Sequence[Weights],
    combine: Combine,
    source: Source,
    state: tuple[Tensor, Tensor],
    masks: Masks,
) -> Tensor:
    """a of every step [steps, batch, combined], dropped as the masks say.

    Args:
        embedded: [steps, batch, E], the words before each step.
        layers: plain LSTM layers with biases; the first over [embedding ; a'].
        combine: Wc and bc.
        source: what is attended to.
        state: h and c before the first step, each [layers, batch, hidden].
        masks: dropout.
    """
    first = layers[0]
    assert first.input is not None
    width = embedded.shape[2]
    hoisted = torch.nn.functional.linear(embedded, first.input[:, :width], first.bias)  # [steps, batch, 4 * hidden]
    flat: list[Any] = [first.recurrent]
    for layer in layers[1:]:
        flat += [layer.input, layer.recurrent, layer.bias]
    fixed = (masks.between, masks.combined, source.outside, hoisted, first.input[:, width:])
    return InputFeeding.apply(*fixed, *combine, source.keys, source.values, *state, len(layers), *flat)  # pyright: ignore


class Layer(NamedTuple):
    """One LSTM layer of the loop; of the first one the input's part is known before the loop."""

    input: Tensor | None
    recurrent: Tensor
    bias: Tensor | None


def layers_of(flat: Sequence[Tensor]) -> list[Layer]:
    above = [Layer(*flat[at : at + 3]) for at in range(1, len(flat), 3)]
    return [Layer(None, flat[0], None), *above]


@dataclass
class Tape:
    """What the forward pass leaves for the backward one."""

    gates: Tensor  # [layers, steps, batch, 4 * hidden], after their activations
    h: Tensor  # [layers, steps + 1, batch, hidden], the first before all steps
    c: Tensor
    joined: Tensor  # [steps, batch, remembered + hidden]: context and s
    alpha: Tensor  # [steps, batch, time]
    a: Tensor  # [steps, batch, combined], before dropout
    given: Tensor  # the same behind it

    @classmethod
    def empty(cls, like: Tensor, layers: int, source: Source, combined: int) -> "Tape":
        """Room for `like` = W x [steps, batch, 4 * hidden]."""
        steps, batch, gates = like.shape
        hidden, (_, time, remembered) = gates // 4, source.values.shape
        h, c = (like.new_empty(layers, steps + 1, batch, hidden) for _ in range(2))
        a = like.new_empty(steps, batch, combined)
        return cls(
            like.new_empty(layers, steps, batch, gates),
            h,
            c,
            like.new_empty(steps, batch, remembered + hidden),
            like.new_empty(steps, batch, time),
            a,
            torch.empty_like(a),
        )


class InputFeeding(torch.autograd.Function):
    """The loop as one node of the graph."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        between, kept, outside, hoisted, fed, combine, bias, keys, values, h0, c0, count, *flat = args
        source, layers = Source(keys, values, outside), layers_of(flat)
        tape = Tape.empty(hoisted, count, source, len(bias))
        tape.h[:, 0], tape.c[:, 0] = h0, c0
        before = hoisted.new_zeros(tape.a.shape[1:])
        remembered = values.shape[2]
        for t in range(len(hoisted)):
            x = torch.addmm(hoisted[t], before, fed.T)
            for number, layer in enumerate(layers):
                if layer.input is not None and layer.bias is not None:
                    below = tape.h[number - 1, t + 1]
                    below = below if between is None else below * between[number - 1]
                    x = torch.addmm(layer.bias, below, layer.input.T)
                torch.addmm(x, tape.h[number, t], layer.recurrent.T, out=tape.gates[number, t])
                advance(tape, number, t)
            s = tape.h[-1, t + 1]
            context, alpha = attend(s.unsqueeze(1), source)
            tape.alpha[t] = alpha[:, 0]
            tape.joined[t, :, :remembered], tape.joined[t, :, remembered:] = context[:, 0], s
            a = torch.addmm(bias, tape.joined[t], combine.T, out=tape.a[t]).tanh_()
            before = tape.given[t].copy_(a) if kept is None else torch.mul(a, kept[t], out=tape.given[t])
        ctx.save_for_backward(between, kept, fed, combine, keys, values, *flat)
        ctx.tape, ctx.outside = tape, outside
        return tape.given.clone()  # the tape must outlive what a caller does in place

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        between, kept, fed, combine, keys, values, *flat = ctx.saved_tensors
        source = Source(keys, values, ctx.outside)
        back = Back.begin(ctx.tape, source)
        walk_back(back, ctx.tape, outer[0], Masks(between, kept), (fed, combine), layers_of(flat), source)
        return None, None, None, *gradients(back, ctx.tape, between, values.shape[2])


def advance(tape: Tape, number: int, t: int) -> None:
    """One layer's cell at step t: the gates' activations in place, then c and h."""
    gates, hidden = tape.gates[number, t], tape.h.shape[3]
    gates[:, : 2 * hidden].sigmoid_()
    gates[:, 2 * hidden : 3 * hidden].tanh_()
    gates[:, 3 * hidden :].sigmoid_()
    i, f, g, o = gates.split(hidden, dim=1)
    c = torch.mul(i, g, out=tape.c[number, t + 1]).addcmul_(f, tape.c[number, t])
    torch.tanh(c, out=tape.h[number, t + 1]).mul_(o)


@dataclass
class Back:
    """Gradients with respect to what the steps computed, from which those of the weights are made at the end."""

    gates: Tensor  # [layers, steps, batch, 4 * hidden], before their activations
    a: Tensor  # [steps, batch, combined], before the tanh
    scores: Tensor  # [steps, batch, time]
    context: Tensor  # [steps, batch, remembered]
    h: list[Tensor]  # of each layer [batch, hidden], at the step that is walked back over
    c: list[Tensor]

    @classmethod
    def begin(cls, tape: Tape, source: Source) -> "Back":
        layers, _, batch, hidden = tape.h.shape
        context = tape.a.new_empty(*tape.a.shape[:2], source.values.shape[2])
        zeros = [tape.h.new_zeros(batch, hidden) for _ in range(2 * layers)]
        gates, a, scores = (torch.empty_like(t) for t in (tape.gates, tape.a, tape.alpha))
        return cls(gates, a, scores, context, zeros[:layers], zeros[layers:])


def walk_back(
    back: Back,
    tape: Tape,
    outer: Tensor,
    masks: Masks,
    matrices: tuple[Tensor, Tensor],
    layers: Sequence[Layer],
    source: Source,
) -> None:
    """From the last step to the first."""
    (fed, combine), remembered = matrices, source.values.shape[2]
    d_fed = torch.zeros_like(outer[0])
    for t in reversed(range(len(outer))):
        d_a = outer[t] + d_fed
        d_a = d_a if masks.combined is None else d_a * masks.combined[t]
        torch.addcmul(d_a, d_a * tape.a[t], tape.a[t], value=-1, out=back.a[t])  # tanh' = 1 - a^2
        d_joined = back.a[t] @ combine
        back.context[t] = d_joined[:, :remembered]
        d_alpha = torch.bmm(source.values, back.context[t].unsqueeze(2))[:, :, 0]
        weighed = tape.alpha[t] * d_alpha
        torch.addcmul(weighed, tape.alpha[t], weighed.sum(1, keepdim=True), value=-1, out=back.scores[t])
        back.h[-1] += d_joined[:, remembered:]
        back.h[-1] += torch.bmm(back.scores[t].unsqueeze(1), source.keys)[:, 0]
        for number in reversed(range(len(layers))):
            retreat(back, tape, number, t)
            d_gates, layer = back.gates[number, t], layers[number]
            back.h[number] = d_gates @ layer.recurrent
            if layer.input is not None:
                below = d_gates @ layer.input
                back.h[number - 1] += below if masks.between is None else below * masks.between[number - 1]
        d_fed = back.gates[0, t] @ fed


def retreat(back: Back, tape: Tape, number: int, t: int) -> None:
    """One layer's cell at step t, backwards: the gates' gradient, and c's one step before."""
    hidden = tape.h.shape[3]
    i, f, g, o = tape.gates[number, t].split(hidden, dim=1)
    d_i, d_f, d_g, d_o = back.gates[number, t].split(hidden, dim=1)
    shown = tape.c[number, t + 1].tanh()
    d_h = back.h[number]
    torch.mul(d_h * shown, o - o * o, out=d_o)
    d_c = back.c[number].addcmul_(d_h * o, 1 - shown * shown)
    torch.mul(d_c * g, i - i * i, out=d_i)
    torch.mul(d_c * tape.c[number, t], f - f * f, out=d_f)
    torch.mul(d_c * i, 1 - g * g, out=d_g)
    back.c[number] = d_c.mul_(f)


def gradients(back: Back, tape: Tape, between: Tensor | None, remembered: int) -> list[Tensor | None]:
    """Those of `hoisted` and all that follows it among the arguments: one product over all steps each."""

    def product(d: Tensor, x: Tensor) -> Tensor:
        return d.flatten(0, 1).T @ x.flatten(0, 1)

    s = tape.joined[:, :, remembered:]
    found: list[Tensor | None] = [back.gates[0], product(back.gates[0, 1:], tape.given[:-1])]
    found += [product(back.a, tape.joined), back.a.sum((0, 1))]
    found.append(torch.bmm(back.scores.permute(1, 2, 0), s.transpose(0, 1)))  # keys
    found.append(torch.bmm(tape.alpha.permute(1, 2, 0), back.context.transpose(0, 1)))  # values
    found += [torch.stack(back.h), torch.stack(back.c), None]
    found.append(product(back.gates[0], tape.h[0, :-1]))
    for number in range(1, len(tape.gates)):
        below = tape.h[number - 1, 1:]
        below = below if between is None else below * between[number - 1]
        found += [product(back.gates[number], x) for x in (below, tape.h[number, :-1])]
        found.append(back.gates[number].sum((0, 1)))
    return found
