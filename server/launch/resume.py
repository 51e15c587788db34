"""``ems-fl resume RUN``: go on with a run that was stopped, wherever its folder lies now."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from server.launch import command
from server.record.run_folder import RESUME_FILE


def main(arguments: Sequence[str] | None = None, *, prog: str = "ems-fl resume") -> int:
    """Run the command; return the exit code of the run, or 2 for a folder that cannot be resumed."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Go on with a run that was stopped, from its last saved state.",
        epilog=f"examples:\n  {prog} runs/demo-20261122T182645Z\n"
        f"  {prog} runs/demo-20261122T182645Z merge.max-merges=80 --workers 4",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of the run; it may have been moved")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="settings that may change when a run goes on"
    )
    options, rest = parser.parse_known_args(arguments)
    settings = (options.run / RESUME_FILE).resolve()
    if not settings.is_file():
        print(f"{prog}: {options.run} has no {RESUME_FILE}; give the folder of a run", file=sys.stderr)
        return command.EXIT_USAGE
    changes = [f"run.resume={settings.parent}", *options.settings]
    return command.main([*rest, "--run-config", str(settings), *changes], prog=prog)
