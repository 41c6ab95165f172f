"""A network for one window of raw sensor samples: upright channels, standardised, then several members side by side."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .. import classification
from . import inertial
from .inertial import Triad

BLOCK = 256  # windows that meet the network at a time
FARTHEST = 1000.0  # standard deviations; what lies beyond is seen there, and no square of it overflows
ODD = 20.0  # standard deviations from which on a window's mean is told to be unlike all training


class WindowClassifier(nn.Module):
    """One window of raw samples -> logits of each member. What it sees of a window depends on that window alone."""

    mean: Tensor
    scale: Tensor

    def __init__(
        self, triads: Sequence[Triad], mean: np.ndarray, scale: np.ndarray, members: Sequence[nn.Module]
    ) -> None:
        """mean, scale [features]: channels, then what triads measure along and across the upright."""
        super().__init__()
        self.triads = tuple(triads)
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("scale", torch.tensor(scale))
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """x [batch, window, channels] -> logits [members, batch, labels]."""
        mean, reach = self.mean[: x.shape[-1]], FARTHEST * self.scale[: x.shape[-1]]
        x = torch.maximum(torch.minimum(x, mean + reach), mean - reach)
        features = torch.cat([x, inertial.upright(x, self.triads)], dim=-1)
        features = (features - self.mean) / self.scale
        return torch.stack([member(features) for member in self.members])


def within(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Windows [windows, time, channels] without what is beyond all reason, as the network sees them."""
    mean, reach = mean[: x.shape[2]], FARTHEST * scale[: x.shape[2]]
    return np.clip(x, mean - reach, mean + reach)


def odd_channel(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> int | None:
    """The number of the channel whose means over windows [windows, time, channels] lie farthest out, if too far."""
    mean = mean[: x.shape[2]].astype(np.float64)
    spread = np.maximum(scale[: x.shape[2]], 1e-5 * np.abs(mean))  # a channel that never moved in training
    far = (np.abs(x.mean(axis=1, dtype=np.float64) - mean) / spread).max(axis=0)
    return int(far.argmax()) if far.max() > ODD else None


@torch.inference_mode()
def probabilities_of(net: nn.Module, temperature: float, x: np.ndarray) -> np.ndarray:
    """Windows [windows, window, channels] -> probabilities [windows, labels] float32: the members' mean, tempered."""
    blocks = [net(torch.from_numpy(x[n : n + BLOCK])).double().softmax(-1).mean(0) for n in range(0, len(x), BLOCK)]
    return classification.tempered(torch.cat(blocks).numpy(), temperature).astype(np.float32)
