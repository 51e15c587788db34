"""Folders made once per machine: complete or absent, and made by one process at a time."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_POLL_S = 0.5
_WAIT_REPORT_INTERVAL_S = 3.0


def root() -> Path:
    """Return the cache: ``$EMS_FL_CACHE``, else ``$XDG_CACHE_HOME/ems-fl``, else ``~/.cache/ems-fl``."""
    own = os.environ.get("EMS_FL_CACHE")
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared).expanduser() if shared else Path.home() / ".cache") / "ems-fl"


def folder(kind: str, *keys: str) -> Path:
    """Return the place of what these keys describe; the same keys always give the same place."""
    digest = hashlib.sha256("\n".join(keys).encode()).hexdigest()
    return root() / kind / digest[:16]


def ensure(path: Path, make: Callable[[Path], None], progress: Callable[[str], None]) -> Path:
    """Return ``path``, filled by ``make`` if it is not there.

    Parameters
    ----------
    path : Path
        Folder wanted. It appears by a rename once ``make`` has returned, never half-written.
    make : Callable[[Path], None]
        Fills the empty folder it is given.
    progress : Callable[[str], None]
        Told at least every 5 s that another process is making it, while that is so.

    Raises
    ------
    ValueError
        If the cache cannot be written; says how to name another.
    """
    if path.is_dir():
        return path
    _check_writable(path.parent)
    with _locked(path.with_name(f"{path.name}.lock"), progress):
        if not path.is_dir():
            making = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
            try:
                make(making)
                making.chmod(0o755)  # mkdtemp's folder is the owner's alone
                _put(making, path)
            finally:
                shutil.rmtree(making, ignore_errors=True)
    return path


def _check_writable(parent: Path) -> None:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise ValueError(
            f"the cache {parent} cannot be written ({error.strerror}); set EMS_FL_CACHE to a folder that can"
        ) from error


def _put(making: Path, path: Path) -> None:
    try:
        os.replace(making, path)
    except OSError:
        # Where files have no locks another process may have been first; what it made is as good.
        if not path.is_dir():
            raise


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
