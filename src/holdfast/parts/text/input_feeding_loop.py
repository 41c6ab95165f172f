"""All steps of a decoder with input feeding, forwards and backwards, as one operation of autograd.

Step by step autograd would make a gradient of every weight, key and value at each step and add them up: megabytes read
and written per step for what is one large product after the last. So only what must wait for the step before is in the
loops, everything else behind them; and weights are packed for all steps. The equations are those of `input_feeding`.
"""

from typing import Any, NamedTuple, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from holdfast.engine.packed_matrix import PackedMatrix

from .attention import Source, attend, attend_backward

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward


class Layer(NamedTuple):
    """One plain LSTM layer. What enters is a' or the masked h of the layer below, and beside it its own h'."""

    weight: Tensor  # [W | R] [4 * hidden, below + hidden], rows i f g o
    bias: Tensor  # [4 * hidden]; of the first layer [steps, batch, 4 * hidden], what a step's words add to its sums
    h: Tensor  # [batch, hidden] before the first step
    c: Tensor


class Fixed(NamedTuple):
    """What a loop takes as given: no gradient leads there."""

    outside: Tensor  # [batch, time] bool, of the source
    between: Tensor | None  # dropout's masks: `input_feeding.Masks`
    combined: Tensor | None


@final
class LayerLoop:
    """One layer through all steps, and what they leave for the way back."""

    def __init__(self, layer: Layer, steps: int) -> None:
        (batch, hidden), (gates, width) = layer.h.shape, layer.weight.shape
        self.layer, self.below = layer, width - hidden
        self.weight = PackedMatrix(layer.weight.T)
        self.entered = layer.weight.new_empty(steps + 1, batch, width)  # nobody reads the last
        self.gates = layer.weight.new_empty(steps, batch, gates)  # activated; on the way back the sums' gradients
        self.c = layer.weight.new_empty(steps + 1, batch, hidden)  # before each step, and after the last
        self.squashed = layer.weight.new_empty(steps, batch, hidden)  # tanh(c)
        self.entered[0, :, self.below :], self.c[0] = layer.h, layer.c
        self.dh = self.dc = torch.zeros_like(layer.h)  # what comes back from the step after

    def enter(self, step: int, x: Tensor) -> None:
        """What comes from below at a step."""
        self.entered[step, :, : self.below] = x

    def forward(self, step: int) -> Tensor:
        """h [batch, hidden] after a step."""
        bias = self.layer.bias
        known = bias[step] if bias.dim() == 3 else bias
        gates = self.weight.product(self.entered[step], init=known, out=self.gates[step])
        i, f, g, o = gates.chunk(4, dim=1)
        gates[:, : 2 * i.shape[1]].sigmoid_()
        g.tanh_()
        o.sigmoid_()
        c = torch.mul(f, self.c[step], out=self.c[step + 1]).addcmul_(i, g)
        h = self.entered[step + 1, :, self.below :]
        return torch.mul(o, torch.tanh(c, out=self.squashed[step]), out=h)

    def begin_backward(self) -> None:
        """The weight, for the way back."""
        self.weight = PackedMatrix(self.layer.weight)

    def backward(self, step: int, dh: Tensor) -> Tensor:
        """The gradient of what came from below at a step, from that of the h that it gave out."""
        i, f, g, o = self.gates[step].chunk(4, dim=1)
        squashed = self.squashed[step]
        dh = dh + self.dh
        dc = tanh_backward(dh * o, squashed).add_(self.dc)
        di, df, dg, do = dc * g, dc * self.c[step], dc * i, dh * squashed
        self.dc = dc.mul_(f)
        for gradient, gate in ((di, i), (df, f), (do, o)):
            sigmoid_backward.grad_input(gradient, gate, grad_input=gate)
        tanh_backward.grad_input(dg, g, grad_input=g)
        dentered = self.weight.product(self.gates[step], out=torch.empty_like(self.entered[step]))
        below, self.dh = dentered.tensor_split([self.below], dim=1)
        return below

    def gradients(self) -> tuple[Tensor, ...]:
        """Of weight, bias, h and c, after the first step's way back."""
        rows = self.gates.flatten(0, 1)
        dbias = self.gates if self.layer.bias.dim() == 3 else rows.sum(0)
        return rows.T @ self.entered[:-1].flatten(0, 1), dbias, self.dh, self.dc


