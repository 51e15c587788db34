"""``python -m server.report RUN [RUN ...]``: what finished runs came to."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from server.report.screen import render_summary
from server.report.summary import read_summary


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m server.report") -> int:
    """Run the command; return 0, or 2 if a folder is not that of a finished run."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Show the last screen of finished runs again.",
        epilog=f"examples:\n  {prog} runs/demo-20261122T182645Z\n  {prog} runs/*",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    faults = 0
    for folder in parser.parse_args(arguments).runs:
        try:
            # Where it lies now, which need not be where it was written.
            print(render_summary(replace(read_summary(folder), run_folder=str(folder.resolve()))))
        except (ValueError, OSError) as error:
            print(f"{prog}: {error}", file=sys.stderr)
            faults += 1
    return 2 if faults else 0
