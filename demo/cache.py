"""Folders made once per machine: complete or absent, and made by one process at a time.

Each carries a list of its files with their SHA-256: what a full disk, a crash or a hand has damaged is
noticed, and made again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.5
_WAIT_REPORT_INTERVAL_S = 3.0
_SEAL = ".sha256.json"


class UnwritableError(ValueError):
    """The cache cannot be written, or there is no place for it."""


def root() -> Path:
    """Return the cache: ``$EMS_FL_CACHE``, else ``$XDG_CACHE_HOME/ems-fl``, else ``~/.cache/ems-fl``.

    Raises
    ------
    UnwritableError
        If nothing is set and this user has no home.
    """
    own = os.environ.get("EMS_FL_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME")
    try:
        if own:
            return Path(own).expanduser()
        return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "ems-fl"
    except RuntimeError as error:
        raise UnwritableError(
            f"there is no home folder to keep the cache in ({error}); set EMS_FL_CACHE to a folder that can "
            "be written"
        ) from None


def folder(kind: str, *keys: str) -> Path:
    """Return the place of what these keys describe; the same keys always give the same place."""
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    return root() / kind / digest[:16]


def ensure(path: Path, make: Callable[[Path], None], progress: Callable[[str], None]) -> Path:
    """Return ``path``, filled by ``make`` if it is not there or not as it was made.

    Parameters
    ----------
    path : Path
        Folder wanted. It appears by a rename once ``make`` has returned, never half-written.
    make : Callable[[Path], None]
        Fills the empty folder it is given.
    progress : Callable[[str], None]
        Told at least every 5 s that another process is making it, while that is so; and of damage.

    Raises
    ------
    UnwritableError
        If the cache cannot be written; says how to name another.
    """
    if _is_whole(path):
        return path
    _check_writable(path)
    with _locked(path.with_name(f"{path.name}.lock"), progress):
        if not _is_whole(path):
            if path.is_dir():
                progress(f"{path} is damaged, or of an older version: making it again")
            making = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
            try:
                make(making)
                (making / _SEAL).write_text(json.dumps(_digests(making), indent=0), encoding="utf-8")
                making.chmod(0o755)  # mkdtemp's folder is the owner's alone
                _put(making, path)
            finally:
                shutil.rmtree(making, ignore_errors=True)
    return path


def _is_whole(path: Path) -> bool:
    """Tell whether a folder is there and holds what was put into it."""
    try:
        sealed = json.loads((path / _SEAL).read_text(encoding="utf-8"))
        return bool(sealed == _digests(path))
    except (OSError, ValueError):
        return False


def _digests(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != _SEAL
    }


def _check_writable(path: Path) -> None:
    parent = path.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        damage = f"{path} is damaged, or of an older version, and " if os.path.isdir(path) else ""
        raise UnwritableError(
            f"{damage}the cache {parent} cannot be written ({error.strerror}); set EMS_FL_CACHE to a folder "
            "that can"
        ) from error


def _put(making: Path, path: Path) -> None:
    # Where files have no locks another process may have been first; what it made is as good.
    if _is_whole(path):
        return
    damaged = making.with_name(f"{making.name}-damaged")
    if path.is_dir():
        path.rename(damaged)
    try:
        os.replace(making, path)
    except OSError:
        if not _is_whole(path):
            raise
    finally:
        shutil.rmtree(damaged, ignore_errors=True)


@contextmanager
def _locked(path: Path, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold a file lock, which the system frees when its process ends however it ends."""
    with path.open("w") as file:
        last_s = time.monotonic() - _WAIT_REPORT_INTERVAL_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() - last_s >= _WAIT_REPORT_INTERVAL_S:
                    last_s = time.monotonic()
                    progress(f"waiting for another process that is making {path.stem}")
                time.sleep(_POLL_S)
            except OSError:  # a file system without locks: at worst two processes make the same
                break
        yield
