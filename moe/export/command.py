"""``python -m moe.export RUN_DIR --merged OUT``: the base with a run's adapter merged in, file by file."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from moe.disk.hub import resolve_folder
from moe.export.checkpoint import merge_adapter
from moe.export.stored_adapter import CONFIG_FILE, read_config_fields
from moe.one_line_faults import one_line_faults


@one_line_faults("moe.export")
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
    out = merge_adapter(options.base or _base_of(adapter), adapter, options.merged)
    print(f"merged checkpoint: {out}")
    return 0


def _base_of(adapter: Path) -> str:
    """Return the folder of the base that an adapter names, on this machine or the hub."""
    fields = read_config_fields(adapter)
    base, commit = fields.get("base_model_name_or_path"), fields.get("revision")
    for name, value in (("base_model_name_or_path", base), ("revision", commit)):
        if value is not None and not isinstance(value, str):
            raise ValueError(f"{adapter / CONFIG_FILE} has {name} = {value!r}, no text; give --base")
    if not base:
        raise ValueError(f"{adapter / CONFIG_FILE} does not name its base; give it with --base")
    try:
        return str(resolve_folder(base, commit or None))
    except ValueError as error:
        raise ValueError(f"{error}; or give the base with --base") from error
