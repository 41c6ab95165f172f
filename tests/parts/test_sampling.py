"""Which token is chosen."""

import numpy as np
import pytest

from holdfast.parts.text.sampling import Sampling

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))


def shares(sampling: Sampling, past: list[int] | None = None, draws: int = 4000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.bincount([sampling.choose(LOGITS, past or [], rng) for _ in range(draws)], minlength=4) / draws


def test_drawn_as_often_as_likely() -> None:
    np.testing.assert_allclose(shares(Sampling()), [0.5, 0.3, 0.15, 0.05], atol=0.03)  # four standard deviations


def test_temperature() -> None:
    assert shares(Sampling(temperature=0)).tolist() == [1, 0, 0, 0]
    powers = np.array([0.5, 0.3, 0.15, 0.05]) ** 2
    np.testing.assert_allclose(shares(Sampling(temperature=0.5)), powers / powers.sum(), atol=0.03)


def test_top_k_and_top_p() -> None:
    np.testing.assert_allclose(shares(Sampling(top_k=2)), [5 / 8, 3 / 8, 0, 0], atol=0.03)
    np.testing.assert_allclose(shares(Sampling(top_p=0.7)), [5 / 8, 3 / 8, 0, 0], atol=0.03)
    assert shares(Sampling(top_p=0.4)).tolist() == [1, 0, 0, 0]  # one at least


def test_repetition_divides_the_odds() -> None:
    weights = np.array([0.5 / 2, 0.3, 0.15, 0.05])
    np.testing.assert_allclose(shares(Sampling(repetition=2), [0, 0]), weights / weights.sum(), atol=0.03)


def test_no_run_comes_twice() -> None:
    assert Sampling(no_repeat=3).would_repeat([1, 2, 3, 1, 2]) == {3}
    assert Sampling(no_repeat=2).would_repeat([1, 2, 1, 3, 1]) == {2, 3}
    assert Sampling(no_repeat=3).would_repeat([1, 2]) == set()
    assert shares(Sampling(no_repeat=1), [0, 2])[[0, 2]].sum() == 0


def test_where_everything_would_repeat_it_is_said() -> None:
    with pytest.raises(ValueError, match="every token would repeat"):
        Sampling(no_repeat=1).choose(LOGITS, [0, 1, 2, 3], np.random.default_rng(0))


def test_choosing_leaves_the_logits_alone() -> None:
    logits = LOGITS.copy()
    Sampling(repetition=2, no_repeat=1).choose(logits, [0], np.random.default_rng(0))
    np.testing.assert_array_equal(logits, LOGITS)
