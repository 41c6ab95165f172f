"""LSTMs to be stepped, what a step must compute, and how streams are driven in the tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import holdfast
from holdfast import State, Streams
from holdfast.engine.stream import Precision
from holdfast.engine.stream_layers import Steppable

PRECISIONS: tuple[Precision, ...] = ("highest", "medium", "int8")


def make_lstm(
    features: int = 4, hidden: int = 7, layers: int = 1, projection: int = 0, bias: bool = True, seed: int = 0
) -> holdfast.LSTM:
    torch.manual_seed(seed)
    return holdfast.LSTM(features, hidden, num_layers=layers, proj_size=projection, bias=bias).eval()


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def opened(lstm: Steppable, slots: int, precision: Precision = "highest", threads: int | None = None) -> Streams:
    streams = Streams(lstm, slots, precision=precision, threads=threads)
    while slots > 1 and len(streams._closed):
        streams.open()
    return streams


def whole(lstm: nn.LSTM, x: Tensor) -> tuple[Tensor, State]:
    """The layer over whole sequences, x [time, batch, features]."""
    with torch.inference_mode():
        y, state = lstm(x)
    return y, State(*state)


def stepped(streams: Streams, x: Tensor) -> Tensor:
    """All slots through x [time, slots, features], or the only one through [time, features]."""
    return torch.stack([streams.step(at).clone() for at in x])


def alone(lstm: Steppable, precision: Precision, x: Tensor) -> Tensor:
    """One stream through x [time, features] on its own."""
    return stepped(Streams(lstm, precision=precision), x)


def scatter_states(streams: Streams, seed: int = 2) -> None:
    """States that a step may well find, all of them different."""
    h, c = streams.states()
    h.copy_(inputs(*h.shape, seed=seed) * 0.3)
    c.copy_(inputs(*c.shape, seed=seed + 1))


def bf16(t: Tensor) -> Tensor:
    return t.bfloat16().double()


def int8(t: Tensor) -> Tensor:
    """Every row to the nearest of -127..127 times its largest element."""
    scale = t.abs().amax(dim=-1, keepdim=True).double() / 127
    return torch.where(scale > 0, (t.double() / scale).round() * scale, 0.0)


def exactly(t: Tensor) -> Tensor:
    return t.double()


ROUNDED: dict[Precision, Callable[[Tensor], Tensor]] = {"highest": exactly, "medium": bf16, "int8": int8}


def step_in_double(lstm: nn.LSTM, precision: Precision, x: Tensor, before: State) -> State:
    """One step of all layers in float64, on operands rounded as the precision says. x [slots, features]."""
    rounded = ROUNDED[precision]
    hs: list[Tensor] = []
    cs: list[Tensor] = []
    for layer in range(lstm.num_layers):

        def weight(name: str, layer: int = layer) -> Tensor:
            return getattr(lstm, f"{name}_l{layer}").detach()

        gates = rounded(x) @ rounded(weight("weight_ih")).T + rounded(before.h[layer]) @ rounded(weight("weight_hh")).T
        if lstm.bias:
            gates = gates + (weight("bias_ih") + weight("bias_hh")).double()
        i, f, g, o = gates.chunk(4, dim=-1)
        c = f.sigmoid() * before.c[layer].double() + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        if lstm.proj_size:
            h = rounded(h.float()) @ rounded(weight("weight_hr")).T
        hs.append(h)
        cs.append(c)
        x = h.float()
    return State(torch.stack(hs), torch.stack(cs))
