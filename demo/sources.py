"""Where each domain's text lies: one function per domain, yielding documents in a fixed order.

Everything read here is on a machine because Python or one of the project's requirements is. A source
that is not there raises ``SourceMissingError``; `demo.corpus` decides what that means.
"""

import csv
import gzip
import importlib.metadata
import importlib.util
import sysconfig
import unicodedata
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

_READ_LIMIT_CHARS = 1_500_000
"""Most text read from one large file: several times what a domain keeps."""


class SourceMissingError(Exception):
    """Say that this machine lacks the files a domain is made of."""


def package_folder(package: str) -> Path:
    """Find an installed package's folder without importing it.

    Raises
    ------
    SourceMissingError
        If the package is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SourceMissingError(f"the package {package!r} is not installed")
    return Path(next(iter(spec.submodule_search_locations)))


def _read(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.read(_READ_LIMIT_CHARS)


def _read_all(folder: Path, pattern: str, *, limit_chars: int = 2_000_000) -> Iterator[str]:
    """Yield the files of a folder that match, in the order of their names."""
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise SourceMissingError(f"{folder} has no file like {pattern}")
    total = 0
    for path in paths:
        if total >= limit_chars:
            return
        text = _read(path)
        total += len(text)
        yield text


def python() -> Iterator[str]:
    """Yield the source code of the standard library's top-level modules."""
    yield from _read_all(Path(sysconfig.get_paths()["stdlib"]), "*.py")


def reference() -> Iterator[str]:
    """Yield the topics of Python's language reference (English prose), as ``help()`` shows them."""
    try:
        topics: dict[str, str] = import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise SourceMissingError("the standard library lacks pydoc_data.topics") from error
    for name in sorted(topics):
        yield topics[name]


def licences() -> Iterator[str]:
    """Yield the licence files of the installed packages (legal English)."""
    # By folder, because the packages' own lists of files take a second to read (torch has 15 thousand).
    folders = [Path(sysconfig.get_paths()[kind]) for kind in ("purelib", "platlib")]
    paths = {
        path
        for folder in folders
        for path in folder.glob("*.dist-info/**/*")
        if path.name.lower().startswith(("licen", "copying", "notice")) and path.is_file()
    }
    if not paths:
        raise SourceMissingError(f"no package in {folders[0]} brings a licence file")
    for path in sorted(paths):
        if path.suffix not in {".py", ".pyc", ".json"}:
            yield _read(path)


def readmes() -> Iterator[str]:
    """Yield the descriptions (README) of the installed packages."""
    found = False
    by_name = {str(item.metadata["Name"]).lower(): item for item in importlib.metadata.distributions()}
    for name in sorted(by_name):
        description = str(by_name[name].metadata.json.get("description") or "")
        if len(description) > 500:
            found = True
            yield description
    if not found:
        raise SourceMissingError("no installed package brings a description")


def headers() -> Iterator[str]:
    """Yield the C++ headers that PyTorch ships."""
    folder = package_folder("torch") / "include"
    yield from _read_all(folder, "c10/**/*.h")
    yield from _read_all(folder, "ATen/native/**/*.h")


def operators() -> Iterator[str]:
    """Yield PyTorch's declarations of operators and of their derivatives (YAML)."""
    folder = package_folder("torchgen") / "packaged"
    yield from _read_all(folder, "ATen/native/native_functions.yaml")
    yield from _read_all(folder, "autograd/derivatives.yaml")


def javascript() -> Iterator[str]:
    """Yield plotly's minified JavaScript."""
    yield from _read_all(package_folder("plotly") / "package_data", "plotly.min.js")


def unicode() -> Iterator[str]:
    """Yield the names of the characters in their order, in paragraphs of ten, as one document."""
    names: list[str] = []
    for codepoint in range(0x20, 0x20000):
        name = unicodedata.name(chr(codepoint), "")
        # CJK UNIFIED IDEOGRAPH-4E00, HANGUL SYLLABLE GAG: tens of thousands of names made by rule.
        if name and "IDEOGRAPH-" not in name and not name.startswith("HANGUL SYLLABLE"):
            names.append(name)
    yield "\n\n".join("\n".join(names[start : start + 10]) for start in range(0, len(names), 10))


def digits() -> Iterator[str]:
    """Yield the UCI handwritten digits (8x8, 17 grey levels) as rows of numbers, a document each."""
    path = package_folder("sklearn") / "datasets" / "data" / "digits.csv.gz"
    if not path.is_file():
        raise SourceMissingError(f"scikit-learn's file {path} is not there")
    with gzip.open(path, "rt", encoding="ascii") as file:
        for row in csv.reader(file):
            pixels = [str(int(float(value))) for value in row]
            lines = [" ".join(pixels[start : start + 8]) for start in range(0, 64, 8)]
            yield "\n".join([f"digit {pixels[64]}", *lines])
