"""``python -m moe.inspect``."""

from collections.abc import Callable
from pathlib import Path

import pytest

from moe.inspect.command import main


def test_it_tells_what_a_device_would_hold(
    tiny: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tiny("mixtral"))]) == 0
    told = capsys.readouterr().out
    for line in (
        "mixtral (tested)",
        "2 of 2",
        "MixtralTopKRouter, weight [8, 32]",
        "fc_in 32->48, fc_out 24->32",
    ):
        assert line in told
    # 51,840 shared bytes and 2 layers of 1 expert of 9,216 bytes, of 8: 70,272 of 199,296 bytes
    # While tuned, B of 48 + 32 rows of 8 with gradient and two moments, and A of 8 x (32 + 24):
    # 4 * (4 * 640 + 448) = 12,032 bytes more an expert
    assert "LoRA of rank 8 with AdamW" in told
    assert "1 experts   70.27 kB   35% of the whole  (94.34 kB)" in told
    assert "2 experts   88.70 kB   45% of the whole  (136.83 kB)" in told
    assert "self-test" not in told


def test_the_self_test_is_on_request(tiny: Callable[[str], Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tiny("gpt_oss")), "--self-test"]) == 0
    assert "self-test passed" in capsys.readouterr().out


def test_a_fault_is_one_line_and_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("moe.inspect: checkpoint")
