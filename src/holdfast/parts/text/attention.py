"""Attention: where in the source to look, told by dot products.

Luong, Pham & Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015, the "general"
score e = s . (Wa m): the keys Wa m are made once per sentence, so that a step is two small products.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class Source(NamedTuple):
    """What is looked at: a batch of sentences, as an encoder left them."""

    keys: Tensor  # [batch, time, width of s]
    values: Tensor  # [batch, time, remembered]
    outside: Tensor  # [batch, time] bool: past a row's length


def outside_of(lengths: Tensor, time: int) -> Tensor:
    """[batch, time] bool: where a row of this length, at least 1, has nothing."""
    return torch.arange(time, device=lengths.device) >= lengths.unsqueeze(1)


def attend(s: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Look once for every s [batch, steps, width]: context [batch, steps, remembered], alpha [batch, steps, time].

    Past a row's length alpha is zero, whatever stands there, as long as it is finite.
    """
    with in_float32():
        scores = torch.bmm(s, source.keys.transpose(1, 2))  # [batch, steps, time]
        alpha = scores.masked_fill(source.outside.unsqueeze(1), -torch.inf).softmax(-1)
        return torch.bmm(alpha, source.values), alpha


def attend_backward(dcontext: Tensor, alpha: Tensor, source: Source) -> tuple[Tensor, Tensor]:
    """Of one look: from the gradient of context [batch, remembered] those of s [batch, width] and of the scores
    [batch, time], alpha [batch, time] being what `attend` found."""
    with in_float32():
        dalpha = torch.bmm(dcontext.unsqueeze(1), source.values.transpose(1, 2)).squeeze(1)
        dscores = torch.ops.aten._softmax_backward_data(dalpha, alpha, -1, alpha.dtype)
        return torch.bmm(dscores.unsqueeze(1), source.keys).squeeze(1), dscores


@contextmanager
def in_float32() -> Generator[None]:
    """Products of float32, whatever precision is set: rows against matrices of their own, each read once, are as fast
    as memory, and rounding them to bf16 takes twice as long (AMX, 128 rows, 20 steps of 512: 570 us against 270)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
