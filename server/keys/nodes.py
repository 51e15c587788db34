"""A key for each node, in the format of OpenSSH that Flower's SuperNode authentication reads."""

import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from server.keys.files import write_private, write_public

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def ensure_node_key(folder: Path, name: str) -> bool:
    """Write ``nodes/NAME`` and ``nodes/NAME.pub`` unless they are there; say if written.

    Raises
    ------
    ValueError
        If the name cannot be a file's, or only one of the two is there.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            f"a node's name has letters, digits, dots, dashes and underscores, at most 64, got {name!r}"
        )
    file, public = folder / "nodes" / name, folder / "nodes" / f"{name}.pub"
    if file.is_file() and public.is_file():
        return False
    if file.exists() or public.exists():
        raise ValueError(f"of the key of node {name!r} one file is missing; put it back, or remove the other")
    file.parent.mkdir(mode=0o700, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    write_private(file, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    write_public(public, key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH) + b"\n")
    return True


def public_keys(folder: Path) -> list[Path]:
    """Return the public keys of all nodes, by name."""
    return sorted((folder / "nodes").glob("*.pub"))
