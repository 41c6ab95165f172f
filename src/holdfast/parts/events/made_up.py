"""Made-up shoppers, for tests and first runs."""

import numpy as np

from .history import History

SHELVES = {
    "camping": ("tent", "sleeping bag", "stove", "lantern", "map", "boots"),
    "kitchen": ("pan", "knife", "board", "scales", "bowl", "whisk"),
    "painting": ("canvas", "brush", "paint", "easel", "palette", "apron"),
    "cycling": ("bicycle", "helmet", "lock", "pump", "bottle", "gloves"),
    "garden": ("spade", "seeds", "can", "hose", "rake", "pots"),
}
DAY = 86_400.0  # seconds


def shoppers(count: int, rng: np.random.Generator) -> list[History]:
    """Each fills the shelf of one taste, mostly in its order, and now and then buys something else."""
    shelves = list(SHELVES)
    return [shopper(f"made-up-{number}", shelves[int(rng.integers(len(shelves)))], rng) for number in range(count)]


def shopper(name: str, shelf: str, rng: np.random.Generator) -> History:
    own = SHELVES[shelf]
    start, length = int(rng.integers(2)), int(rng.integers(4, 7))
    items = [own[(start + n) % len(own)] for n in range(length)]
    if rng.random() < 0.5:
        other = SHELVES[list(SHELVES)[int(rng.integers(len(SHELVES)))]]
        items.insert(int(rng.integers(1, length)), other[int(rng.integers(len(other)))])
    days = np.cumsum(rng.exponential(3.0, size=len(items)))
    return History(name, tuple(items), 1.7e9 + DAY * days)
