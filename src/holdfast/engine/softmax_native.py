"""The kernels' side of softmax and cross-entropy: kernels/holdfast.h's structure, filled and called."""

import ctypes
import threading
from typing import Final, NamedTuple, final

import torch
from torch import Tensor

from . import library, native, threads
from .pages import Scratch, in_memory


@final
class _Softmax(ctypes.Structure):
    """holdfast_softmax."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("tokens", "width", "vocabulary", "threads", "precision")),
        *((name, ctypes.c_void_p) for name in ("h", "weight", "bias", "targets", "weights", "beside")),
        ("smoothing", ctypes.c_float),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("facts", "dh", "dweight", "dbias", "scratch")),
    ]


class _Room(threading.local):
    def __init__(self) -> None:
        self.scratch = Scratch()


_room: Final = _Room()


class Wanted(NamedTuple):
    """Which gradients."""

    h: bool
    weight: bool
    bias: bool


class Losses(NamedTuple):
    """What one call found."""

    losses: Tensor  # [tokens]
    h: Tensor | None  # gradients of scale * (token_weights * losses).sum(); None where not wanted
    weight: Tensor | None
    bias: Tensor | None


def obstacle(h: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """Why the kernels cannot take this call; None where they can."""
    given = [t for t in (h, weight, bias) if t is not None]
    if not all(t.is_cpu and t.layout is torch.strided for t in given):
        return "a tensor is not on the CPU"
    if any(t.dtype is not torch.float32 for t in (weight, bias) if t is not None):
        return "the weights are not float32"
    if h.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"h is {h.dtype}"
    return None if library.available() else library.why_not()


def lying(t: Tensor) -> Tensor:
    """The tensor as it is meant, row-major in memory."""
    return in_memory(t.detach()).contiguous()


def cross_entropy(
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    smoothing: float,
    scale: float,
    wanted: Wanted,
    token_weights: Tensor | None = None,
    beside: Tensor | None = None,
) -> Losses:
    """Losses and gradients of h [tokens, width], float32 weight [vocabulary, width] and bias [vocabulary].

    targets int64 [tokens] within the vocabulary; token_weights [tokens] count in the gradients alone. With beside
    [tokens], the logits of targets that are not among these words, targets name the word that a token does without, or
    -1; smoothing must then be 0, and what beside itself does to the loss is not in the gradients. The factors of
    products are rounded as torch.get_float32_matmul_precision() says, and to bfloat16 where h is that.

    Beside the results a call holds 23 MiB of logits at most, or 16 tokens' where those are more, and three times 128
    rows of h or of its gradient; where products take bfloat16 256 rows of it, twice rounded and once not. On AMX they
    are 160 MiB and 1024 rows.
    """
    precision = native.precision(h.dtype is torch.bfloat16)
    h, weight, targets = lying(h).float(), lying(weight), lying(targets)
    bias = None if bias is None else lying(bias)
    weights, beside = (None if t is None else lying(t).float() for t in (token_weights, beside))
    facts = h.new_empty((4, len(h)))
    dh = torch.empty_like(h) if wanted.h else None
    dweight = torch.empty_like(weight) if wanted.weight else None
    dbias = torch.empty_like(bias) if wanted.bias and bias is not None else None
    call = _Softmax(*h.shape, len(weight), threads.allowed(), precision, smoothing=smoothing, scale=scale)
    given = {"h": h, "weight": weight, "bias": bias, "targets": targets, "weights": weights, "beside": beside}
    for name, tensor in {**given, "facts": facts, "dh": dh, "dweight": dweight, "dbias": dbias}.items():
        setattr(call, name, None if tensor is None else tensor.data_ptr())
    call.scratch = _room.scratch.at_least(library.entry("holdfast_softmax_scratch_bytes")(ctypes.byref(call)))
    if code := library.entry("holdfast_softmax_cross_entropy")(ctypes.byref(call)):
        raise ValueError(library.words_for(code))
    if not len(h):
        found = [None if t is None else t.zero_() for t in (dh, dweight, dbias)]
        return Losses(facts[0], *found)
    most, powers, chosen, everything = facts
    chosen = chosen if beside is None else beside
    losses = powers.log() + (most - (1 - smoothing) * chosen)
    if smoothing:
        losses -= smoothing / len(weight) * everything
    return Losses(losses, dh, dweight, dbias)
