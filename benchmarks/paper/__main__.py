"""``python -m benchmarks.paper``: EMS-FL beside its rivals on one sky, with 95 % intervals over seeds.

    python -m benchmarks.paper --smoke               # small, two seeds: under six minutes on two cores
    python -m benchmarks.paper                       # the main table: five seeds
    python -m benchmarks.paper --table ablations
    python -m benchmarks.paper --report              # the tables of what has been measured so far
    python -m benchmarks.paper --tune                # what each method's settings were chosen by

Every cell (a method, a world, a seed) is kept in a folder by its settings: what was measured is not measured
again, so an experiment that is stopped goes on where it was. Ends with one line of JSON.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.paper.cell import Cell, be_quiet, measure, measured, read_again
from benchmarks.paper.methods import TABLES, Method
from benchmarks.paper.plots import draw_curves, draw_gains
from benchmarks.paper.tables import REFERENCE, Cells, headline, mixed, table
from benchmarks.paper.worlds import BASES, SIZE, SKIES, SMOKE, TUNING_SEED

SMOKE_SEEDS = (1, 2)


def cells_of(options: argparse.Namespace) -> list[Cell]:
    """Return what is to be measured, in an order in which a table is soon told of with few seeds."""
    seeds = SMOKE_SEEDS if options.smoke else range(1, options.seeds + 1)
    return [
        cell(method, base, sky, seed, smoke=options.smoke)
        for base in options.bases
        for sky in options.skies
        for seed in seeds
        for method in TABLES[options.table]
    ]


def cell(method: Method, base: str, sky: str, seed: int, *, smoke: bool) -> Cell:
    """Return a method in a world with a seed."""
    world = {**SIZE, **BASES[base], **SKIES[sky], **(SMOKE if smoke else {})}
    return Cell(method=method, base=base, sky=sky, seed=seed, settings={**world, **method.settings})


def candidates_of(options: argparse.Namespace) -> list[Cell]:
    """Return each method as on most bases, and with what else was tried, on a seed of their own."""
    found = []
    for method in TABLES[options.table]:
        for tried in ({}, *method.candidates):
            named = ", ".join(f"{key.rpartition('.')[2]} {value:g}" for key, value in tried.items())
            other = Method(
                name=f"{method.name} ({named})" if named else method.name,
                settings={**method.settings, **tried},
                how=method.how,
            )
            found += [
                cell(other, base, sky, TUNING_SEED, smoke=False)
                for base in options.bases
                for sky in options.skies
            ]
    return found


def measure_all(cells: Sequence[Cell], results: Path, workers: int) -> None:
    """Measure what has not been, in a pool of processes; says what each cost and what is left."""
    waiting = [cell for cell in cells if measured(cell, results) is None]
    print(f"{len(cells)} cells, {len(cells) - len(waiting)} measured before, {workers} processes", flush=True)
    began_s, done = time.monotonic(), 0
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=be_quiet) as pool:
        futures = {pool.submit(measure, cell, results): cell for cell in waiting}
        for future in as_completed(futures):
            future.result()
            done += 1
            spent_s = time.monotonic() - began_s
            found = measured(futures[future], results)
            assert found is not None
            print(
                f"{spent_s / 60:6.1f} min  {futures[future].key:60} own {found['own']:.3f} merged "
                f"{found['merged']:.3f} in {found['wall_s']:.0f} s; about "
                f"{(len(waiting) - done) * spent_s / done / 60:.0f} min left",
                flush=True,
            )


def worlds_of(cells: Sequence[Cell], results: Path) -> tuple[Mapping[str, Mapping[str, Cells]], set[str]]:
    """Return what has been measured, by world, method and seed, and the versions of the code that did."""
    worlds: dict[str, dict[str, dict[int, Any]]] = {}
    versions = set()
    for cell in cells:
        methods = worlds.setdefault(f"{cell.base}, {cell.sky}", {})
        of_method = methods.setdefault(cell.method.name, {})
        found = measured(cell, results)
        if found is not None:
            of_method[cell.seed] = found
            versions.add(found["code"])
    return worlds, versions


def report(worlds: Mapping[str, Mapping[str, Cells]], versions: set[str]) -> dict[str, Any]:
    """Print a table for each world, of the cells that are there; return the numbers of the JSON line."""
    for name, methods in worlds.items():
        print(f"\n{name} sky: loss in nats a token, mean and 95 % interval over seeds")
        print(table(methods), flush=True)
    if len(versions) > 1:
        print(f"note: these cells were measured by {len(versions)} versions of the code")
    return {name: headline(methods) for name, methods in worlds.items()}


def draw(worlds: Mapping[str, Mapping[str, Cells]], folder: Path, name: str) -> None:
    """Draw each world's curves, and the gain against capture where there are several bases."""
    for world, methods in worlds.items():
        draw_curves(methods, f"{world} sky", folder / f"{name}-{world.replace(', ', '-')}.svg")
    split = {world: methods for world, methods in worlds.items() if methods.get("EMS-FL")}
    if len(split) > 1 and all(methods.get(REFERENCE) for methods in split.values()):
        draw_gains(split, folder / f"{name}-gains.svg")


def main(arguments: Sequence[str]) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.paper", description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="small runs, two seeds")
    parser.add_argument("--table", choices=sorted(TABLES), default="main")
    parser.add_argument("--bases", nargs="+", choices=sorted(BASES), default=["sharp"])
    parser.add_argument("--skies", nargs="+", choices=sorted(SKIES), default=["sparse"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--results", type=Path, default=Path("runs") / "paper")
    parser.add_argument("--tune", action="store_true", help="measure what the settings are chosen by")
    parser.add_argument("--report", action="store_true", help="measure nothing")
    parser.add_argument("--again", action="store_true", help="with --report: read the kept runs anew")
    parser.add_argument(
        "--plots", type=Path, metavar="FOLDER", help="draw the curves there (needs matplotlib)"
    )
    options = parser.parse_args(arguments)
    results = options.results.resolve()
    results.mkdir(parents=True, exist_ok=True)
    cells = candidates_of(options) if options.tune else cells_of(options)
    if not options.report:
        measure_all(cells, results, options.workers)
    elif options.again:
        for one in cells:
            read_again(one, results)
    worlds, versions = worlds_of(cells, results)
    if faults := [f"{name}: {fault}" for name, methods in worlds.items() for fault in mixed(methods)]:
        raise SystemExit("\n".join(faults))
    numbers = report(worlds, versions)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        draw(worlds, options.plots, options.table)
    print(json.dumps({"benchmark": "paper", "table": options.table, "worlds": numbers}))


if __name__ == "__main__":
    main(sys.argv[1:])
