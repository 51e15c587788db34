"""The app's own files in a folder by themselves: Flower looks through all of a folder for what to bundle.

In a checkout that is also the virtual environment's tens of thousands of files, which takes seconds a run.
"""

import shutil
import tomllib
from pathlib import Path

PROJECT = "pyproject.toml"


def copy_app(root: Path, folder: Path) -> Path:
    """Copy what a checkout's bundle holds, by its ``fab-include``, and return the new folder.

    Parameters
    ----------
    root : Path
        Folder of the app's pyproject.toml.
    folder : Path
        Where the copy goes; what is there of an earlier run is replaced.
    """
    shutil.rmtree(folder, ignore_errors=True)
    project = tomllib.loads((root / PROJECT).read_text(encoding="utf-8"))
    patterns = [PROJECT, *project["tool"]["flwr"]["app"]["fab-include"]]
    for file in {file for pattern in patterns for file in root.glob(pattern)}:
        copy = folder / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
    return folder
