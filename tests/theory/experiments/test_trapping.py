"""The landscapes."""

from __future__ import annotations

import numpy as np
import pytest

from adamomentum.theory.experiments import trapping


@pytest.mark.parametrize("landscape", trapping.LANDSCAPES, ids=lambda landscape: landscape.label)
def test_the_best_minimum_is_where_it_is_said_to_be(landscape) -> None:
    x = np.linspace(-10, 10, 400_001)
    slope = landscape.slope(x)
    height = np.concatenate([[0], np.cumsum((slope[1:] + slope[:-1]) / 2 * np.diff(x))])
    if landscape.label == "sharp hole":
        # The hole itself is lower at its bottom than its surroundings, and higher than the bowl's.
        assert height[np.abs(x - 3).argmin()] > height.min()
    assert x[height.argmin()] == pytest.approx(landscape.best, abs=0.02)
