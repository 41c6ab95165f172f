"""What is found on validation messages: how sure an intent is, and what is taken for none."""

import dataclasses

import numpy as np
import torch

from holdfast.parts import classification
from holdfast.parts.text.chat_scores import judge_messages, temperature_of, threshold_of
from holdfast.parts.text.conversation import Asked, Turn
from holdfast.parts.text.message_network import MessageNetwork, Rates, Sizes
from holdfast.parts.text.message_vocabulary import MessageFacts, learn_messages
from holdfast.parts.text.understanding import read

from .messages import MESSAGES

LABELLED = [one for one in MESSAGES if one.turn.intent is not None]


def shouting(facts: MessageFacts) -> MessageNetwork:
    """A network that knows nothing and is sure of it."""
    torch.manual_seed(4)
    net = MessageNetwork(facts, Sizes(5, 6, 1, 1), Rates())
    torch.nn.init.normal_(net.wide.weight, std=3.0)
    return net.eval()


def test_the_temperature_lowers_the_loss_and_brings_confidence_to_what_is_right() -> None:
    facts = learn_messages(MESSAGES)
    net = shouting(facts)
    found = temperature_of(net, facts, MESSAGES)
    truth = np.array([facts.class_numbers[one.turn.intent or ""] for one in LABELLED])
    logits = torch.from_numpy(read(net, facts, LABELLED)[0])
    losses = [classification.log_loss(truth, (logits / t).softmax(-1).numpy()) for t in (found, 1.0)]
    assert found > 1.5 and losses[0] < losses[1] - 0.1
    cooler = dataclasses.replace(facts, temperature=found)
    plain, honest = (judge_messages(net, known, LABELLED) for known in (facts, cooler))
    assert honest["holdfast"]["accuracy"] == plain["holdfast"]["accuracy"]
    assert honest["holdfast"]["calibration_error"] < plain["holdfast"]["calibration_error"]
    assert honest["naive Bayes"] == plain["naive Bayes"]


def test_messages_nobody_labelled_change_neither_threshold_nor_temperature() -> None:
    facts = dataclasses.replace(learn_messages(MESSAGES), threshold=0.25, temperature=1.5)
    net = shouting(facts)
    assert temperature_of(net, facts, [Asked(Turn("user", "card"))]) == 1.5
    assert temperature_of(net, facts, [Asked(Turn("user", "card", "never met"))]) == 1.5
    assert threshold_of(net, facts, [Asked(Turn("user", "card"))], 0.95) == 0.25


def test_a_threshold_keeps_the_share_that_was_asked_for() -> None:
    facts = learn_messages(MESSAGES)
    net = shouting(facts)
    inside = [one for one in MESSAGES if one.turn.intent not in (None, facts.outside)]
    for accepted in (0.5, 1.0):
        known = dataclasses.replace(facts, threshold=threshold_of(net, facts, inside, accepted))
        kept = judge_messages(net, known, inside)["holdfast"]["kept"]
        assert accepted <= kept < accepted + 1 / len(inside)  # not one message more is lost than may be
