"""Attention and the translator's network: against loops, against the decoder that writes, alone and padded."""

import pytest
import torch
from torch import Tensor

from holdfast import State
from holdfast.parts.text.attention import Source, attend, attend_backward, outside_of
from holdfast.parts.text.input_feeding import Combine, Masks, feed_input
from holdfast.parts.text.translation_network import IGNORED, Dropout, Encoded, Sizes, TranslationNetwork
from tests.engine.single_layer import needs_native

STEPS, BATCH, TIME, WIDTH, HIDDEN = 5, 3, 4, 6, 7
LENGTHS = torch.tensor([4, 1, 3])


def network(layers: int, input_feeding: bool = True, dropout: float = 0.0, words: int = 23) -> TranslationNetwork:
    torch.manual_seed(0)
    rates = Dropout(dropout, dropout, dropout)
    return TranslationNetwork(words, Sizes(WIDTH, HIDDEN, 2, layers), rates, input_feeding, 0.1)


def tokens(steps: int, words: int = 23, seed: int = 1) -> Tensor:
    return torch.randint(words, (steps, BATCH), generator=torch.Generator().manual_seed(seed))


def test_attention_is_a_loop_over_rows_and_steps() -> None:
    torch.manual_seed(0)
    s, keys, values = torch.randn(3, 2, 7), torch.randn(3, 4, 7), torch.randn(3, 4, 5)
    context, alpha = attend(s, Source(keys, values, outside_of(LENGTHS, 4)))
    for row, length in enumerate(LENGTHS.tolist()):
        for step in range(2):
            wanted = torch.softmax(torch.stack([s[row, step] @ keys[row, t] for t in range(length)]), 0)
            torch.testing.assert_close(alpha[row, step, :length], wanted)
            assert not alpha[row, step, length:].any()
            torch.testing.assert_close(context[row, step], sum(w * values[row, t] for t, w in enumerate(wanted)))


def by_graph(net: TranslationNetwork, embedded: Tensor, encoded: Encoded, masks: Masks) -> Tensor:
    """a of every step, each step a piece of autograd's graph."""
    h, c = list(encoded.h), list(encoded.c)
    a, given = embedded.new_zeros(BATCH, WIDTH), list[Tensor]()
    for t, word in enumerate(embedded):
        x = torch.cat([word, a], dim=1)
        for number, layer in enumerate(net.decoder.layers):
            if number and masks.between is not None:
                x = x * masks.between[number - 1]
            i, f, g, o = (x @ layer.weight_ih.T + h[number] @ layer.weight_hh.T + layer.bias).chunk(4, dim=1)
            c[number] = f.sigmoid() * c[number] + i.sigmoid() * g.tanh()
            x = h[number] = o.sigmoid() * c[number].tanh()
        context, _ = attend(x.unsqueeze(1), encoded.source)
        a = net.combine(torch.cat([context[:, 0], x], dim=1)).tanh()
        a = a if masks.combined is None else a * masks.combined[t]
        given.append(a)
    return torch.stack(given)


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("dropped", [False, True])
def test_the_loop_and_all_its_gradients_are_those_of_the_equations(layers: int, dropped: bool) -> None:
    """float64: what is left are differences in the order of sums."""
    net = network(layers).double().train()
    embedded = torch.randn(STEPS, BATCH, WIDTH, dtype=torch.float64, requires_grad=True)
    keys, values = (torch.randn(BATCH, TIME, n, dtype=torch.float64, requires_grad=True) for n in (HIDDEN, 6))
    h, c = (torch.randn(layers, BATCH, HIDDEN, dtype=torch.float64, requires_grad=True) for _ in range(2))
    encoded = Encoded(Source(keys, values, outside_of(LENGTHS, TIME)), h, c)
    masks = Masks(None, None)
    if dropped:
        between = torch.rand(layers - 1, BATCH, HIDDEN, dtype=torch.float64)
        masks = Masks(between, torch.rand(STEPS, BATCH, WIDTH, dtype=torch.float64))
    inputs = [embedded, keys, values, h, c, *net.decoder.parameters(), *net.combine.parameters()]
    outer = torch.randn(STEPS, BATCH, WIDTH, dtype=torch.float64)
    weights = [layer.weights() for layer in net.decoder.layers]
    combine = Combine(net.combine.weight, net.combine.bias)
    states = [State(*pair) for pair in zip(h, c, strict=True)]
    ours = feed_input(embedded, weights, combine, encoded.source, states, masks)
    theirs = by_graph(net, embedded, encoded, masks)
    torch.testing.assert_close(ours, theirs)
    found, wanted = (torch.autograd.grad((y * outer).sum(), inputs) for y in (ours, theirs))
    for got, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_the_way_back_is_open_once() -> None:
    net = network(1)
    a = net(net.encode(tokens(TIME), LENGTHS), tokens(STEPS, seed=2))
    a.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second way back"):
        a.sum().backward()


