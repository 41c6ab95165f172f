"""Translators side by side: each as it is alone, and together the mean of their probabilities."""

import pytest
import torch

from holdfast.parts.text.beam import Begin, Search, search_all
from holdfast.parts.text.translation_ensemble import TranslationEnsemble, same
from holdfast.parts.text.translation_network import Dropout, Encoded, Sizes, TranslationNetwork
from tests.engine.single_layer import needs_native

WORDS, STEPS, BATCH, TIME = 11, 5, 3, 4
LENGTHS = torch.tensor([4, 1, 3])


def ensemble(layers: int = 2) -> TranslationEnsemble:
    torch.manual_seed(0)
    return TranslationEnsemble(3, WORDS, Sizes(6, 8, 1, layers), Dropout(), smoothing=0.1).eval()


def tokens(steps: int, seed: int) -> torch.Tensor:
    return torch.randint(WORDS, (steps, BATCH), generator=torch.Generator().manual_seed(seed))


def row(encoded: Encoded, number: int, length: int) -> Begin:
    keys, values, _ = encoded.source
    states = list(zip(encoded.h[:, number], encoded.c[:, number], strict=True))
    return Begin(keys[number, :length], values[number, :length], states)


def test_members_are_unlike_and_learn_each_for_itself() -> None:
    net = ensemble()
    source, before, targets = tokens(TIME, 1), tokens(STEPS, 2), tokens(STEPS, 3)
    loss = net.loss(net(net.encode(source, LENGTHS), before), targets)
    alone = [member.loss(member(member.encode(source, LENGTHS), before), targets) for member in net.every]
    assert len({float(one.detach()) for one in alone}) == 3
    torch.testing.assert_close(loss, torch.stack(alone).mean())
    inputs = list(net.parameters())
    found, wanted = (torch.autograd.grad(one, inputs) for one in (loss, torch.stack(alone).mean()))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)


@needs_native
@pytest.mark.parametrize("layers", [1, 2])
@torch.no_grad()
def test_together_they_write_the_mean_of_their_probabilities(layers: int) -> None:
    """Float32, each step feeding the next: 1e-5, as in tests/parts/test_input_feeding.py."""
    net = ensemble(layers)
    source, before = tokens(TIME, 1), tokens(STEPS, 2)
    encoded = net.encode(source, LENGTHS)
    parts = net(encoded, before).chunk(3, dim=2)
    chances = [
        torch.nn.functional.linear(a, member.embedding.weight, member.bias).softmax(-1)
        for a, member in zip(parts, net.every, strict=True)
    ]
    wanted = torch.stack(chances).mean(0).log()
    step = net.step(BATCH)
    slots: list[int] = []
    for number, length in enumerate(LENGTHS.tolist()):
        begin = row(encoded, number, length)
        slots.append(step.open(step.open_source(begin.keys, begin.values), begin.states))
    for t in range(STEPS):
        found, alpha = step.step(before[t], torch.tensor(slots))
        torch.testing.assert_close(found, wanted[t], atol=1e-5, rtol=0)
        torch.testing.assert_close(alpha.sum(1), torch.ones(BATCH))


@needs_native
@torch.no_grad()
def test_an_ensemble_of_one_is_the_network() -> None:
    net = ensemble()
    (alone, *_) = net.every
    net.members = torch.nn.ModuleList([alone])
    source, search = tokens(TIME, 1), Search(beam=3, best=3)

    def found(one: TranslationNetwork | TranslationEnsemble) -> list[tuple[int, ...]]:
        begins = [row(one.encode(source, LENGTHS), number, length) for number, length in enumerate(LENGTHS.tolist())]
        return [way.tokens for ways in search_all(one.step(9), begins, 2, search) for way in ways]

    assert found(net) == found(alone)


def test_members_that_disagree_about_a_handle_are_caught() -> None:
    assert same([4, 4]) == 4
    with pytest.raises(RuntimeError, match=r"\[4, 5\]"):
        same([4, 5])
