import json
from pathlib import Path

import pytest

from benchmarks.contacts import main


def test_the_benchmark_ends_with_one_json_line_and_finds_the_truth(
    shared_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("skyfield")
    assert main(["--data", str(shared_data / "orbits"), "--sites", "6", "--rounds", "1"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (result["missed"], result["invented"]) == (0, 0)
    assert result["max_error_s"] <= 0.010
    for name in ("pair_days_per_s", "skyfield_pair_days_per_s", "ratio", "peak_rss_mb"):
        assert result[name] > 0.0


def test_the_benchmark_says_where_its_data_should_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path / "none")]) == 2
    assert "no orbit data at" in capsys.readouterr().err
