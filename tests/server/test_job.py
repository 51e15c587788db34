"""What is refused before a run begins."""

import pytest

from server.job import check_memory


def test_a_model_larger_than_the_machine_is_refused_with_the_way_out() -> None:
    check_memory(8_000_000_000, 8_000_000_000)
    with pytest.raises(
        ValueError, match=r"61\.1 GB in model\.dtype.*has 16\.0 GB of memory; set evaluate\.streamed = true"
    ):
        check_memory(61_100_000_000, 16_000_000_000)
