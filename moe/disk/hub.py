"""Where a checkpoint is: a folder here, or a name on the Hugging Face hub."""

import errno
from functools import lru_cache
from pathlib import Path

from moe.gguf.folder import ENDING, as_checkpoint, find_file

_NOT_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENOSPC, errno.EDQUOT)


def resolve_folder(path: str | Path, commit: str | None = None) -> Path:
    """Return the folder of a local path or hub name; of a GGUF file the one that it is read as.

    Parameters
    ----------
    path : str or Path
        Folder or name.
    commit : str, optional
        Which version of a name; a folder here is what it is.

    Raises
    ------
    ValueError
        If it is neither a folder nor a GGUF file here nor a model the hub can give.
    """
    name = str(path)
    folder = expanded(path)
    is_here = is_folder(path)
    if (is_here or folder.suffix == ENDING) and (file := find_file(folder)) is not None:
        return as_checkpoint(file)
    if is_here:
        return folder.resolve()
    looks_local = (
        folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1 or folder.exists()
    )
    if looks_local:
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(
            f"model path {name!r} {what}; give the folder of a checkpoint with config.json and "
            "*.safetensors, a GGUF file, or a hub name like 'organisation/model'"
        )
    return fetch(name, commit)


def is_folder(path: str | Path) -> bool:
    """Tell whether a model path is a folder on this machine.

    Raises
    ------
    ValueError
        If the machine does not let that be seen, or no path can be so.
    """
    try:
        return expanded(path).is_dir()
    except OSError as error:
        raise ValueError(
            f"model path {str(path)!r} cannot be looked at ({error.strerror}); give the folder of a "
            "checkpoint that this user may read"
        ) from None


def expanded(path: str | Path) -> Path:
    """Return a path with ``~`` and ``~user`` put in full; where there is no such user, as it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def hub_name(folder: Path) -> tuple[str, str] | None:
    """Return the name and commit of a model in the hub's cache, ``None`` for any other folder.

    The cache keeps it in ``models--ORGANISATION--NAME/snapshots/COMMIT``; a hub name never holds ``--``
    (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
    """
    if len(folder.parts) < 3:
        return None
    *_, repository, kind, commit = folder.parts
    if kind != "snapshots" or not repository.startswith("models--"):
        return None
    return "/".join(repository.split("--")[1:]), commit


@lru_cache(maxsize=8)
def fetch(name: str, commit: str | None = None) -> Path:
    """Return the folder in the hub's cache of a model, fetched if need be.

    Parameters
    ----------
    name : str
        ``organisation/model``.
    commit : str or None
        Which version; None is the newest.

    Raises
    ------
    ValueError
        If the hub does not give it.
    """
    from huggingface_hub import constants, snapshot_download

    wanted = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    # The publisher's own format beside transformers': as large again, and read by nobody here.
    unwanted = ["original/*", "consolidated*"]
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=wanted, ignore_patterns=unwanted))
    except Exception as error:
        # The hub client raises many unrelated types (HTTP, OS, its own); to the user they are one fault.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        if isinstance(error, OSError) and error.errno in _NOT_WRITTEN:
            raise ValueError(
                f"model {name!r} cannot be put into the hub's cache {constants.HF_HUB_CACHE} ({reason}); set "
                "HF_HOME to a folder that can be written and has room"
            ) from error
        raise ValueError(
            f"model {name!r} is not a folder here and could not be fetched from the hub "
            f"({reason}); check the name and the connection, or download it and give the folder"
        ) from error
