"""A run that a full disk stops goes on when there is room, to the very same end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scenario.settings.config import Scalar
from scenario.settings.reading import read_config
from server.app import run
from server.record.run_log import EVENTS_FILE
from tests.fake_grid import FakeGrid
from tests.full_disk import contents, files_at_most

Settings = dict[str, Scalar]


# What is printed goes to memory: it must not count as a file of pytest's.
@pytest.mark.usefixtures("capsys")
def test_a_run_that_a_full_disk_stops_twice_ends_as_one_that_was_never_stopped(
    tiny_run: Settings,
    clients: Callable[..., FakeGrid],
    checkpoint: Path,
    tmp_path: Path,
) -> None:
    settings = {**tiny_run, "merge.max-merges": 3, "run.export-merged": True, "evaluate.every-merges": 100}
    # The page brings its library, 2 MB: on this disk, where files are small, it would be the first refused.
    settings["report.page"] = False
    whole = run(clients(settings), read_config({**settings, "run.dir": str(tmp_path / "whole")}))
    folder_name, num_answers = r"The run in .* is saved up to its last state", 0

    def spoil(_: Any) -> None:
        nonlocal num_answers
        num_answers += 1
        if num_answers == 14:  # the profiles are in, and the first devices are training
            full.__enter__()

    full = files_at_most(1000)
    try:
        with pytest.raises(OSError, match=rf"cannot be written to .* {folder_name}.* --run-config .*resume"):
            run(clients(settings, spoil=spoil), read_config(settings))
    finally:
        full.__exit__(None, None, None)
    (folder,) = Path(str(tiny_run["run.dir"])).iterdir()

    settings["run.resume"] = str(folder)
    largest = max(file.stat().st_size for file in checkpoint.iterdir())
    with (
        files_at_most(largest - 1),
        pytest.raises(OSError, match=rf"the merged checkpoint cannot be written .* {folder_name}"),
    ):
        run(clients(settings), read_config(settings))
    assert "merged" not in [path.name for path in folder.iterdir()]
    assert not list(folder.glob(".*"))

    run(clients(settings), read_config(settings))
    assert (folder / EVENTS_FILE).read_bytes() == (whole / EVENTS_FILE).read_bytes()
    for name in ("adapter/adapter_model.safetensors", "merged/model.safetensors"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    assert contents(folder).keys() >= contents(whole).keys() - {
        name for name in contents(whole) if name.startswith("curves")
    }
