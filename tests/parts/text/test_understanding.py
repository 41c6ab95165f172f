"""What comes out of logits by hand; texts alone and among others."""

import dataclasses

import numpy as np
import pytest
import torch

from holdfast.parts.text.conversation import Asked, Slot, Turn
from holdfast.parts.text.message_network import MessageNetwork, Rates, Sizes
from holdfast.parts.text.message_vocabulary import MessageFacts, learn_messages
from holdfast.parts.text.understanding import AT_ONCE, Understood, understand, understood

from .messages import MESSAGES, TURNS

TEXTS = ["Book  a TABLE in San Jose, please", "", "card?", "what do cats dream of", "  "]
ASKED = [Asked(Turn("user", text)) for text in TEXTS]


def made(facts: MessageFacts) -> MessageNetwork:
    torch.manual_seed(2)
    net = MessageNetwork(facts, Sizes(5, 6, 1, 2), Rates(0.5, 0.5, 0.5, 0.0, 0.1))
    torch.nn.init.normal_(net.wide.weight)
    return net.eval()


def test_an_answer_by_hand() -> None:
    facts = learn_messages(MESSAGES)  # card, table, oos
    logits, slots = np.log([0.3, 0.5, 0.2]).astype(np.float32), (Slot("who", "Sino"),)
    one = understood(facts, logits, slots)
    assert one.intent == "table" and one.slots == slots
    assert one.confidence == pytest.approx(0.5, rel=1e-5)
    assert one.alternatives == (("table", pytest.approx(0.5, rel=1e-5)), ("card", pytest.approx(0.3, rel=1e-5)))
    strict = understood(dataclasses.replace(facts, threshold=float(np.log(0.5 / 0.2)) + 0.01), logits, slots)
    assert strict == dataclasses.replace(one, intent=None)
    outside = understood(facts, np.log([0.1, 0.2, 0.7]), ())
    assert outside.intent is None and outside.alternatives[0][0] == "table"


def test_a_temperature_changes_how_sure_an_answer_is_and_nothing_else() -> None:
    facts, logits = learn_messages(MESSAGES), np.log([0.3, 0.5, 0.2]).astype(np.float32)
    for threshold in (np.log(0.5 / 0.2) - 0.01, np.log(0.5 / 0.2) + 0.01):
        plain = dataclasses.replace(facts, threshold=float(threshold))
        one, sharp = (understood(known, logits, ()) for known in (plain, dataclasses.replace(plain, temperature=0.5)))
        assert sharp.intent == one.intent and [name for name, _ in sharp.alternatives] == ["table", "card"]
        squares = 0.3**2 + 0.5**2 + 0.2**2
        assert [chance for _, chance in sharp.alternatives] == pytest.approx([0.5**2 / squares, 0.3**2 / squares])
        assert sharp.confidence == sharp.alternatives[0][1]


def test_without_intents_only_slots_are_found() -> None:
    facts = learn_messages([Asked(dataclasses.replace(turn, intent=None)) for turn in TURNS])
    assert understood(facts, np.zeros(1), [Slot("who", "I")]) == Understood(None, 0.0, (), (Slot("who", "I"),))
    assert all(one.intent is None and not one.alternatives for one in understand(made(facts), facts, ASKED))


def test_texts_are_understood_alone_as_among_others() -> None:
    facts = learn_messages(MESSAGES)
    net = made(facts)
    messages = ASKED * (AT_ONCE // len(ASKED) + 2)
    many = understand(net, facts, messages)
    assert len(many) == len(messages) > AT_ONCE
    for asked, one in zip(messages[:7], many, strict=False):
        (alone,) = understand(net, facts, [asked])
        assert (alone.intent, alone.slots) == (one.intent, one.slots)
        assert alone.confidence == pytest.approx(one.confidence, abs=1e-5)  # float32 sums in another order
    assert understand(net, facts, []) == []


def test_values_stand_as_the_text_has_them() -> None:
    facts = learn_messages(MESSAGES)
    net = made(facts)
    with torch.no_grad():
        for reader in net.readers:
            reader.tag.weight.zero_()
            reader.tag.bias.copy_(torch.tensor([0.0, 0.0, 9.0, 0.0, 0.0]))  # I-where, were it allowed
            reader.tag.bias[1] = 1.0
    assert understand(net, facts, ASKED)[0].slots == (Slot("where", TEXTS[0]),)
    assert understand(net, facts, ASKED)[1].slots == ()


def test_understanding_throws_no_dice_and_leaves_the_network_as_it_was() -> None:
    facts = learn_messages([*MESSAGES, Asked(Turn("user", "card card", "card", ()))])
    net = made(facts).train()
    assert understand(net, facts, ASKED) == understand(net, facts, ASKED)
    assert net.training and not net.wide.weight.grad_fn
