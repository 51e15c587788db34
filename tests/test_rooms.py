"""House rules: which folder may import which, and what no file may hold. The table is in tests/rooms.py."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rooms import MAY_IMPORT, ROOMS, ROOT, circles, contents, folder_arrows, folder_of, read_imports

# The extra `sky` of pyproject.toml: a module that needs one of these says so when it is asked for.
OPTIONAL = ("numba", "matplotlib")
LINE_LIMIT = 350
FILE_LIMIT = 13
TEXT_SUFFIXES = {".py", ".toml", ".md", ".txt", ".yml", ".yaml", ".sh", ".cfg", ""}
IMPORTS = read_imports(ROOT)


def python_files() -> list[Path]:
    folders = [ROOT / room for room in (*ROOMS, "tests", "benchmarks", "docker")]
    return sorted(
        path for folder in folders for path in folder.rglob("*.py") if "__pycache__" not in path.parts
    )


def text_files() -> Iterator[Path]:
    for path in sorted(ROOT.rglob("*")):
        relative = path.relative_to(ROOT)
        hidden = any(part.startswith(".") and part != ".ci" for part in relative.parts[:-1])
        # In a git worktree .git is a file, with a path of the machine.
        is_ours = not hidden and relative.parts[0] not in ("runs", ".git")
        if path.is_file() and path.suffix in TEXT_SUFFIXES and is_ours:
            yield path


@pytest.mark.parametrize("folder", sorted({folder_of(module) for module in IMPORTS}))
def test_a_folder_imports_only_what_the_table_says(folder: str) -> None:
    allowed = {folder, *MAY_IMPORT[folder]}
    faults = [
        f"{module} imports {target}"
        for module, targets in IMPORTS.items()
        for target in sorted(targets)
        if folder_of(module) == folder and target not in allowed and folder_of(target) not in allowed
    ]
    assert not faults, faults


def test_the_table_names_every_folder_and_no_arrow_of_it_runs_back() -> None:
    assert set(MAY_IMPORT) == {folder_of(module) for module in IMPORTS}
    order = list(MAY_IMPORT)
    for folder, targets in MAY_IMPORT.items():
        for target in targets:
            known = target if target in MAY_IMPORT else folder_of(target)
            assert order.index(known) < order.index(folder), f"{folder} -> {target} runs back"


def test_no_imports_go_in_a_circle() -> None:
    assert circles(IMPORTS) == []
    assert circles(folder_arrows(IMPORTS)) == []
    assert circles({"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"a"})}) == [["a", "b", "c"]]


def test_a_folder_holds_a_dozen_files_and_says_what_it_is() -> None:
    for folder in MAY_IMPORT:
        place = ROOT.joinpath(*folder.split("."))
        files = [path.name for path in place.glob("*.py") if path.stem != "__init__"]
        assert len(files) <= FILE_LIMIT, f"{folder} holds {len(files)} files, at most {FILE_LIMIT}"
        body = ast.parse((place / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{folder}/__init__.py is one sentence alone"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_a_page_lists_every_folder_in_the_folders_own_words(page: str) -> None:
    assert f"```text\n{contents()}\n" in (ROOT / page).read_text(encoding="utf-8"), (
        f"paste the output of `python -m tests.rooms --contents` into {page}"
    )


def test_images_and_the_app_bundle_hold_every_room_they_run() -> None:
    image = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    recipe = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    bundle = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for room in ROOMS:
        assert f"!{room}/**\n" in image, f".dockerignore leaves {room}/ out of the images"
        assert f"COPY {room} {room}\n" in recipe, (
            f"docker/Dockerfile leaves {room}/ out of the server's image"
        )
        # These two start the apps and are no part of them.
        if room not in ("cli", "engine"):
            assert f'"{room}/**/*.py"' in bundle, f"fab-include leaves {room}/ out of Flower's app bundle"


def modules_of(room: str) -> list[str]:
    return [
        module
        for module in IMPORTS
        if module.split(".")[0] == room and module.split(".")[-1] not in ("__init__", "__main__")
    ]


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("strategy", ("torch", "transformers", "peft", "ray")),
        ("sim", ("torch", "transformers", "peft", "ray", "strategy")),
        ("moe", ("flwr", "ray", "sgp4", "strategy", "sim")),
    ],
)
def test_a_room_loads_where_the_others_packages_are_missing(room: str, forbidden: tuple[str, ...]) -> None:
    # A real import, because what a third package pulls in does not show in our import statements.
    program = (
        "import importlib, sys\n"
        f"for name in {forbidden!r}: sys.modules[name] = None\n"
        f"for name in {modules_of(room)!r}:\n"
        "    try: importlib.import_module(name)\n"
        "    except ModuleNotFoundError as error:\n"
        f"        if error.name not in {OPTIONAL!r}: raise\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]


def test_no_file_is_called_utils_or_grows_beyond_the_limit() -> None:
    faults = [
        f"{path.relative_to(ROOT)}: a name that says nothing"
        for path in python_files()
        if path.stem == "utils"
    ]
    for path in python_files():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > LINE_LIMIT:
            faults.append(f"{path.relative_to(ROOT)}: {lines} lines, at most {LINE_LIMIT}")
    assert not faults, faults


def test_nothing_names_a_machine_or_a_registry() -> None:
    # Put together here, so that this file does not find itself.
    folders = [f"/{name}/" for name in ("work", "root")]
    hosts = [rf"{name}\.org" for name in ("pypi", "pythonhosted", "download.pytorch")]
    pattern = re.compile("|".join([*folders, *hosts]))
    faults = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in text_files()
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), 1)
        if pattern.search(line)
    ]
    assert not faults, faults
