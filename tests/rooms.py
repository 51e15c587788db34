"""The house as one table, and ``python -m tests.rooms``: its folders and arrows as text, from the imports.

A folder is a node of its own: what lies in it directly, without its wings. An arrow goes from a folder to
one that it imports from. The command draws any checkout: ``python -m tests.rooms OTHER_CHECKOUT``; with
``--contents`` it prints what each folder is, for README and CONTRIBUTING.
"""

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Each folder of code, and the folders it may import from, itself left out. `moe.experts` is one file.
# From the ground up: no arrow of the table runs to a folder that comes after it.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    # the model: knows no Flower and no sky
    "moe": (),
    "moe.families": ("moe",),
    "moe.formats": (),
    "moe.gguf": (),
    "moe.disk": ("moe", "moe.families", "moe.formats", "moe.gguf"),
    "moe.delivery": ("moe", "moe.disk"),
    "moe.submodel": ("moe", "moe.families", "moe.disk"),
    "moe.standin": ("moe", "moe.families", "moe.disk", "moe.submodel"),
    "moe.tuning": ("moe", "moe.families", "moe.disk", "moe.submodel"),
    "moe.export": ("moe", "moe.families", "moe.formats", "moe.disk", "moe.submodel", "moe.tuning"),
    "moe.inspect": ("moe", "moe.families", "moe.disk", "moe.submodel", "moe.tuning", "moe.export"),
    # the sky: knows no model and no strategy
    "sim": (),
    "sim.orbits": ("sim",),
    "sim.windows": ("sim", "sim.orbits"),
    "sim.plans": ("sim", "sim.orbits", "sim.windows"),
    "sim.plan_files": ("sim", "sim.plans"),
    "sim.grid": ("sim", "sim.plans"),
    "sim.contacts": ("sim", "sim.orbits", "sim.windows", "sim.plans", "sim.plan_files"),
    "sim.relay": ("sim", "sim.plans", "sim.plan_files", "sim.grid"),
    # the idea: of the model only the torch-free names
    "strategy.wire": ("moe.experts",),
    "strategy.defence": ("moe.experts",),
    "strategy.delivery": ("moe.experts",),
    "strategy": ("moe.experts", "strategy.wire", "strategy.defence", "strategy.delivery"),
    "strategy.baselines": ("strategy", "moe.experts"),
    # the embedded default
    "demo": (),
    "demo.real": ("demo",),
    # the run: what server and devices derive alike
    "scenario.tables": (),
    "scenario.settings": ("scenario.tables", "sim"),
    "scenario.data": ("scenario.tables", "sim", "demo"),
    "scenario": (
        *("scenario.settings", "scenario.data", "demo", "demo.real"),
        *("moe", "moe.gguf", "moe.disk", "moe.submodel", "moe.standin", "moe.tuning", "moe.export"),
        *("sim", "sim.plans", "sim.plan_files"),
    ),
    # side by side: neither imports the other
    "client": (
        *("scenario", "scenario.settings", "scenario.data", "strategy"),
        *("strategy.delivery", "moe", "moe.delivery", "moe.disk", "moe.submodel", "moe.tuning"),
        *("moe.export", "sim", "sim.grid"),
    ),
    "server.screen": (),
    "server.record": ("server.screen", "scenario.settings", "strategy", "moe", "moe.disk"),
    "server.report.charts": ("server.record", "sim"),
    "server.report": ("server.record", "server.report.charts", "scenario.settings", "sim"),
    "server.exhibits": (
        *("server.record", "scenario", "scenario.settings", "moe", "moe.tuning", "sim", "sim.plans"),
    ),
    "server.delivery": (
        *("scenario", "scenario.settings", "strategy.delivery"),
        *("moe", "moe.delivery", "moe.disk", "sim.plans"),
    ),
    "server": (
        *(
            "server.screen",
            "server.delivery",
            "server.record",
            "server.report",
            "server.exhibits",
            "scenario",
            "scenario.settings",
            "scenario.data",
            "strategy",
            "strategy.baselines",
            "strategy.delivery",
            "strategy.wire",
            "strategy.defence",
        ),
        *("moe", "moe.families", "moe.disk", "moe.submodel", "moe.tuning", "moe.export", "moe.inspect"),
        "sim",
        *("sim.plans", "sim.grid"),
    ),
    "server.machine": (),
    "server.keys": ("server.machine",),
    # the app without Flower's processes: brings the two apps together, as Flower does
    "engine": ("client", "server", "server.machine", "scenario.settings", "sim.grid"),
    "server.launch": (
        *("server", "server.screen", "server.record", "server.machine", "engine"),
        *("scenario.settings", "scenario.tables"),
    ),
    # one command over all
    "cli": (
        *(
            "server.launch",
            "server.machine",
            "server.keys",
            "server.report",
            "moe.inspect",
            "moe.export",
            "sim.contacts",
            "sim.relay",
        ),
        *("scenario", "scenario.settings", "scenario.data", "moe", "moe.delivery", "moe.disk"),
        *("moe.standin", "demo", "demo.real"),
    ),
}
ROOMS = tuple(dict.fromkeys(folder.split(".")[0] for folder in MAY_IMPORT))
READING_ORDER = ("strategy", "sim", "moe", "scenario", "client", "server", "engine", "demo", "cli")

