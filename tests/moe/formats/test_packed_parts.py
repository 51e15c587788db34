"""Parts of quantised checkpoints: experts travel in the few bits of their files."""

from pathlib import Path

from tests.moe.delivery.checked import check_part


def test_a_delivered_submodel_is_that_of_the_whole_checkpoint(packed: Path, tmp_path: Path) -> None:
    check_part(packed, tmp_path / "part")
