"""The decoder with input feeding, through all steps of a batch of known translations.

What `holdfast.engine.decoder.DecoderStep` computes, with gradients; a' is the a of the step before:

    x = [embedding of the token ; a'],  s = the LSTM's output at x,  context = attention of s,
    a = tanh(Wc [context ; s] + bc)

Input feeding makes each step wait for the one before. What need not wait is done for all steps at once: the embeddings'
part of W x, and the gradients of all that is the same at every step (`input_feeding_loop`).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear

from holdfast.engine import State, Weights

from .attention import Source
from .input_feeding_loop import Fixed, InputFeedingLoop


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
    states: Sequence[State],
    masks: Masks,
) -> Tensor:
    """a of every step [steps, batch, combined], dropped as the masks say.

    Args:
        embedded: [steps, batch, E], the words before each step.
        layers: plain LSTM layers; the first over [embedding ; a'].
        combine: Wc and bc.
        source: what is attended to.
        states: of each layer before the first step.
        masks: dropout.
    """
    first, width = layers[0], embedded.shape[2]
    assert first.input is not None
    hoisted = linear(embedded, first.input[:, :width], first.bias)  # [steps, batch, 4 * hidden]
    fed = first._replace(input=first.input[:, width:], bias=hoisted)
    flat: list[Tensor] = []
    for weights, (h, c) in zip([fed, *layers[1:]], states, strict=True):
        assert weights.input is not None and weights.bias is not None
        flat += [torch.cat([weights.input, weights.recurrent], dim=1), weights.bias, h, c]
    fixed = Fixed(source.outside, masks.between, masks.combined)
    return InputFeedingLoop.apply(fixed, *combine, source.keys, source.values, *flat)
