"""Write to a disk that may be full: whole or not at all, and an error that says what to do about it."""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def writing(what: str, path: Path, num_bytes: int) -> Iterator[None]:
    """Turn every failure to write into one error that says what, where, how much, and what to do.

    Parameters
    ----------
    what : str
        With its article, such as ``"the adapter"``.
    path : Path
        The file or folder that is written; it need not exist.
    num_bytes : int
        How much room it takes, about.

    Raises
    ------
    OSError
        If that much is not free, before anything is written; or if the disk refuses it later (a quota,
        somebody else's files).
    """
    if _free_bytes(path) < num_bytes:
        raise not_written(what, path, num_bytes, "no space left on that disk")
    try:
        yield
    # safetensors writes in Rust, whose errors are no OSError.
    except (OSError, SafetensorError) as error:
        raise not_written(what, path, num_bytes, error) from error


def not_written(what: str, path: Path, num_bytes: int, reason: object) -> OSError:
    """Return the error that says what cannot be written, where, why, how much it is, and what to do."""
    takes = f"it takes {_in_words(num_bytes)}, and " if num_bytes else ""
    try:
        free = f"{_in_words(_free_bytes(path))} are free there"
    except OSError:
        free = "how much is free there is not known"
    return OSError(
        f"{what} cannot be written to {path} ({reason}); {takes}{free}. What was there before stays: free "
        "some space, or choose a folder on another disk"
    )


@contextmanager
def new_folder(out_dir: str | Path, *, what: str, num_bytes: int, replace: bool = False) -> Iterator[Path]:
    """Give a folder that becomes ``out_dir`` if all goes well, and vanishes if not.

    Parameters
    ----------
    out_dir : str or Path
        Folder to make.
    what, num_bytes
        As `writing`.
    replace : bool
        Whether a folder of that name is replaced, once the new one is whole; there must be room for both.

    Raises
    ------
    ValueError
        If ``out_dir`` is in use and not to be replaced, or another process is writing it.
    OSError
        As `writing`; ``out_dir`` is then as it was.
    """
    target = Path(out_dir)
    if target.name in ("", ".."):
        # A folder takes its place, and whoever is in it would be nowhere.
        raise ValueError(f"{str(target)!r} is no name for a folder to make {what} in; name another")
    unfinished, replaced = (target.with_name(f".{target.name}.{word}") for word in ("unfinished", "replaced"))
    if replaced.is_dir() and not target.exists():
        replaced.rename(target)  # a process was killed between the two renames below
    is_free = not target.exists() or (target.is_dir() and (replace or not any(target.iterdir())))
    if not is_free:
        raise ValueError(f"{target} exists and is not an empty folder; name another, or remove it")
    with writing(what, target, num_bytes):
        unfinished.mkdir(parents=True, exist_ok=True)
        with _only_writer(unfinished, target):
            try:
                for left in unfinished.iterdir():  # by a process that was killed
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
                yield unfinished
                _force_to_disk(unfinished)
                shutil.rmtree(replaced, ignore_errors=True)
                if target.exists():
                    target.rename(replaced)
                unfinished.rename(target)
                shutil.rmtree(replaced, ignore_errors=True)
            finally:
                if replaced.is_dir() and not target.exists():
                    replaced.rename(target)
                shutil.rmtree(unfinished, ignore_errors=True)


@contextmanager
def _only_writer(folder: Path, target: Path) -> Iterator[None]:
    """Hold a lock on a folder; the kernel lets go of it when the process dies."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is writing {target}; wait for it to end") from error
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(handle)


def _force_to_disk(folder: Path) -> None:
    """Make the disk say now if it has no room, and every file as readable as the folder."""
    for file in folder.rglob("*"):
        if file.is_dir():
            continue
        # safetensors makes files that only their owner may read.
        file.chmod(folder.stat().st_mode & 0o666)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _free_bytes(path: Path) -> int:
    return shutil.disk_usage(next(parent for parent in path.absolute().parents if parent.exists())).free


def _in_words(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e5 else f"{num_bytes / 1e3:.1f} kB"