def test_weights_that_changed_meanwhile_are_refused() -> None:
    net = network(1)
    a = net(net.encode(tokens(TIME), LENGTHS), tokens(STEPS, seed=2))
    with torch.no_grad():
        net.combine.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        a.sum().backward()


def test_attention_s_way_back_is_autograd_s() -> None:
    torch.manual_seed(0)
    s, keys, values = (torch.randn(*shape, dtype=torch.float64) for shape in ((3, 1, 7), (3, 4, 7), (3, 4, 5)))
    s.requires_grad_()
    source, outer = Source(keys, values, outside_of(LENGTHS, 4)), torch.randn(3, 1, 5, dtype=torch.float64)
    context, alpha = attend(s, source)
    (wanted,) = torch.autograd.grad((context * outer).sum(), s)
    found, dscores = attend_backward(outer[:, 0], alpha[:, 0].detach(), source)
    torch.testing.assert_close(found, wanted[:, 0])
    assert not dscores[source.outside].any()


@needs_native
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("input_feeding", [True, False])
def test_what_is_trained_is_what_writes(layers: int, input_feeding: bool) -> None:
    """Five steps in float32, each feeding the next: 1e-5, as in tests/engine/test_decoder.py."""
    net = network(layers, input_feeding).eval()
    before = tokens(STEPS)
    with torch.no_grad():
        encoded = net.encode(tokens(TIME, seed=2), LENGTHS)
        a = net(encoded, before)
        wanted = torch.nn.functional.linear(a, net.embedding.weight, net.bias).log_softmax(-1)
        step = net.step(BATCH)
        keys, values, _ = encoded.source
        slots: list[int] = []
        for row, length in enumerate(LENGTHS.tolist()):
            source = step.open_source(keys[row, :length], values[row, :length])
            slots.append(step.open(source, list(zip(encoded.h[:, row], encoded.c[:, row], strict=True))))
        for t in range(STEPS):
            found, _ = step.step(before[t], torch.tensor(slots))
            torch.testing.assert_close(found, wanted[t], atol=1e-5, rtol=0)


@pytest.mark.parametrize("input_feeding", [True, False])
@torch.no_grad()
def test_padding_never_matters(input_feeding: bool) -> None:
    net = network(2, input_feeding).eval()
    source, before, targets = tokens(TIME), tokens(STEPS, seed=2), tokens(STEPS, seed=3)
    ends = torch.tensor([2, 5, 3])
    past = torch.arange(STEPS).unsqueeze(1) >= ends
    together = net.loss(net(net.encode(source, LENGTHS), before), torch.where(past, IGNORED, targets))
    other = torch.where(torch.arange(TIME).unsqueeze(1) >= LENGTHS, 5, source)
    again = net.loss(net(net.encode(other, LENGTHS), torch.where(past, 7, before)), torch.where(past, IGNORED, targets))
    assert float(again) == float(together)
    alone = 0.0
    for row in range(BATCH):
        length, end = int(LENGTHS[row]), int(ends[row])
        encoded = net.encode(source[:length, row : row + 1], LENGTHS[row : row + 1])
        alone += float(net.loss(net(encoded, before[:end, row : row + 1]), targets[:end, row : row + 1]))
    assert alone == pytest.approx(float(together), rel=1e-5)


@pytest.mark.parametrize("input_feeding", [True, False])
def test_training_uses_torch_s_dice_and_smoothing_is_for_training_only(input_feeding: bool) -> None:
    net = network(2, input_feeding, dropout=0.3)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(net.loss(net(net.encode(tokens(TIME), LENGTHS), tokens(STEPS, seed=2)), tokens(STEPS)).detach())

    net.train()
    assert loss(0) == loss(0) != loss(1)
    net.eval()
    assert loss(0) == loss(1)
    a = net(net.encode(tokens(TIME), LENGTHS), tokens(STEPS, seed=2))
    logits = torch.nn.functional.linear(a, net.embedding.weight, net.bias)
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens(STEPS).flatten(), reduction="sum")
    assert loss(0) == pytest.approx(float(wanted.detach()), rel=1e-5)
