"""The corpus as it was found, kept on the machine: finding it takes each process of a run half a second."""

import hashlib
import json
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

from demo import cache

_FILE = "passages.json"

Passages = dict[str, list[list[str]]]
"""Domain -> the maker's passages and the devices'."""


def kept(find: Callable[[], Passages]) -> Passages:
    """Return what ``find`` returns, or what it returned before on the same installation.

    What is installed says what is found: another Python, another version of a package, or another way of
    looking (the code in this folder) is another corpus. Where the cache cannot be written, it is found anew.
    """
    found: list[Passages] = []

    def make(folder: Path) -> None:
        found.append(find())
        (folder / _FILE).write_text(json.dumps(found[0]), encoding="utf-8")

    try:
        folder = cache.ensure(cache.folder("corpus", *installation()), make, lambda _: None)
        # Not read again by who has just written it; and what it was made into is what others will read.
        return found[0] if found else json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, cache.UnwritableError):
        return found[0] if found else find()


def installation() -> list[str]:
    """Return what the corpus depends on: Python, the packages by version, the code that looks."""
    folders = {Path(sysconfig.get_paths()[kind]) for kind in ("purelib", "platlib")}
    packages = sorted(path.name for folder in folders for path in folder.glob("*.dist-info"))
    code = hashlib.sha256()
    for file in ("corpus.py", "sources.py"):
        code.update((Path(__file__).parent / file).read_bytes())
    return [sys.version, sysconfig.get_paths()["stdlib"], code.hexdigest(), *packages]
