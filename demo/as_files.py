"""``python -m demo.as_files FOLDER --clusters 2 --sites 2``: the demo as files, as if it were one's own.

Writes ``model/`` (the base checkpoint), ``site-1.jsonl`` and so on (what each site alone holds: a part of the
domain of its cluster) and ``server.jsonl`` (other passages of the same domains, for the server's measure).
So a deployment can be tried whose nodes bring their data, before there are real ones.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from demo import corpus
from demo.base_model import ensure_base_model

SERVER_SHARE = 0.2
"""Part of each domain's passages that no site holds."""


def write(folder: Path, *, clusters: int, sites: int) -> list[Path]:
    """Write model and texts into a folder; return what was written.

    Parameters
    ----------
    folder : Path
        Must not exist yet.
    clusters : int
        Of one domain each, 1 or more.
    sites : int
        Of each cluster, 1 or more; they are numbered on through the clusters.

    Raises
    ------
    ValueError
        If the folder exists, or there are fewer domains than clusters.
    """
    domains = corpus.domains()
    if folder.exists():
        raise ValueError(f"{folder} exists already; name a folder that does not")
    if not 1 <= clusters <= len(domains) or sites < 1:
        raise ValueError(
            f"there are texts for 1 to {len(domains)} clusters of a site or more, got {clusters} of {sites}"
        )
    shutil.copytree(ensure_base_model(lambda _: None), folder / "model", ignore=shutil.ignore_patterns(".*"))
    written, measured = [folder / "model"], list[dict[str, str]]()
    for at, (domain, passages) in enumerate(list(domains.items())[:clusters]):
        kept = round(SERVER_SHARE * len(passages))
        measured += [{"domain": domain, "text": passage} for passage in passages[:kept]]
        for site in range(sites):
            own = [{"text": passage} for passage in passages[kept + site :: sites]]
            written.append(_write(folder / f"site-{at * sites + site + 1}.jsonl", own))
    return [*written, _write(folder / "server.jsonl", measured)]


def _write(file: Path, rows: Sequence[dict[str, str]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def main(arguments: list[str] | None = None) -> int:
    """Write what the options say; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.as_files", description=__doc__)
    parser.add_argument("folder", type=Path, help="to write; must not exist yet")
    parser.add_argument("--clusters", type=int, default=2)
    parser.add_argument("--sites", type=int, default=2, help="of each cluster")
    options = parser.parse_args(arguments)
    try:
        for path in write(options.folder, clusters=options.clusters, sites=options.sites):
            print(path)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
