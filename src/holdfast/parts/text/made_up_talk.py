"""Made-up conversations with a tailor's shop: for tests, a first run, a placeholder on the page."""

from collections.abc import Callable
from typing import Final

import numpy as np

from .conversation import Conversation, Slot, Turn

GARMENTS: Final = ("coat", "dress", "jacket", "shirt", "skirt", "suit")
COLOURS: Final = ("black", "blue", "green", "grey", "red", "white")
DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")
Exchange = tuple[Turn, Turn]


def pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def order(rng: np.random.Generator) -> Exchange:
    garment, colour, price = pick(GARMENTS, rng), pick(COLOURS, rng), f"{rng.integers(40, 10_000)} euros"
    ways = ("I would like a {c} {g}.", "Can you make me a {c} {g}?", "I need a {c} {g}, please.")
    slots = (Slot("colour", colour), Slot("garment", garment))
    asked = Turn("user", pick(ways, rng).format(c=colour, g=garment), "order", slots, (Slot("price", price),))
    return asked, Turn("bot", f"A {colour} {garment} costs {price}.")


def fitting(rng: np.random.Generator) -> Exchange:
    day, hour = pick(DAYS, rng), f"{rng.integers(9, 18)}:{pick(('00', '15', '30', '45'), rng)}"
    ways = ("May I come on {d}?", "Is {d} possible for a fitting?", "I have time on {d}.")
    asked = Turn("user", pick(ways, rng).format(d=day), "fitting", (Slot("day", day),), (Slot("time", hour),))
    return asked, Turn("bot", f"Come on {day} at {hour}.")


def hours(rng: np.random.Generator) -> Exchange:
    ways = ("When do you open?", "What are your hours?", "Until when are you there?")
    return Turn("user", pick(ways, rng), "hours", ()), Turn("bot", "We are here from nine to six.")


def thanks(rng: np.random.Generator) -> Exchange:
    ways = ("Thank you!", "That is all, thanks.", "Goodbye.")
    return Turn("user", pick(ways, rng), "thanks", ()), Turn("bot", "You are welcome.")


def strange(rng: np.random.Generator) -> Exchange:
    ways = ("How tall is the moon?", "Sing me a song.", "Who won the game?", "Is it going to rain?")
    return Turn("user", pick(ways, rng), "oos", ()), Turn("bot", "I only know about clothes.")


def conversation(name: str, rng: np.random.Generator) -> Conversation:
    """Some exchanges of which the last is a farewell."""
    kinds: tuple[Callable[[np.random.Generator], Exchange], ...] = (order, fitting, hours, order, fitting, strange)
    chosen = [kinds[int(rng.integers(len(kinds)))] for _ in range(int(rng.integers(1, 4)))]
    turns = [turn for kind in (*chosen, thanks) for turn in kind(rng)]
    return Conversation(name, tuple(turns))
