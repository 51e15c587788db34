"""``ems-fl relay``: put a contact plan between real nodes and their SuperLink."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from sim.plan_files.files import read_plan
from sim.plans.plan import Contact, ContactPlan
from sim.relay.relay import Carried, Relay

EXIT_USAGE, EXIT_FAILED, EXIT_INTERRUPTED = 2, 1, 130
EXAMPLES = """\
examples:
  PROG plan.csv --to superlink.example.org:8000 --node Leh=9101 --node Khatgal=9102 --speed 60
      two nodes on this machine reach the SuperLink by way of 127.0.0.1:9101 and :9102, an hour of the plan in
      a minute; start them with --superlink 127.0.0.1:9101 and so on
  ems-fl contacts --elements stations.txt --site Leh,34.16,77.58 --hours 6 --out plan.csv
      a plan of real passes
"""


def main(arguments: Sequence[str] | None = None, *, prog: str = "ems-fl relay") -> int:
    """Relay until the plan is over; returns the exit code."""
    options = _parser(prog).parse_args(arguments)
    with ExitStack() as opened:
        try:
            plan = read_plan(options.plan)
            nodes = _nodes(options.node, plan)
            superlink = _address(options.to)
            _check(options)
            log = opened.enter_context(options.log.open("a", encoding="utf-8")) if options.log else None
        except (ValueError, OSError) as fault:
            print(f"relay: {fault}", file=sys.stderr)
            return EXIT_USAGE
        relay = Relay(
            plan, nodes, superlink, host=options.host, speed=options.speed, loss=options.loss,
            seed=options.seed, on_contact=_say_contact, on_carried=lambda carried: _say_carried(carried, log),
        )  # fmt: skip
        try:
            asyncio.run(relay.run(lambda: _say_ready(nodes, options, plan)))
        except OSError as fault:
            print(f"relay: {fault}", file=sys.stderr)
            return EXIT_FAILED
        except KeyboardInterrupt:
            return EXIT_INTERRUPTED
    print("the plan is over: nobody is in contact any more", flush=True)
    return 0


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="A TCP relay that carries bytes only inside the contacts of a plan, at its rates.",
        epilog=EXAMPLES.replace("PROG", prog),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "plan", type=Path, help="contact plan: .csv, .parquet or ION, as `ems-fl contacts` writes"
    )
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the SuperLink")
    parser.add_argument(
        "--node", action="append", required=True, metavar="CLUSTER=PORT",
        help="a node of a cluster of the plan, and the port it is to use; once for each node",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    parser.add_argument(
        "--speed", type=float, default=1.0, metavar="FACTOR",
        help="seconds of the plan in a real second; rates grow by it too (%(default)g)",
    )  # fmt: skip
    parser.add_argument(
        "--loss", type=float, default=0.0, metavar="PART", help="part of the segments that are sent again (0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is lost (%(default)s)")
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="append a line of JSON for each contact and node"
    )
    return parser


def _nodes(texts: Sequence[str], plan: ContactPlan) -> dict[int, str]:
    """Return port -> cluster.

    Raises
    ------
    ValueError
        If one is no such pair, names an unknown cluster, or a port twice.
    """
    nodes: dict[int, str] = {}
    for text in texts:
        cluster, _, port = text.rpartition("=")
        if not (port.isdecimal() and 0 < int(port) < 65536):
            raise ValueError(f"--node must be CLUSTER=PORT with a port of 1 to 65535, got {text!r}")
        if cluster not in plan.contacts:
            raise ValueError(
                f"--node {text}: the plan knows {', '.join(sorted(plan.contacts))}; name one of them"
            )
        if int(port) in nodes:
            raise ValueError(f"--node {text}: port {port} is another node's; give each its own")
        nodes[int(port)] = cluster
    return nodes


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(f"--to must be HOST:PORT, got {text!r}")
    return host.strip("[]"), int(port)


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.speed < float("inf"):
        raise ValueError(f"--speed must be > 0 and finite, got {options.speed}")
    if not 0 <= options.loss < 1:
        raise ValueError(f"--loss must be in [0, 1), got {options.loss}")


def _say_ready(nodes: dict[int, str], options: argparse.Namespace, plan: ContactPlan) -> None:
    for port, cluster in sorted(nodes.items()):
        contacts = len(plan.contacts[cluster])
        print(f"{options.host}:{port} is {cluster}: {contacts} contacts to {options.to}", flush=True)
    real_s = plan.horizon_s / options.speed
    print(f"{plan.horizon_s:.0f} s of the plan in {real_s:.0f} s", flush=True)


def _say_contact(cluster: str, contact: Contact) -> None:
    print(f"{contact.rise_s:10.1f} s  {cluster} is in contact until {contact.set_s:.1f} s", flush=True)


def _say_carried(carried: Carried, log: TextIO | None) -> None:
    print(
        f"{carried.set_s:10.1f} s  {carried.cluster} :{carried.port} is dark; "
        f"{carried.down_bytes} bytes down, {carried.up_bytes} up",
        flush=True,
    )
    if log is not None:
        print(json.dumps(asdict(carried)), file=log, flush=True)
