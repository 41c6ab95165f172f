"""The adaptive softmax is torch's, with the same parameters: losses, gradients, probabilities, likeliest words."""

import pytest
import torch
from torch import nn

from holdfast.parts.adaptive_softmax import AdaptiveSoftmax

CUTOFFS = [7, 20, 51]


def pair(bias: bool) -> tuple[AdaptiveSoftmax, nn.AdaptiveLogSoftmaxWithLoss]:
    torch.manual_seed(0)
    ours = AdaptiveSoftmax(60, 97, CUTOFFS, divisor=3.0, head_bias=bias)
    theirs = nn.AdaptiveLogSoftmaxWithLoss(60, 97, CUTOFFS, div_value=3.0, head_bias=bias)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("last", [97, 20])  # targets from everywhere; two clusters without any
def test_loss_and_gradients_are_torchs(bias: bool, last: int) -> None:
    ours, theirs = pair(bias)
    h = torch.randn(41, 60, requires_grad=True)
    targets = torch.randint(0, last, (41,))
    loss, wanted = ours.loss(h, targets), theirs(h, targets).loss
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    mine = torch.autograd.grad(loss, [h, *ours.parameters()], allow_unused=True)
    others = torch.autograd.grad(wanted, [h, *theirs.parameters()], allow_unused=True)
    for one, other in zip(mine, others, strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:  # sums of 41 float32 terms of size 1
            assert (one - other).abs().max() < 2e-6


def test_probabilities_and_likeliest_words() -> None:
    ours, theirs = pair(True)
    h = torch.randn(41, 60)
    everything = ours.log_prob(h)
    assert torch.allclose(everything, theirs.log_prob(h), atol=1e-5)
    assert torch.equal(ours.predict(h), theirs.predict(h))
    for k in (1, 5, 30, 97):  # fewer and more than the head has, and all
        values, words = ours.top_k(h, k)
        assert torch.allclose(values, everything.topk(k, 1).values, atol=1e-5)
        assert torch.allclose(everything.gather(1, words), values, atol=1e-5)
        assert all(len(set(row)) == k for row in words.tolist())


def test_ignored_tokens_and_none() -> None:
    ours, theirs = pair(True)
    h, targets = torch.randn(9, 60), torch.arange(9) * 11
    ignored = targets.clone()
    ignored[2::3] = -100
    kept = ignored >= 0
    assert ours.loss(h, ignored).item() == pytest.approx(theirs(h[kept], targets[kept]).loss.item(), rel=1e-6)
    assert ours.loss(h, torch.full((9,), -100)).item() == 0
    assert ours.loss(h[:0], targets[:0]).item() == 0


def test_misuse_is_named() -> None:
    for cutoffs in ([], [7, 7], [0, 5], [97]):
        with pytest.raises(ValueError, match="cutoffs must rise within 1 to 96"):
            AdaptiveSoftmax(60, 97, cutoffs)
    ours, _ = pair(True)
    with pytest.raises(ValueError, match="target 97 of token 1 lies outside the vocabulary"):
        ours.loss(torch.randn(3, 60), torch.tensor([-100, 97, -3]))
    with pytest.raises(ValueError, match="h must be"):
        ours.loss(torch.randn(3, 59), torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="k must lie"):
        ours.top_k(torch.randn(3, 60), 98)
