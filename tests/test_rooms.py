"""House rules: which room may import which, and what no file may hold."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("client", "demo", "moe", "server", "sim", "strategy")
# What a room may import of ours. `strategy` may have the torch-free names of moe and nothing else of it.
ALLOWED = {
    "moe": {"moe"},
    "sim": {"sim"},
    "strategy": {"strategy", "moe.experts"},
    "demo": {"demo", "moe"},
    "client": set(ROOMS),
    "server": set(ROOMS),
}
# The extra `sky` of pyproject.toml: a module that needs one of these says so when it is asked for.
OPTIONAL = ("numba", "matplotlib")
LINE_LIMIT = 350
TEXT_SUFFIXES = {".py", ".toml", ".md", ".txt", ".yml", ".yaml", ".sh", ".cfg", ""}


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


def imports(path: Path) -> Iterator[str]:
    """Yield every imported module, those inside functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            for alias in node.names:
                submodule = ROOT.joinpath(*str(node.module).split("."), alias.name).with_suffix(".py")
                yield f"{node.module}.{alias.name}" if submodule.is_file() else str(node.module)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    faults = []
    for path in sorted((ROOT / room).rglob("*.py")):
        for module in imports(path):
            if module.split(".")[0] not in ROOMS:
                continue
            if not any(module == name or module.startswith(f"{name}.") for name in ALLOWED[room]):
                faults.append(f"{path.relative_to(ROOT)} imports {module}")
    assert not faults, faults


def modules_of(room: str) -> list[str]:
    return [f"{room}.{path.stem}" for path in sorted((ROOT / room).glob("*.py")) if path.stem != "__init__"]


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


def test_a_package_file_is_a_docstring_only() -> None:
    for room in ROOMS:
        body = ast.parse((ROOT / room / "__init__.py").read_text(encoding="utf-8")).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), (
            f"{room}/__init__.py holds more than its docstring"
        )


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
