"""A bot in conversations: what it keeps of each, and how it writes a reply."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from holdfast.engine import State
from holdfast.engine.stream import Precision

from ..errors import ResourceError
from .beam import Begin, Found, Search, search_all
from .conversation import Slot, Speaker, told
from .exchanges import BOT, FACTS, USER, Exchanges, in_tokens
from .ngrams import Bigrams, unigrams_of
from .pointer import PointerStep
from .reply_network import ReplyNetwork
from .reply_scores import has
from .sampling import Sampling
from .tokens import Vocabulary
from .translating import CONTROL
from .writing import Shown

TOGETHER: Final = 32  # replies searched for at once


class Heard(NamedTuple):
    """A text that was read."""

    tokens: Tensor  # [time] int64
    keys: Tensor  # [time, hidden], but for the age
    values: Tensor  # [time, read]
    end: Tensor  # [read]


class Talk(NamedTuple):
    """What is kept of a conversation: the same size whatever came before."""

    h: Tensor  # [1, hidden]
    c: Tensor
    last: tuple[Heard, ...]  # the last messages, the newest first


@dataclass(frozen=True)
class Style:
    """How replies are written."""

    search: Search  # a beam of 1 writes token by token; the best of it are ranked
    sampling: Sampling  # for that
    length: int  # tokens at most
    generic: float = 0.0  # how much it counts for a reply that bigrams find it strange
    missing: float = 0.0  # how much a fact whose value it lacks counts against it
    wanted: int = 1  # of those that are ranked
    seed: int = 0


class Written(NamedTuple):
    """One way to reply."""

    text: str
    score: float  # what was ranked by
    confidence: float  # mean log probability of a token


class Replying:
    """A network at work. What it packs for writing it keeps.

    Args:
        net: trained.
        vocabulary: its tokens; `start` begins and ends every text.
        bigrams: of replies: what is said to everybody is likely for them.
        style: how replies are written.
        longest: tokens of a text that are read.
        precision: of the weights that write.
    """

    def __init__(
        self,
        net: ReplyNetwork,
        vocabulary: Vocabulary,
        bigrams: Bigrams,
        style: Style,
        longest: int,
        precision: Precision = "highest",
    ) -> None:
        self.net, self.vocabulary, self.bigrams, self.style, self.longest = net, vocabulary, bigrams, style, longest
        self.precision: Precision = precision
        self.stepper: PointerStep | None = None

    # --- hearing ------------------------------------------------------------------------------------------------------

    def fresh(self) -> Talk:
        """Nothing was said yet."""
        zero = torch.zeros(1, self.net.sizes.hidden)
        return Talk(zero, zero, ())

    @torch.inference_mode()
    def hear(self, talk: Talk, speaker: Speaker, text: str) -> Talk:
        """The conversation after another message."""
        heard = self.read(text, USER if speaker == "user" else BOT)
        _, (after,) = self.net.conversation(heard.end.view(1, 1, -1), [State(talk.h, talk.c)])
        return Talk(after.h, after.c, (heard, *talk.last)[: self.net.sizes.window])

    def read(self, text: str, kind: int) -> Heard:
        tokens = torch.from_numpy(in_tokens(self.vocabulary, text, self.longest))
        texts = self.net.read(tokens.unsqueeze(1), torch.tensor([len(tokens)]), torch.tensor([kind]))
        values = texts.values.squeeze(1)
        return Heard(tokens, self.net.keyed(values), values, texts.ends.squeeze(0))

    @torch.inference_mode()
    def begin(self, talk: Talk, facts: Sequence[Slot]) -> Begin:
        """A reply to the last message, before its first token."""
        known = self.read(told(tuple(facts)), FACTS)
        h, c = self.net.begin(talk.last[0].end.unsqueeze(0), known.end.unsqueeze(0), talk.h)
        seen = (known, *talk.last)
        ages = self.net.aged(torch.arange(len(seen)))
        keys = torch.cat([one.keys + age for one, age in zip(seen, ages, strict=True)])
        values, tokens = (torch.cat([getattr(one, name) for one in seen]) for name in ("values", "tokens"))
        return Begin(keys, values, [(h.squeeze(0), c.squeeze(0))], tokens)

    @torch.inference_mode()
    def begins(self, batch: Exchanges) -> list[Begin]:
        """Every reply of a batch, before its first token."""
        begun = self.net.begun(batch)
        lengths = (~batch.outside).sum(1).tolist()
        return [
            Begin(
                begun.source.keys[row, :length],
                begun.source.values[row, :length],
                [(begun.h[row], begun.c[row])],
                begun.tokens[row, :length],
            )
            for row, length in enumerate(lengths)
        ]

    # --- writing ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def best(self, begins: Sequence[Begin], facts: Sequence[Sequence[Slot]]) -> list[list[Written]]:
        """The best replies to each, by beam search, the facts being what each was begun with."""
        ways: list[list[Found]] = []
        for at in range(0, len(begins), TOGETHER):
            group = begins[at : at + TOGETHER]
            step = self.step(len(group) * self.style.search.beam)
            ways += search_all(step, group, self.vocabulary.start, self.style.search)
        return [self.ranked(found, known) for found, known in zip(ways, facts, strict=True)]

    def ranked(self, ways: Sequence[Found], facts: Sequence[Slot] = ()) -> list[Written]:
        """No text twice, the best first; behind them what leaves facts out, and what is said to everybody.

        For the latter Li et al., "A Diversity-Promoting Objective Function for Neural Conversation Models", NAACL 2016,
        there MMI-antiLM.
        """
        style, written = self.style, dict[str, Written]()
        values = {fact.value for fact in facts if fact.value}
        for one in ways:
            text, score = self.text_of(one.tokens), one.score
            if style.generic:
                score += style.generic * self.strangeness(one.tokens) / style.search.divisor(len(one.alpha))
            if style.missing:
                score -= style.missing * sum(not has(text, value) for value in values)
            if text not in written or written[text].score < score:
                written[text] = Written(text, score, one.log_probability / len(one.alpha))
        return sorted(written.values(), key=lambda one: -one.score)[: style.wanted]

    def strangeness(self, tokens: Sequence[int]) -> float:
        """-log P of a reply by bigrams, in nats."""
        end = self.vocabulary.start
        before, after = np.array([end, *tokens]), np.array([*tokens, end])
        return float(self.bigrams.surprise(before, after, unigrams_of(self.vocabulary.counts)).sum())

    def text_of(self, tokens: Sequence[int]) -> str:
        return " ".join(CONTROL.sub(" ", self.vocabulary.decode(tokens)).split())

    @torch.inference_mode()
    def write(self, begin: Begin, number: int) -> Iterator[str]:
        """A reply in pieces, each as soon as it is certain. ``number`` is the message's: dice are thrown for each."""
        step, end = self.step(1), self.vocabulary.start
        rng, past, shown = np.random.default_rng((self.style.seed, number)), list[int](), Shown(self.vocabulary, ())
        assert begin.tokens is not None
        source = step.open_source(begin.keys, begin.values, begin.tokens)
        slot = step.open(source, begin.states)
        try:
            token, first = end, True
            for _ in range(self.style.length):
                log_p, _ = step.step(torch.tensor([token]), torch.tensor([slot]))
                if first:
                    log_p[0, end] = -torch.inf  # silence is no reply
                token = self.style.sampling.choose(log_p[0].numpy(), past, rng)
                if token == end:
                    break
                past.append(token)
                piece = CONTROL.sub(" ", shown.push(token))
                yield piece.lstrip() if first else piece
                first = first and not piece.strip()
            yield CONTROL.sub(" ", shown.flush())
        finally:
            step.close(slot)
            step.close_source(source)

    def step(self, slots: int) -> PointerStep:
        """The writer, with room for so many hypotheses."""
        if self.stepper is None or self.stepper.slots < slots:
            try:
                begins, ends = map(torch.from_numpy, self.vocabulary.edges())
                self.stepper = self.net.step(slots, self.precision, (begins, ends))
            except RuntimeError as error:
                raise ResourceError(f"a decoder cannot be made here: {error}", hint="see holdfast doctor") from None
        return self.stepper


def packed_talk(talk: Talk) -> dict[str, np.ndarray]:
    """A conversation as arrays."""
    arrays = {"h": talk.h.numpy(), "c": talk.c.numpy()}
    for place, heard in enumerate(talk.last):
        arrays |= {f"{name}{place}": getattr(heard, name).numpy() for name in Heard._fields}
    return arrays


def unpacked_talk(arrays: dict[str, np.ndarray], last: int) -> Talk:
    """The inverse of packed_talk, of so many messages. KeyError where one is missing."""
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    heard = (Heard(*(tensors[f"{name}{place}"] for name in Heard._fields)) for place in range(last))
    return Talk(tensors["h"], tensors["c"], tuple(heard))
