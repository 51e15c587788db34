"""``ems-fl prepare CHECKPOINT``: make what stands for a checkpoint's experts on devices that have none."""

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from moe.one_line_faults import one_line_faults
from server.launch.run_config import merge_run_config

EXAMPLES = """examples:
  from the embedded text
      PROG /models/OLMoE-1B-7B
  from text of the domains that devices hold, at another rank
      PROG /models/OLMoE-1B-7B --text /data/public.parquet --rank 32
  and a folder for devices: the shared part and the stand-ins, to which experts are delivered
      PROG /models/OLMoE-1B-7B --part /media/card/olmoe
  with the settings of a run, which finds them when it begins
      PROG /models/OLMoE-1B-7B conf/dataset.toml model.dtype=bfloat16
"""


@one_line_faults("prepare")
def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m cli.prepare") -> int:
    """Run the command; return the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description='Make the stand-ins that profile.method = "stand-in" profiles with, now, and say what '
        "they are; on request also what is installed on devices whose experts come over the link. A run with "
        "the same settings finds the stand-ins.",
        epilog=EXAMPLES.replace("PROG", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="as model.name: folder of a checkpoint, a hub name, or demo")
    parser.add_argument("--text", metavar="FILE", help="as profile.stand-in-text: text to fit to")
    parser.add_argument("--rank", type=int, help="as profile.stand-in-rank")
    parser.add_argument(
        "--part",
        metavar="FOLDER",
        help="new folder that is written for devices: all but the experts",
    )
    parser.add_argument("settings", nargs="*", help="of the run: TOML files, or key=value")
    options = parser.parse_intermixed_args(arguments)
    print(_prepare(options), flush=True)
    return 0


def _prepare(options: argparse.Namespace) -> str:
    """Make them, and return what a person wants to know of them."""
    # Only now: torch takes seconds, and --help none.
    from moe.delivery.extents import shared_extents
    from moe.delivery.part import make_part
    from moe.disk.layout import open_storage, read_layout, trust_code_of
    from moe.export.checkpoint import fingerprint
    from moe.standin.file import read_stand_ins
    from scenario.model_name import resolve_model_name
    from scenario.settings.reading import read_config
    from scenario.stand_ins import make_stand_ins

    began_s = time.monotonic()

    def say(text: str) -> None:
        print(f"prepare {time.monotonic() - began_s:4.0f} s: {text}", flush=True)

    given = merge_run_config(options.settings, runs_folder=Path("runs"))
    own = {"model.name": options.model, "profile.method": "stand-in"}
    if options.text is not None:
        own["profile.stand-in-text"] = str(Path(options.text).expanduser().absolute())
    if options.rank is not None:
        own["profile.stand-in-rank"] = options.rank
    config = read_config({**given, **own})
    path = resolve_model_name(config.model.name, say)
    if config.model.trust_remote_code:
        trust_code_of(path)
    base = fingerprint(path)
    file = make_stand_ins(config, path, base, say)
    num_bytes = read_stand_ins(file, base=base).num_bytes
    layout = read_layout(path, config.model.dtype, config.model.hold)
    experts_bytes = layout.total_bytes - layout.shared_bytes
    rows = [
        ("stand-ins", str(file)),
        ("bytes", f"{num_bytes / 1e6:.3f} MB, {num_bytes / experts_bytes:.2%} of the experts' as held"),
        ("peak memory", f"{_peak_bytes() / 1e6:.0f} MB of this process"),
    ]
    if options.part is not None:
        storage = open_storage(path, config.model.dtype, config.model.hold)
        part = make_part(storage, base, options.part, beside=[file])
        shared = sum(extent.num_bytes for extent in shared_extents(storage))
        rows.append(("device's part", f"{part}, {shared / 1e6:.3f} MB and the files beside the weights"))
    return "\n".join(f"{name:<13} {value}" for name, value in rows)


def _peak_bytes() -> int:
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
