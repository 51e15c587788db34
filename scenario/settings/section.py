"""What every table of the settings is made of: strict, frozen, kebab-case in TOML."""

from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict


def kebab(name: str) -> str:
    """Return the key of a field as it is written in TOML."""
    return name.replace("_", "-")


class Section(BaseModel):
    """One table of the run configuration: strict types, no unknown key, no NaN or infinity, immutable."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=kebab,
        populate_by_name=True,
        protected_namespaces=(),
    )


def require_absolute(path: str) -> str:
    """Return ``path`` if it is empty or absolute.

    Flower runs an app from its own folder and its daemon keeps the working directory of the first run, so
    a relative path would point somewhere nobody meant.
    """
    if path and not PurePosixPath(path).is_absolute():
        raise ValueError(
            "must be empty or an absolute path (Flower runs the app from another folder); "
            'write it out in full, for example with "$(realpath FILE)"'
        )
    return path
