"""Sampled softmax: its gradient approaches the full one, hits are masked, the sampler draws what it says."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from holdfast.engine import native
from holdfast.parts.sampled_softmax import AgainstOthers, NegativeSampler, against_others, sampled_softmax_loss

VOCABULARY, WIDTH, TOKENS = 31, 6, 5
ISAS = native.isas() if native.available() else []


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    before, threads = native.isa(), torch.get_num_threads()
    native.use_isa(request.param)
    yield request.param
    native.use_isa(before)
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")


def case() -> tuple[Tensor, Tensor, Tensor, Tensor, NegativeSampler]:
    rng = torch.Generator().manual_seed(0)
    h, weight, bias = (
        torch.randn(shape, generator=rng) for shape in ((TOKENS, WIDTH), (VOCABULARY, WIDTH), VOCABULARY)
    )
    targets = torch.tensor([0, 3, 3, 17, 30])
    return h, weight, bias, targets, NegativeSampler(torch.arange(1, VOCABULARY + 1).float().flip(0), 0.75)


def mean_gradient(negatives: int, draws: int) -> Tensor:
    h, weight, bias, targets, sampler = case()
    rng = torch.Generator().manual_seed(1)
    total = torch.zeros_like(weight)
    for _ in range(draws):
        weight.requires_grad_()
        items, log_q = sampler.draw(negatives, rng)
        (gradient,) = torch.autograd.grad(sampled_softmax_loss(h, weight, bias, targets, items, log_q), weight)
        total += gradient / draws
    return total


def test_expected_gradient_approaches_the_full_one() -> None:
    """The bias falls as one over the number of negatives; 200 draws leave noise well below these bounds."""
    h, weight, bias, targets, _ = case()
    weight.requires_grad_()
    (full,) = torch.autograd.grad(functional.cross_entropy(h @ weight.T + bias, targets), weight)
    off = {n: ((mean_gradient(n, 200) - full).norm() / full.norm()).item() for n in (4, 32, 1024)}
    assert off[4] > 2 * off[32] > 4 * off[1024]
    assert off[1024] < 0.01


def test_every_item_once_is_the_full_softmax() -> None:
    """With every item as a negative of expected count 1, the target's own masked, nothing is left to chance."""
    h, weight, bias, targets, _ = case()
    loss = sampled_softmax_loss(h, weight, bias, targets, torch.arange(VOCABULARY), torch.zeros(VOCABULARY))
    assert loss.item() == pytest.approx(functional.cross_entropy(h @ weight.T + bias, targets).item(), rel=1e-6)


def test_sparse_gradient_holds_the_rows_met() -> None:
    h, weight, bias, targets, sampler = case()
    items, log_q = sampler.draw(8, torch.Generator().manual_seed(3))
    weight.requires_grad_()
    dense, sparse = (
        torch.autograd.grad(sampled_softmax_loss(h, weight, bias, targets, items, log_q, sparse=way), weight)[0]
        for way in (False, True)
    )
    assert sparse.is_sparse and sparse._nnz() == TOKENS + len(set(items.tolist()))
    assert torch.allclose(sparse.to_dense(), dense, atol=1e-7)


def test_sampler_draws_by_powers_of_counts() -> None:
    counts = torch.tensor([0.0, 1.0, 16.0, 81.0, 0.0])
    items, log_q = NegativeSampler(counts, 0.5).draw(140_000, torch.Generator().manual_seed(0))
    seen = torch.bincount(items, minlength=5)
    assert seen[0] == seen[4] == 0
    expected = torch.tensor([1.0, 4.0, 9.0]) * 10_000
    assert ((seen[1:4] - expected).abs() < 5 * expected.sqrt()).all()  # five deviations
    assert torch.allclose(log_q.exp(), torch.tensor([0, 1e4, 4e4, 9e4, 0])[items])


def test_items_taken_always_come_once_and_others_are_drawn() -> None:
    counts = torch.tensor([5.0, 100.0, 1.0, 40.0, 4.0])
    items, log_q = NegativeSampler(counts, 0.5, always=2).draw(50_002, torch.Generator().manual_seed(0))
    seen = torch.bincount(items, minlength=5)
    assert items[:2].tolist() == [1, 3] and log_q[:2].tolist() == [0, 0] and seen[1] == seen[3] == 1
    expected = torch.tensor([5.0, 0.0, 1.0, 0.0, 4.0]).sqrt()
    expected *= 50_000 / expected.sum()
    assert ((seen - expected).abs() <= 5 * expected.sqrt() + 1).all()
    torch.testing.assert_close(log_q[2:].exp(), expected[items[2:]])


def test_an_item_drawn_twice_weighs_twice() -> None:
    h, weight, bias, targets, _ = case()
    twice = sampled_softmax_loss(h, weight, bias, targets, torch.tensor([5, 9, 5]), torch.zeros(3))
    once = sampled_softmax_loss(h, weight, bias, targets, torch.tensor([5, 9]), torch.tensor([2.0, 1.0]).log().neg())
    assert twice.item() == pytest.approx(once.item(), rel=1e-6)


