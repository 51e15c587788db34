"""What an assignment captures, on shares worked out by hand."""

import numpy as np
import pytest

from demo import measure


def test_the_best_assignment_gives_no_expert_twice_and_captures_most() -> None:
    # Both domains like expert 0 best; 0.6 + 0.3 beats 0.5 + 0.3 and every other pair.
    shares_DLE = np.array([[[0.6, 0.3, 0.1]], [[0.5, 0.3, 0.2]]])
    captured_DL, experts_DL = measure.best_capture(shares_DLE)
    assert experts_DL.tolist() == [[0], [1]]
    assert captured_DL == pytest.approx(np.array([[0.6], [0.3]]))


def test_uniform_routing_captures_one_share() -> None:
    captured_DL, _ = measure.best_capture(np.full((4, 3, 8), 1 / 8))
    assert captured_DL == pytest.approx(1 / 8)
