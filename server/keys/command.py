"""``ems-fl keys``: make, renew and register what nodes and SuperLink know each other by."""

import argparse
import datetime as dt
import sys
from collections.abc import Sequence
from pathlib import Path

from server.keys.authority import ends, ensure_authority, ensure_server
from server.keys.nodes import ensure_node_key, public_keys
from server.keys.register import register

EXIT_USAGE = 2
EXAMPLES = """\
examples:
  ems-fl keys keys --host superlink.example.org --node leh --node khatgal
      an authority, the SuperLink's certificate, and two nodes' keys in the folder keys/
  ems-fl keys keys --host superlink.example.org
      again: what is there stays; a certificate with less than 30 days is renewed
  ems-fl keys keys --register superlink.example.org:8000
      tell the running SuperLink of the nodes' public keys; only they may come

Copy to a node: ca.crt, and its own two files of nodes/. ca.key stays where it is made.
"""


def main(arguments: Sequence[str] | None = None, *, prog: str = "ems-fl keys") -> int:
    """Do what the options say; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Certificates for the SuperLink and keys for the nodes of a deployment.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where they lie; made if it is not there")
    parser.add_argument(
        "--host", action="append", default=[], help="name or address the nodes reach the SuperLink by"
    )
    parser.add_argument(
        "--node", action="append", default=[], metavar="NAME", help="a node to make a key for"
    )
    parser.add_argument("--renew", action="store_true", help="a new certificate for the SuperLink now")
    parser.add_argument(
        "--register", default="", metavar="HOST:PORT", help="tell this SuperLink of the nodes"
    )
    options = parser.parse_args(arguments)
    try:
        _make(options.folder, options.host, options.node, renew=options.renew)
        for key in public_keys(options.folder) if options.register else ():
            register(options.register, options.folder / "ca.crt", key)
            print(f"registered {key.stem} at {options.register}")
    except (ValueError, OSError, RuntimeError) as fault:
        print(f"keys: {fault}", file=sys.stderr)
        return EXIT_USAGE
    return 0


def _make(folder: Path, hosts: Sequence[str], nodes: Sequence[str], *, renew: bool) -> None:
    now = dt.datetime.now(dt.UTC)
    if renew and not hosts:
        raise ValueError("--renew needs --host: the names that the new certificate is for")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if hosts:
        # Nodes on the SuperLink's own machine too.
        every = list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))
        is_new = ensure_server(folder, ensure_authority(folder, now), every, now, renew=renew)
        print(f"{'wrote' if is_new else 'kept'} the SuperLink's certificate for {', '.join(every)}")
    for name in nodes:
        print(f"{'wrote' if ensure_node_key(folder, name) else 'kept'} the key of node {name}")
    for file in ("ca.crt", "server.crt"):
        if (folder / file).is_file():
            print(f"{folder / file} is valid until {ends(folder / file):%Y-%m-%d}")
