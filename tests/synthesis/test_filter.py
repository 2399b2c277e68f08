"""The filter: which views pass, and which of the others is the least bad."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rap.config import ConfigError, ViewsConfig
from rap.synthesis.filter import accept, badness

measures = st.one_of(st.floats(0, 1, width=32), st.just(float("nan")))
scores_or_nan = st.one_of(st.floats(-20, 200, width=32), st.sampled_from([float("nan"), torch.inf]))


@given(
    coverage=measures,
    score=scores_or_nan,
    low=st.floats(0, 1, width=32, exclude_max=True),
    high=st.floats(0, 150, width=32),
)
def test_passing_is_not_being_bad(coverage: float, score: float, low: float, high: float) -> None:
    """A view passes where both measures hold, NaN never does, and then its badness is zero."""
    config = ViewsConfig(min_coverage=low, max_brisque=high)
    both = torch.tensor([coverage]), torch.tensor([score])
    expected = coverage >= low and (high == 0 or score <= high)
    assert bool(accept(*both, config)) == expected
    assert (float(badness(*both, config)) == 0) == expected
    assert not bool(badness(*both, config).isnan())


def test_badness_orders_what_is_rejected(device: torch.device) -> None:
    """Emptier is worse, worse scores are worse, and an infinite score is the worst."""
    config = ViewsConfig(min_coverage=0.8, max_brisque=40.0)
    coverage = torch.tensor([0.7, 0.6, 0.9, 0.9, 0.9], device=device)
    scores = torch.tensor([30.0, 30.0, 70.0, 110.0, torch.inf], device=device)
    found = badness(coverage, scores, config).tolist()
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.7, torch.inf])


def test_scores_count_only_where_they_are_asked_for() -> None:
    """With max_brisque = 0, or without scores, coverage alone decides."""
    coverage, scores = torch.tensor([0.4, 0.6]), torch.tensor([0.0, 150.0])
    assert accept(coverage, scores, ViewsConfig(min_coverage=0.5)).tolist() == [False, True]
    config = ViewsConfig(min_coverage=0.5, max_brisque=30.0)
    assert accept(coverage, None, config).tolist() == [False, True]
    assert accept(coverage, scores, config).tolist() == [False, False]


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_a_threshold_below_zero_is_refused(value: float) -> None:
    """Zero switches the score off; there is nothing below."""
    with pytest.raises(ConfigError, match=r"views\.max_brisque = .* must be at least 0"):
        ViewsConfig(max_brisque=value)
