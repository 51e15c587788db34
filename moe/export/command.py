"""``python -m moe.export RUN_DIR --merged OUT``: the base with a run's adapter merged in, file by file."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from moe.disk.hub import fetch
from moe.export.checkpoint import merge_adapter


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m moe.export") -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Merge a run's adapter into its base checkpoint, file by file.",
        epilog=f"example:\n  {prog} runs/demo-20261122T182645Z --merged /models/merged",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, help="folder of a run (with adapter/ in it), or of an adapter")
    parser.add_argument("--merged", type=Path, required=True, metavar="OUT", help="folder to make")
    parser.add_argument("--base", help="the base checkpoint (default: what the adapter was trained on)")
    options = parser.parse_args(arguments)
    adapter = options.run / "adapter" if (options.run / "adapter").is_dir() else options.run
    try:
        out = merge_adapter(options.base or _base_of(adapter), adapter, options.merged)
    except (ValueError, OSError) as error:
        print(f"moe.export: {error}", file=sys.stderr)
        return 1
    print(f"merged checkpoint: {out}")
    return 0


def _base_of(adapter: Path) -> str:
    file = adapter / "adapter_config.json"
    if not file.is_file():
        raise ValueError(f"{adapter} has no adapter_config.json; give the folder of a run or of an adapter")
    config = json.loads(file.read_text(encoding="utf-8"))
    base, commit = config.get("base_model_name_or_path"), config.get("revision")
    if not base:
        raise ValueError(f"{file} does not name its base; give it with --base")
    return str(fetch(base, commit) if commit else base)
