"""Tell a SuperLink which nodes may come, through Flower's own command."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from server.machine.environment import deployed_config, quiet_settings

KNOWN = "already"
"""What Flower says of a key that it has been told of before."""


def register(superlink: str, ca_certificate: Path, public_key: Path) -> str:
    """Register a node's public key at a SuperLink.

    Returns
    -------
    str
        What Flower answered, in a line.

    Raises
    ------
    RuntimeError
        If Flower did not take it; in its words.
    """
    with tempfile.TemporaryDirectory(prefix="ems-fl-") as home:
        (Path(home) / "config.toml").write_text(
            deployed_config(superlink, str(ca_certificate.resolve())), encoding="utf-8"
        )
        done = subprocess.run(
            [str(Path(sys.executable).parent / "flwr"), "supernode", "register", str(public_key), "deployed"],
            env=os.environ | quiet_settings() | {"FLWR_HOME": home},
            capture_output=True,
            text=True,
            check=False,
        )
    said = " ".join((done.stdout + done.stderr).split())
    if done.returncode and KNOWN not in said:
        raise RuntimeError(f"the SuperLink at {superlink} did not take {public_key.name}: {said[-400:]}")
    return said
