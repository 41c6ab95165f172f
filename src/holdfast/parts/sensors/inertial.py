"""Inertial sensors: which three channels are the axes of one sensor, where down is, and what a turned sensor sees.

An accelerometer measures gravity too, so its mean over a few seconds points up. What is measured along that direction
and across it does not depend on how the phone lies in the pocket.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

STEADY = 0.2  # an accelerometer's window means keep their length (1 g) within this coefficient of variation
ACCELERATION = ("acc", "grav")  # parts of the names of channels that may hold gravity
OTHER = ("gyr", "mag", "rot", "linear", "body", "user")  # parts of the names of channels that do not


@dataclass(frozen=True)
class Triad:
    """The three axes of one sensor."""

    axes: tuple[int, int, int]  # channel numbers of x, y and z
    up: int  # number of the triad whose mean points up on the same device; -1 where none does


def find_triads(channels: Sequence[str], means: np.ndarray) -> tuple[Triad, ...]:
    """Triads by the names of channels; ``means`` [windows, channels] are means over windows, for finding gravity."""
    axes = axes_of(channels)
    lengths = [np.linalg.norm(means[:, list(three)], axis=1) for three in axes]
    steady = [bool(length.mean() > 0 and length.std() / length.mean() < STEADY) for length in lengths]
    names = [channels[x].lower() for x, _, _ in axes]
    may = [now and not any(part in name for part in OTHER) for now, name in zip(steady, names, strict=True)]
    named = [now and any(part in name for part in ACCELERATION) for now, name in zip(may, names, strict=True)]
    ups = [n for n, now in enumerate(named if any(named) else may) if now]
    near = [
        n if n in ups else max(ups, key=lambda up: likeness(names[n], names[up]), default=-1) for n in range(len(axes))
    ]
    return tuple(Triad(three, up) for three, up in zip(axes, near, strict=True))


def axes_of(channels: Sequence[str]) -> list[tuple[int, int, int]]:
    """Channels that differ in one letter only: x, y, z."""
    number = {name: n for n, name in enumerate(channels)}
    found: list[tuple[int, int, int]] = []
    for name in channels:
        for place in reversed([n for n, letter in enumerate(name) if letter in "xX"]):
            shift = ord(name[place]) - ord("x")
            y, z = (name[:place] + chr(ord(letter) + shift) + name[place + 1 :] for letter in "yz")
            if y in number and z in number:
                found.append((number[name], number[y], number[z]))
                break
    return found


def likeness(one: str, other: str) -> int:
    """How many letters two names share at their beginning and at their end."""
    same = [a == b for a, b in zip(one, other, strict=False)]
    back = [a == b for a, b in zip(reversed(one), reversed(other), strict=False)]
    return (*same, False).index(False) + (*back, False).index(False)


def upright(x: Tensor, triads: Sequence[Triad]) -> Tensor:
    """What triads measure along the upright and across it, [batch, time, 2 * triads], from x [batch, time, channels].

    The upright is the direction of the accelerometer's mean over the window. A triad without one gives its length,
    and its length's change from step to step.
    """
    found: list[Tensor] = []
    for triad in triads:
        three = x[..., list(triad.axes)]  # [batch, time, 3]
        if triad.up < 0:
            length = three.square().sum(-1, keepdim=True).add(1e-6).sqrt()
            found += [length, torch.diff(length, dim=1, prepend=length[:, :1])]
            continue
        mean = x[..., list(triads[triad.up].axes)].mean(1, keepdim=True)
        up = nn.functional.normalize(mean, dim=-1)  # [batch, 1, 3]
        along = (three * up).sum(-1, keepdim=True)
        across = (three - along * up).square().sum(-1, keepdim=True).add(1e-6).sqrt()  # 1e-6: a gradient at zero
        found += [along, across]
    return torch.cat(found, -1) if found else x[..., :0]


def seen(x: np.ndarray, triads: Sequence[Triad]) -> np.ndarray:
    """Windows [windows, time, channels] with what upright() adds, [windows, time, channels + 2 * triads]."""
    return np.concatenate([x, upright(torch.as_tensor(x), triads).numpy()], axis=2)


def turn(x: np.ndarray, triads: Sequence[Triad], degrees: float, rng: np.random.Generator) -> np.ndarray:
    """Windows [batch, time, channels] as sensors fastened askew would have measured them.

    Each window's device is turned about a random axis by a normal angle of this standard deviation; the triads of one
    device turn together.
    """
    turned = x.copy()
    for device in sorted({triad.up if triad.up >= 0 else -1 - n for n, triad in enumerate(triads)}):
        matrix = rotations(len(x), np.radians(degrees), rng)
        for n, triad in enumerate(triads):
            if device == (triad.up if triad.up >= 0 else -1 - n):
                turned[..., list(triad.axes)] = x[..., list(triad.axes)] @ matrix
    return turned


def rotations(count: int, spread: float, rng: np.random.Generator) -> np.ndarray:
    """Rotation matrices [count, 3, 3] about random axes by normal angles (radians): Rodrigues' formula."""
    axis = rng.normal(size=(count, 3))
    x, y, z = (axis / np.linalg.norm(axis, axis=1, keepdims=True)).T
    angle = rng.normal(scale=spread, size=(count, 1, 1))
    zero = np.zeros(count)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(count, 3, 3)
    return (np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)).astype(np.float32)