Imports = Mapping[str, frozenset[str]]
"""Module -> modules of the house that it imports."""


def read_imports(root: Path) -> Imports:
    """Return what every module of the rooms under ``root`` imports of them, inside functions too."""
    rooms = [room for room in ROOMS if (root / room).is_dir()]
    files = [path for room in rooms for path in sorted((root / room).rglob("*.py"))]
    return {
        ".".join(path.relative_to(root).with_suffix("").parts): frozenset(
            module for module in imported(path, root) if module.split(".")[0] in rooms
        )
        for path in files
    }


def imported(path: Path, root: Path = ROOT) -> Iterator[str]:
    """Yield every module that a file imports, those inside functions and for type checkers included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            for alias in node.names:
                submodule = root.joinpath(*str(node.module).split("."), alias.name).with_suffix(".py")
                yield f"{node.module}.{alias.name}" if submodule.is_file() else str(node.module)


def folder_of(module: str) -> str:
    """Return the folder that a module lies in."""
    return module.rpartition(".")[0]


def folder_arrows(imports: Imports) -> Imports:
    """Return, for each folder, the other folders it imports from."""
    arrows: dict[str, set[str]] = {}
    for module, targets in imports.items():
        arrows.setdefault(folder_of(module), set()).update(map(folder_of, targets))
    return {folder: frozenset(targets - {folder}) for folder, targets in arrows.items()}


def circles(arrows: Imports) -> list[list[str]]:
    """Return the groups of nodes that reach each other, each sorted; empty for a house without circles."""
    reached = {node: _reachable(node, arrows) for node in arrows}
    groups = {
        tuple(sorted(other for other in reached[node] if node in reached.get(other, ()))) for node in arrows
    }
    return sorted(list(group) for group in groups if len(group) > 1)


def floors(arrows: Imports) -> dict[str, int]:
    """Return each folder's floor: one above the highest that it imports from; circles share one."""
    own = {node: {node} for node in arrows} | {
        node: set(group) for group in circles(arrows) for node in group
    }
    floor = dict.fromkeys(arrows, 0)
    for _ in arrows:
        for node, targets in arrows.items():
            below = [floor[target] + 1 for target in targets - own[node] if target in floor]
            floor[node] = max([floor[node], *below, *(floor[other] for other in own[node])])
    return floor


def draw(root: Path) -> str:
    """Return folders and arrows as text, the top floor first."""
    imports = read_imports(root)
    arrows = folder_arrows(imports)
    floor = floors(arrows)
    width = max(map(len, arrows))
    lines = []
    for node in sorted(arrows, key=lambda node: (-floor[node], node)):
        files = [
            module for module in imports if folder_of(module) == node and not module.endswith("__init__")
        ]
        targets = ", ".join(sorted(arrows[node])) or "-"
        lines.append(f"floor {floor[node]}  {node:<{width}}  {len(files):>2} files  -> {targets}")
    lines += ["", *_circle_lines("folders", arrows), *_circle_lines("files", imports)]
    return "\n".join(lines)


def contents() -> str:
    """Return every folder with its own sentence, as README and CONTRIBUTING show them."""
    assert set(READING_ORDER) == set(ROOMS)
    # A room before its wings, which stay in the order of the table.
    order = sorted(MAY_IMPORT, key=lambda name: (READING_ORDER.index(name.split(".")[0]), "." in name))
    width = max(map(len, order)) + 1
    return "\n".join(f"{folder.replace('.', '/') + '/':<{width}}  {sentence_of(folder)}" for folder in order)


def sentence_of(folder: str) -> str:
    """Return what a folder says it is: the docstring of its package file."""
    path = ROOT.joinpath(*folder.split("."), "__init__.py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def _circle_lines(what: str, arrows: Imports) -> Iterable[str]:
    found = circles(arrows)
    yield f"circles of {what}: {len(found)}"
    yield from (f"  {' <-> '.join(group)}" for group in found)


def _reachable(start: str, arrows: Imports) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in arrows.get(waiting.pop(), frozenset()):
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


if __name__ == "__main__":
    if sys.argv[1:] == ["--contents"]:
        print(contents())
    else:
        print(draw(Path(sys.argv[1]).resolve() if sys.argv[1:] else ROOT))
