"""``python -m server.report RUN [RUN ...]``: what runs came to, on the screen and as a page."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from server.report.html_page import PAGE_FILE, write_page
from server.report.run_files import RunFiles, read_run
from server.report.screen import render_summary

SEVERAL_FILE = "runs.html"


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m server.report") -> int:
    """Run the command; return 0, or 2 if a folder is that of no run or the page cannot be written."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show the last screen of runs again, and write their page: of one run into its "
        f"folder, of several side by side into {SEVERAL_FILE} here. Unfinished runs show what there is.",
        epilog=f"examples:\n  {prog} runs/demo-20261122T182645Z\n  {prog} runs/* -o compared.html",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="where to write the page")
    options = parser.parse_args(arguments)
    runs: list[RunFiles] = []
    faults = 0
    for folder in options.runs:
        try:
            runs.append(read_run(folder))
        except (ValueError, OSError) as error:
            print(f"{prog}: {error}", file=sys.stderr)
            faults += 1
    for run in runs:
        _say(run)
    if runs:
        alone = runs[0].folder / PAGE_FILE if len(runs) == 1 else Path(SEVERAL_FILE)
        try:
            print(f"page: {write_page(options.out or alone, runs)}")
        except OSError as error:
            print(f"{prog}: {error}", file=sys.stderr)
            faults += 1
    return 2 if faults else 0


def _say(run: RunFiles) -> None:
    """Print the last screen of a run, and what its folder lacks."""
    if run.summary:
        # Where it lies now, which need not be where it was written.
        print(render_summary(replace(run.summary, run_folder=str(run.folder.resolve()))))
    for line in run.missing:
        print(f"{run.name}: missing: {line}")
