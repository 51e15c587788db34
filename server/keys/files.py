"""Secrets on disk: written for their owner alone, never over one that is there by accident."""

import os
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat


def write_private(file: Path, content: bytes) -> None:
    """Write a secret that only its owner may read, at no moment otherwise, whole or not at all."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    unfinished.replace(file)


def write_private_pem(file: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """Write a key as TLS servers read it."""
    write_private(file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def write_public(file: Path, content: bytes) -> None:
    """Write what everybody may read."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.chmod(0o644)
    unfinished.replace(file)


def read_private(file: Path) -> bytes:
    """Return a secret.

    Raises
    ------
    ValueError
        If others than its owner may read it.
    """
    mode = stat.S_IMODE(file.stat().st_mode)
    if mode & 0o077:
        raise ValueError(
            f"{file} can be read by others (mode {mode:o}); make it yours alone: chmod 600 {file}; if "
            "others had access, use a new folder"
        )
    return file.read_bytes()
