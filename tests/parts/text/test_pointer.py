"""Copying: the mixture, and a step that writes what training has it learn."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from holdfast.engine import library
from holdfast.parts.text.conversation import Slot, Turn
from holdfast.parts.text.exchanges import Limits, exchanges, spoken
from holdfast.parts.text.pointer import LEAST, PointerStep, mixed_surprise, pointed
from holdfast.parts.text.reply_network import ReplyNetwork, Sizes
from holdfast.parts.text.tokens import Vocabulary, learn
from holdfast.parts.text.translation_network import Dropout


def test_a_copy_is_as_likely_as_all_the_places_that_hold_the_word() -> None:
    alpha = torch.tensor([[[0.5, 0.2, 0.3], [0.1, 0.6, 0.3]]])
    source = torch.tensor([[4, 7, 4]])
    found = pointed(alpha, source, torch.tensor([[4, 9]]))
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.0]]))


def test_surprise_is_that_of_the_mixture() -> None:
    written, gate, copied = torch.tensor([2.0, 0.5, 9.0]), torch.tensor([0.3, -1.0, 2.0]), torch.tensor([0.8, 0.0, 0.4])
    g = gate.sigmoid()
    wanted = -(g * (-written).exp() + (1 - g) * (copied + LEAST)).log()
    torch.testing.assert_close(mixed_surprise(written, gate, copied), wanted)


@pytest.mark.skipif(not library.available(), reason="no compiled library here")
def test_a_step_writes_what_the_network_was_taught() -> None:
    """Token by token the step's log P is the loss's, copies among them; and P is a distribution."""
    torch.manual_seed(3)
    vocabulary = learn(["a red fox jumps over the lazy dog = ;\n"], "subwords", 262)
    net = ReplyNetwork(len(vocabulary), Sizes(12, 14, 2), Dropout()).eval()
    nn.init.constant_(net.gate.bias, 0.4)
    turns = (Turn("bot", "red"), Turn("user", "a fox", facts=(Slot("lazy", "dog"),)), Turn("bot", "the lazy dog"))
    batch = exchanges([spoken(vocabulary, turns, 80)], vocabulary.start, Limits(80, 2))
    with torch.inference_mode():
        wanted = net(batch)
        begun = net.begun(batch)
        step = net.step(3)
        source = step.open_source(begun.source.keys[0], begun.source.values[0], begun.tokens[0])
        step.open(source)  # another one, which must not matter
        slot = step.open(source, [(begun.h[0], begun.c[0])])
        for token, target, nats in zip(batch.before[:, 0], batch.targets[:, 0], wanted, strict=True):
            log_p, _ = step.step(token.view(1), torch.tensor([slot]))
            assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-4)
            assert float(-log_p[0, target]) == pytest.approx(float(nats), abs=2e-4)


class Scripted:
    """In place of a decoder: every token is equally likely, attention looks where it was told to."""

    def __init__(self, vocabulary: int, looks: list[list[float]]) -> None:
        self.vocabulary, self.looks, self.slots, self.opened = vocabulary, looks, 8, 0
        self.at: dict[int, int] = {}

    def open_source(self, keys: Tensor, values: Tensor) -> int:
        return 0

    def open(self, source: int, state: object) -> int:
        self.opened += 1
        self.at[self.opened] = 0
        return self.opened

    def copy(self, sources: Tensor, targets: Tensor) -> None:
        self.at |= {into: self.at[chosen] for chosen, into in zip(sources.tolist(), targets.tolist(), strict=True)}

    def combined(self, slots: Tensor) -> Tensor:
        return torch.zeros(len(slots), 1)

    def step(self, tokens: Tensor, slots: Tensor) -> tuple[Tensor, Tensor]:
        alpha = torch.tensor([self.looks[self.at[slot]] for slot in slots.tolist()])
        self.at |= {slot: self.at[slot] + 1 for slot in slots.tolist()}
        return torch.full((len(slots), self.vocabulary), 1 / self.vocabulary).log(), alpha


def pointing(vocabulary: Vocabulary, text: str, looks: list[str], copies: float = 0.9) -> tuple[PointerStep, list[int]]:
    """A step that looks at the places of these pieces, and one hypothesis; and the text's tokens."""
    tokens = torch.from_numpy(vocabulary.encode(text))
    spelled = vocabulary.spelled(tokens.numpy())
    alphas = [[float(piece == look) / spelled.count(look) for piece in spelled] for look in looks]
    gate = nn.Linear(1, 1).requires_grad_(False)
    nn.init.constant_(gate.bias, math.log(1 / copies - 1))
    begins, ends = map(torch.from_numpy, vocabulary.edges())
    step = PointerStep(Scripted(len(vocabulary), alphas), gate, (begins, ends))  # pyright: ignore[reportArgumentType]
    step.open(step.open_source(torch.zeros(len(tokens), 1), torch.zeros(len(tokens), 1), tokens), None)
    return step, tokens.tolist()


