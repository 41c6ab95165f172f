"""Copying: the mixture, and a step that writes what training has it learn."""

import pytest
import torch
from torch import nn

from holdfast.engine import library
from holdfast.parts.text.conversation import Slot, Turn
from holdfast.parts.text.exchanges import Limits, exchanges, spoken
from holdfast.parts.text.pointer import LEAST, mixed_surprise, pointed
from holdfast.parts.text.reply_network import ReplyNetwork, Sizes
from holdfast.parts.text.tokens import learn
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
