"""Made-up movement: what a phone at the waist measures on people who do not exist, for tests and first runs."""

import numpy as np

from .recording import Recording

CHANNELS = ("acc_x", "acc_y", "acc_z", "gyro_x", "gyro_y", "gyro_z")  # g, radians per second
RATE = 50.0  # samples per second
SECONDS = (8.0, 14.0)  # how long a bout lasts
ACTIVITIES = ("sitting", "standing", "walking")


def made_up(name: str, rng: np.random.Generator) -> Recording:
    """One wearer who sits, stands and walks in turn, each twice, in a way of their own."""
    lean = rng.normal(scale=0.15, size=3)  # radians, how the phone lies
    pace, vigour = rng.uniform(1.6, 2.2), rng.uniform(0.2, 0.4)  # steps per second; g
    bouts = [str(bout) for _ in range(2) for bout in rng.permutation(ACTIVITIES)]
    lengths = [int(RATE * rng.uniform(*SECONDS)) for _ in bouts]
    samples = [bout_of(bout, length, lean, pace, vigour, rng) for bout, length in zip(bouts, lengths, strict=True)]
    return Recording(
        name,
        CHANNELS,
        np.arange(sum(lengths)) / RATE,
        np.concatenate(samples).astype(np.float32),
        np.repeat(np.array(bouts), lengths),
        person=name,
    )


def bout_of(
    bout: str, length: int, lean: np.ndarray, pace: float, vigour: float, rng: np.random.Generator
) -> np.ndarray:
    """One bout, [length, 6]: gravity, which a sitter's phone sees tilted; a walker's steps; noise."""
    tilt = lean + np.array([0.0, 0.9 if bout == "sitting" else 0.0, 0.0])
    up = np.array([np.cos(tilt[1]) * np.cos(tilt[2]), np.sin(tilt[2]), np.sin(tilt[1])])
    samples = np.concatenate([np.tile(up, (length, 1)), np.zeros((length, 3))], axis=1)
    if bout == "walking":
        phase = 2 * np.pi * pace * np.arange(length) / RATE + rng.uniform(0, 6)
        beats = np.stack([np.sin(phase), 0.5 * np.sin(phase / 2), 0.4 * np.cos(phase)], axis=1)
        samples += vigour * np.concatenate([beats, 2 * beats[:, ::-1]], axis=1)
    return samples + rng.normal(scale=0.02, size=samples.shape)
