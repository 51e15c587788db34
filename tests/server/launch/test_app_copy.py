"""The app's copy holds, in Flower's own bundle, the same files as the checkout."""

from pathlib import Path

from flwr.cli.build import build_fab_from_disk

from server.launch.app_copy import copy_app
from server.machine.environment import repository


def test_the_bundle_of_the_copy_is_that_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "app" / "client").mkdir(parents=True)
    (tmp_path / "app" / "client" / "of_an_earlier_run.py").touch()
    copy = copy_app(repository(), tmp_path / "app")
    assert build_fab_from_disk(copy) == build_fab_from_disk(repository())