def written(step: PointerStep, first: int, count: int) -> list[int]:
    """The likeliest token, again and again."""
    tokens = [first]
    for _ in range(count):
        log_p, _ = step.step(torch.tensor(tokens[-1:]), torch.tensor([1]))
        assert float(log_p.exp().sum()) == pytest.approx(1.0, abs=1e-4)
        tokens.append(int(log_p[0].argmax()))
    return tokens[1:]


CITIES = "bergen and 83 oakland"


def cities() -> Vocabulary:
    """bergen is "ber", "gen" and oakland " oak", "land"."""
    return learn(["ber ber gen gen oak oak land land and and 83 83\n" * 9], "subwords", 277)


def test_a_word_is_copied_to_its_end_though_attention_slides() -> None:
    vocabulary = cities()
    step, tokens = pointing(vocabulary, CITIES, ["ber", " and", " and"])
    assert vocabulary.spelled(np.array(tokens)) == ["ber", "gen", " and", " 83", " oak", "land"]
    assert written(step, vocabulary.start, 3) == [tokens[0], tokens[1], tokens[2]]


def test_the_end_of_a_word_is_not_copied_behind_another() -> None:
    vocabulary = cities()
    step, tokens = pointing(vocabulary, CITIES, [" 83", "gen", "gen"])
    found = written(step, vocabulary.start, 1)
    assert found == [tokens[3]]
    log_p, _ = step.step(torch.tensor(found), torch.tensor([1]))
    assert float(log_p[0, tokens[1]]) == pytest.approx(math.log(1 / len(vocabulary)), abs=1e-3)  # as written, no more
    log_p, _ = step.step(torch.tensor(tokens[:1]), torch.tensor([1]))
    assert float(log_p[0, tokens[1]]) > math.log(0.9)


def test_a_word_that_was_written_need_not_go_on() -> None:
    """What the vocabulary, not the pointer, gave may be another word's beginning: "ber" of "berlin"."""
    vocabulary = cities()
    step, tokens = pointing(vocabulary, CITIES, ["ber", " and"], copies=0.001)
    step.step(torch.tensor([vocabulary.start]), torch.tensor([1]))
    log_p, _ = step.step(torch.tensor([tokens[2]]), torch.tensor([1]))
    assert float(log_p[0].max() - log_p[0].min()) < 1


def test_a_hypothesis_that_is_copied_takes_along_what_it_was_about_to_copy() -> None:
    vocabulary = cities()
    step, tokens = pointing(vocabulary, CITIES, ["ber", " and", " and"])
    other = step.open(0, None)
    step.copy(torch.tensor([1]), torch.tensor([other]))  # before its first step it is about to copy nothing
    step.step(torch.tensor([vocabulary.start]), torch.tensor([1]))
    step.copy(torch.tensor([1]), torch.tensor([other]))
    log_p, _ = step.step(torch.tensor([tokens[0]]), torch.tensor([other]))
    assert int(log_p[0].argmax()) == tokens[1] and float(log_p[0].max()) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    ("text", "wanted"), [("é", (True, True)), (" a", (False, True)), ("(", (False, False)), (" 83", (False, True))]
)
def test_where_words_go_on(text: str, wanted: tuple[bool, bool]) -> None:
    vocabulary = learn([f"{text}{text}\n{text}\n" * 9], "subwords", 300)
    (token,) = vocabulary.encode(text)
    begins, ends = vocabulary.edges()
    assert (bool(begins[token]), bool(ends[token])) == wanted


def test_between_words_nothing_goes_on() -> None:
    assert not any(side.any() for side in learn(["a word 3\n"], "words", 9).edges())
    begins, ends = learn(["a 3."], "characters", 9).edges()
    assert begins.sum() == ends.sum() == 2
