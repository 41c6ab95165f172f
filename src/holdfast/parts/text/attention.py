"""Attention: where in the source to look, told by dot products.

Luong, Pham & Manning, "Effective Approaches to Attention-based Neural Machine Translation", EMNLP 2015, the "general"
score e = s . (Wa m): the keys Wa m are made once per sentence, so that a step is two small products.
"""

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
    scores = torch.bmm(s, source.keys.transpose(1, 2))  # [batch, steps, time]
    alpha = scores.masked_fill(source.outside.unsqueeze(1), -torch.inf).softmax(-1)
    return torch.bmm(alpha, source.values), alpha