@final
class LookLoop:
    """Attention, and the layer that makes a, through all steps."""

    def __init__(self, weight: Tensor, bias: Tensor, source: Source, steps: int) -> None:
        self.bias, self.source = bias, source
        self.matrix, self.weight = weight, PackedMatrix(weight.T)
        self.remembered, batch = source.values.shape[2], len(source.keys)
        self.alpha = weight.new_empty(steps, *source.outside.shape)
        self.joined = weight.new_empty(steps, batch, weight.shape[1])  # context | s
        self.a = weight.new_empty(steps, batch, len(bias))  # before dropout; on the way back its sums' gradients
        self.dscores = self.djoined = weight.new_empty(0)

    def forward(self, step: int, s: Tensor) -> Tensor:
        """a [batch, combined] of a step."""
        context, alpha = attend(s.unsqueeze(1), self.source)
        self.alpha[step] = alpha[:, 0]
        joined = torch.cat([context[:, 0], s], dim=1, out=self.joined[step])
        return self.weight.product(joined, init=self.bias, out=self.a[step]).tanh_()

    def begin_backward(self) -> None:
        """Room for what the way back leaves; and the weight for it."""
        self.weight = PackedMatrix(self.matrix)
        self.dscores, self.djoined = torch.empty_like(self.alpha), torch.empty_like(self.joined)

    def backward(self, step: int, da: Tensor) -> Tensor:
        """The gradient of s at a step."""
        dsums = tanh_backward.grad_input(da, self.a[step], grad_input=self.a[step])
        djoined = self.weight.product(dsums, out=self.djoined[step])
        dcontext, ds = djoined.tensor_split([self.remembered], dim=1)
        looking, self.dscores[step] = attend_backward(dcontext, self.alpha[step], self.source)
        return ds + looking

    def gradients(self) -> tuple[Tensor, ...]:
        """Of weight, bias, keys and values, after the first step's way back."""
        rows, s = self.a.flatten(0, 1), self.joined[..., self.remembered :]
        dkeys = torch.bmm(self.dscores.permute(1, 2, 0), s.transpose(0, 1))
        dvalues = torch.bmm(self.alpha.permute(1, 2, 0), self.djoined[..., : self.remembered].transpose(0, 1))
        return rows.T @ self.joined.flatten(0, 1), rows.sum(0), dkeys, dvalues


@final
class InputFeedingLoop(torch.autograd.Function):
    """(fixed, Wc, bc, keys, values; weight, bias, h, c of each layer) -> a [steps, batch, combined] as it is fed."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, fixed: Fixed, weight: Tensor, bias: Tensor, keys: Tensor, values: Tensor, *layers: Tensor
    ) -> Tensor:
        every = [Layer(*layers[n : n + 4]) for n in range(0, len(layers), 4)]
        steps, batch, _ = every[0].bias.shape
        look = LookLoop(weight, bias, Source(keys, values, fixed.outside), steps)
        loops = [LayerLoop(layer, steps) for layer in every]
        given = torch.empty_like(look.a)
        a = bias.new_zeros(batch, len(bias))
        for step in range(steps):
            x = a
            for number, loop in enumerate(loops):
                if number and fixed.between is not None:
                    x = x * fixed.between[number - 1]
                loop.enter(step, x)
                x = loop.forward(step)
            a = look.forward(step, x)
            a = given[step].copy_(a if fixed.combined is None else a * fixed.combined[step])
        ctx.save_for_backward(weight, keys, values, *layers)  # the loops have them; this is so that a change is noticed
        ctx.fixed, ctx.look, ctx.loops = fixed, look, loops
        return given

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dgiven: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        assert ctx.saved_tensors  # torch refuses where one was written to since
        if ctx.look is None:
            raise RuntimeError("a second way back through the same steps: what they left is overwritten by the first")
        fixed, look, loops = ctx.fixed, ctx.look, ctx.loops
        ctx.look = ctx.loops = None
        for loop in (look, *loops):
            loop.begin_backward()
        dfed = torch.zeros_like(look.a[0])
        for step in reversed(range(len(dgiven))):
            da = dgiven[step] + dfed
            dfed = look.backward(step, da if fixed.combined is None else da * fixed.combined[step])
            for number in reversed(range(len(loops))):
                dfed = loops[number].backward(step, dfed)
                if number and fixed.between is not None:
                    dfed = dfed * fixed.between[number - 1]
        return None, *look.gradients(), *(gradient for loop in loops for gradient in loop.gradients())
