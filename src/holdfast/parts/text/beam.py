"""Beam search: the best of many ways to write a translation, for many sentences at once.

Length and coverage penalty are those of Wu et al., "Google's Neural Machine Translation System", 2016, section 7:

    score = log P / lp + cp,   lp = ((5 + length) / 6)^alpha,   cp = beta * sum_j log min(1, sum_t alpha_tj)

over the source's tokens j and the steps t; the length counts the end. The open hypotheses of all sentences are one
step of `DecoderStep`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast.engine.decoder import DecoderStep, LayerState

from .pointer import PointerStep
from .translation_ensemble import EnsembleStep

Stepper = DecoderStep | PointerStep | EnsembleStep
SPARE: Final = 10  # tokens that a translation may have beyond its source's share: short ones vary most


@dataclass(frozen=True)
class Search:
    """What is searched for."""

    beam: int = 5  # hypotheses kept open per sentence; 1 takes the likeliest token each time
    best: int = 1  # how many translations are wanted, at most as many as the beam
    length_penalty: float = 1.0  # alpha: 0 prefers short translations
    coverage_penalty: float = 0.0  # beta: more looks at every word of the source
    no_repeat: int = 0  # no run of so many tokens twice; 0: any
    longest: float = 2.0  # tokens per token of the source, at most, beyond SPARE
    shortest: int = 0  # tokens at least
    most: int = 0  # tokens at most, whatever the source's length; 0: by that
    diversity: float = 0.0  # lambda: every hypothesis of the beam goes its own way; 0: they are chosen together

    def score(self, log_probability: float, alpha: np.ndarray) -> float:
        """Of a whole hypothesis; alpha [length, time]."""
        score = log_probability / self.divisor(len(alpha))
        if self.coverage_penalty:
            looked = alpha.sum(axis=0, dtype=np.float64)
            score += self.coverage_penalty * float(np.log(np.clip(looked, 1e-9, 1.0)).sum())
        return score

    def divisor(self, length: int) -> float:
        return ((5 + length) / 6) ** self.length_penalty


class Begin(NamedTuple):
    """A sentence that was read."""

    keys: Tensor  # [time, width of s]
    values: Tensor  # [time, remembered]
    states: Sequence[LayerState]  # of each decoder layer
    tokens: Tensor | None = None  # [time] int64: what stands there, for a step that copies


class Found(NamedTuple):
    """A whole hypothesis."""

    tokens: tuple[int, ...]  # without the end
    log_probability: float  # of all tokens and the end
    score: float
    alpha: np.ndarray  # [tokens + 1, time]: where was looked for each, and for the end


class Node(NamedTuple):
    """The last token of an open hypothesis, and what came before."""

    before: "Node | None"
    token: int
    log_probability: float  # of all so far
    alpha: np.ndarray  # [time at least]

    def path(self) -> list["Node"]:
        """From the first token to this one."""
        nodes: list[Node] = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.before
        return nodes[::-1]


@dataclass
class Beam:
    """The search for one sentence."""

    time: int  # tokens of the source
    limit: int  # tokens of a translation at most
    source: int  # DecoderStep's handle
    slots: list[int]
    open: list[Node | None] = field(default_factory=lambda: [None])  # None: nothing is written yet
    parents: list[int] = field(default_factory=list[int])  # of what is open: its place one step before
    done: list[Found] = field(default_factory=list[Found])

    def finish(self, node: Node, search: Search) -> None:
        """A hypothesis whose last node is the end."""
        nodes = node.path()
        alpha = np.stack([one.alpha[: self.time] for one in nodes])
        tokens = tuple(one.token for one in nodes[:-1])
        score = search.score(node.log_probability, alpha)
        self.done.append(Found(tokens, node.log_probability, score, alpha))

    def is_over(self, search: Search) -> bool:
        """Whether enough was found, or nothing that is open can become better than what was found."""
        if not self.open or len(self.done) >= search.beam:
            return True
        if len(self.done) < search.best:
            return False
        # Log probabilities only fall; the longest translation divides them by the most.
        hope = max(node.log_probability for node in self.open if node) / search.divisor(self.limit + 1)
        return sorted((one.score for one in self.done), reverse=True)[search.best - 1] >= hope

    def results(self, search: Search) -> list[Found]:
        """The best first."""
        return sorted(self.done, key=lambda one: -one.score)[: search.best]


def search_all(step: Stepper, begins: Sequence[Begin], end: int, search: Search) -> list[list[Found]]:
    """The translations of some sentences, the best first, for each at least one.

    Args:
        step: with at least as many free slots as sentences times beam.
        begins: the sentences.
        end: the token that stands before the first one and behind the last.
        search: how.
    """
    beams = [opened(step, begin, search) for begin in begins]
    try:
        (advance_apart if search.diversity else advance_all)(step, beams, end, search)
    finally:
        for beam in beams:
            for slot in beam.slots:
                step.close(slot)
        for beam in beams:
            step.close_source(beam.source)
    return [beam.results(search) for beam in beams]


def advance_all(step: Stepper, beams: list[Beam], end: int, search: Search) -> None:
    """Step by step until every search is over."""
    alive, written = beams, 0
    while alive:
        rows = [(beam, place) for beam in alive for place in range(len(beam.open))]
        nodes = [beam.open[place] for beam, place in rows]
        tokens = torch.tensor([end if node is None else node.token for node in nodes])
        slots = torch.tensor([beam.slots[place] for beam, place in rows])
        log_probabilities, alpha = step.step(tokens, slots)
        forbid(log_probabilities, rows, written, end, search)
        spread(alive, candidates(log_probabilities, nodes, alive, search), alpha.numpy().copy(), end, search)
        copy_states(step, alive)
        alive, written = [beam for beam in alive if not beam.is_over(search)], written + 1


def advance_apart(step: Stepper, beams: list[Beam], end: int, search: Search) -> None:
    """Step by step, every hypothesis for itself and away from those before it, until each has ended.

    Vijayakumar et al., "Diverse Beam Search", AAAI 2018, with as many groups as the beam is wide and Hamming diversity:
    a token costs lambda for every earlier hypothesis of the sentence that takes it at the same step.
    """
    alive: dict[tuple[int, int], Node | None] = {
        (n, place): None for n in range(len(beams)) for place in range(search.beam)
    }
    written = 0
    for beam in beams:
        beam.open = [None] * search.beam
    while alive:
        tokens = torch.tensor([end if node is None else node.token for node in alive.values()])
        slots = torch.tensor([beams[number].slots[place] for number, place in alive])
        log_probabilities, alpha = step.step(tokens, slots)
        forbid(log_probabilities, [(beams[number], place) for number, place in alive], written, end, search)
        looked = alpha.numpy().copy()
        after: dict[tuple[int, int], Node | None] = {}
        taken: dict[int, list[int]] = {}
        for row, ((number, place), node) in enumerate(alive.items()):
            token = apart(log_probabilities[row], taken.setdefault(number, []), search.diversity)
            before = 0.0 if node is None else node.log_probability
            new = Node(node, token, before + float(log_probabilities[row, token]), looked[row])
            if token == end:
                beams[number].finish(new, search)
            else:
                after[number, place] = beams[number].open[place] = new
        alive, written = after, written + 1


def apart(log_probabilities: Tensor, taken: list[int], diversity: float) -> int:
    """The best token [vocabulary] but for what those cost that were taken; it is taken, too."""
    costly = log_probabilities.clone()
    for token in taken:
        costly[token] -= diversity
    taken.append(int(costly.argmax()))
    return taken[-1]


def opened(step: Stepper, begin: Begin, search: Search) -> Beam:
    """A search that has not begun."""
    if isinstance(step, PointerStep):
        assert begin.tokens is not None
        source = step.open_source(begin.keys, begin.values, begin.tokens)
    else:
        source = step.open_source(begin.keys, begin.values)
    time = len(begin.keys)
    slots = [step.open(source, begin.states) for _ in range(search.beam)]
    limit = max(search.shortest, search.most or int(search.longest * time) + SPARE)
    return Beam(time, limit, source, slots)


def forbid(log_probabilities: Tensor, rows: Sequence[tuple[Beam, int]], written: int, end: int, search: Search) -> None:
    """What must not come next [rows, vocabulary] is made impossible, in place."""
    if written < search.shortest:
        log_probabilities[:, end] = -torch.inf
    for row, (beam, place) in enumerate(rows):
        node = beam.open[place]
        if search.no_repeat and node is not None:
            banned = repeating([one.token for one in node.path()], search.no_repeat)
            log_probabilities[row, banned] = -torch.inf
        if written >= beam.limit:  # nothing but the end
            kept = log_probabilities[row, end].clone()
            log_probabilities[row] = -torch.inf
            log_probabilities[row, end] = kept


def repeating(tokens: Sequence[int], run: int) -> list[int]:
    """Tokens after which a run of so many would stand there twice."""
    last = tuple(tokens[len(tokens) - run + 1 :])
    runs = (tokens[at : at + run] for at in range(len(tokens) - run + 1))
    return [one[-1] for one in runs if tuple(one[:-1]) == last]


Candidate = tuple[float, int, int]  # log probability of all, which open hypothesis, which token


def candidates(
    log_probabilities: Tensor, nodes: Sequence[Node | None], alive: Sequence[Beam], search: Search
) -> Iterator[list[Candidate]]:
    """For each sentence how its open hypotheses may go on: the best twice as many as the beam, the best first.

    Twice as many, because as many as the beam may be ends.
    """
    wanted = min(2 * search.beam, log_probabilities.shape[1])
    best, tokens = log_probabilities.topk(wanted)  # [rows, wanted]
    best = best + torch.tensor([0.0 if node is None else node.log_probability for node in nodes]).unsqueeze(1)
    at = 0
    places = torch.full((len(alive), search.beam), -1)
    for row, beam in enumerate(alive):
        places[row, : len(beam.open)] = torch.arange(at, at + len(beam.open))
        at += len(beam.open)
    pool = torch.where(places.unsqueeze(-1) >= 0, best[places], -torch.inf).flatten(1)  # [sentences, beam * wanted]
    values, chosen = pool.topk(min(2 * search.beam, pool.shape[1]))
    place = chosen // wanted
    token = tokens[places.gather(1, place), chosen % wanted]
    for lists in zip(values.tolist(), place.tolist(), token.tolist(), strict=True):
        yield list(zip(*lists, strict=True))


def spread(
    alive: Sequence[Beam], found: Iterator[list[Candidate]], alpha: np.ndarray, end: int, search: Search
) -> None:
    """Every sentence takes the best of its candidates: ends among the first of them are done, others stay open."""
    at = 0
    for beam, ways in zip(alive, found, strict=True):
        before, beam.open, beam.parents = beam.open, [], []
        for rank, (value, place, token) in enumerate(ways):
            if value == -np.inf or len(beam.open) == search.beam:
                break
            node = Node(before[place], token, value, alpha[at + place])
            if token != end:
                beam.open.append(node)
                beam.parents.append(place)
            elif rank < search.beam:
                beam.finish(node, search)
        at += len(before)


def copy_states(step: Stepper, alive: Sequence[Beam]) -> None:
    """Every open hypothesis goes on from the state of the one that it continues."""
    moves = [
        (beam.slots[parent], beam.slots[place])
        for beam in alive
        for place, parent in enumerate(beam.parents)
        if parent != place
    ]
    if moves:
        sources, targets = torch.tensor(moves).unbind(1)
        step.copy(sources, targets)