def test_a_row_whose_target_is_the_only_negative_has_no_loss_and_no_gradient() -> None:
    h, weight, bias, targets, _ = case()
    h.requires_grad_()
    loss = sampled_softmax_loss(h, weight, bias, targets, torch.tensor([3]), torch.zeros(1))
    (gradient,) = torch.autograd.grad(loss, h)
    assert gradient.isfinite().all() and gradient[1:3].abs().max() < 1e-7 and (gradient[0] != 0).any()


def against(tokens: int, width: int, negatives: int) -> tuple[list[Tensor], Tensor]:
    """h, others, offset and chosen with gradients, and hits: about half of the tokens have one."""
    rng = torch.Generator().manual_seed(tokens)
    sizes = ((tokens, width), (negatives, width), (negatives,), (tokens,))
    hits = torch.randint(-negatives, negatives, (tokens,), generator=rng).clamp_(min=-1)
    return [torch.randn(size, generator=rng).requires_grad_() for size in sizes], hits


@pytest.mark.parametrize("isa", ISAS, indirect=True)
@pytest.mark.parametrize(("precision", "close"), [("highest", 1e-5), ("medium", 2e-2)])
@pytest.mark.parametrize("size", [(1, 1, 1), (5, 6, 31), (130, 33, 97), (300, 20, 500)])
def test_kernels_agree_with_torch(isa: str, precision: str, close: float, size: tuple[int, int, int]) -> None:
    given, hits = against(*size)
    wanted = against_others(*(t.double() for t in given), hits)
    torch.set_float32_matmul_precision(precision)
    found: Tensor = AgainstOthers.apply(*given, hits)  # pyright: ignore[reportAssignmentType]
    assert found.item() == pytest.approx(wanted.item(), rel=close, abs=1e-6)
    pairs = zip(torch.autograd.grad(3 * found, given), torch.autograd.grad(3 * wanted, given), strict=True)
    for one, other in pairs:
        assert (one - other).norm() <= close * other.norm() + 1e-6


@pytest.mark.parametrize("isa", ISAS, indirect=True)
def test_same_bits_on_any_number_of_threads(isa: str) -> None:
    given, hits = against(300, 64, 900)
    results: list[list[Tensor]] = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        loss: Tensor = AgainstOthers.apply(*given, hits)  # pyright: ignore[reportAssignmentType]
        results.append([loss.detach(), *torch.autograd.grad(loss, given)])
    assert all(torch.equal(one, other) for more in results[1:] for one, other in zip(results[0], more, strict=True))


def test_derivatives_of_every_kind() -> None:
    """Some inputs without a gradient, the graph gone through twice, second derivatives, torch.func."""
    given, hits = against(5, 4, 7)
    h, others, offset, chosen = given
    loss: Tensor = AgainstOthers.apply(h, others.detach(), offset, chosen.detach(), hits)  # pyright: ignore
    first = torch.autograd.grad(loss, (h, offset), retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(loss, (h, offset)), strict=True):
        torch.testing.assert_close(one, other)

    def curvature(function: object) -> list[Tensor]:
        slope = torch.autograd.grad(function(*given, hits), given, create_graph=True)  # pyright: ignore
        return list(torch.autograd.grad(sum(g.square().sum() for g in slope), given))  # pyright: ignore

    for one, other in zip(curvature(AgainstOthers.apply), curvature(against_others), strict=True):
        torch.testing.assert_close(one, other)
    h, weight, bias, targets, sampler = case()
    items, log_q = sampler.draw(8, torch.Generator().manual_seed(3))
    slope = torch.func.grad(lambda h: sampled_softmax_loss(h, weight, bias, targets, items, log_q))(h)
    h.requires_grad_()
    sampled_softmax_loss(h, weight, bias, targets, items, log_q).backward()
    torch.testing.assert_close(h.grad, slope)


def test_misuse_is_named() -> None:
    h, weight, bias, targets, _ = case()
    with pytest.raises(ValueError, match="counts must be"):
        NegativeSampler(torch.zeros(3))
    with pytest.raises(ValueError, match="counts must be"):
        NegativeSampler(torch.ones(3, 3), always=2)
    with pytest.raises(ValueError, match="taken always"):
        NegativeSampler(torch.tensor([1.0, 2.0, 0.0]), always=2)
    with pytest.raises(ValueError, match="of 2 none would be drawn"):
        NegativeSampler(torch.ones(5), always=2).draw(2, torch.Generator())
    with pytest.raises(ValueError, match="do not fit"):
        sampled_softmax_loss(h, weight[:, 1:], bias, targets, targets, targets.float())
    with pytest.raises(ValueError, match="negatives and log_q"):
        sampled_softmax_loss(h, weight, bias, targets, targets, targets[1:].float())
