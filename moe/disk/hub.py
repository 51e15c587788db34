"""Where a checkpoint is: a folder here, or a name on the Hugging Face hub."""

from functools import lru_cache
from pathlib import Path


def resolve_folder(path: str | Path) -> Path:
    """Return the folder of a local path or hub name.

    Raises
    ------
    ValueError
        If it is neither a folder here nor a model the hub can give.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return folder.resolve()
    name = str(path)
    looks_local = (
        folder.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1 or folder.exists()
    )
    if looks_local:
        what = "is a file" if folder.exists() else "does not exist"
        raise ValueError(
            f"model path {name!r} {what}; give the folder of a checkpoint with config.json and "
            "*.safetensors, or a hub name like 'organisation/model'"
        )
    return fetch(name)


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
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=patterns))
    except Exception as error:
        # The hub client raises many unrelated types (HTTP, OS, its own); to the user they are one fault.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(
            f"model {name!r} is not a folder here and could not be fetched from the hub "
            f"({reason}); check the name and the connection, or download it and give the folder"
        ) from error
