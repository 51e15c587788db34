"""What ``model.name`` means: a model that is made on this machine, or a checkpoint as it is."""

from collections.abc import Callable

from demo.base_model import ensure_base_model
from demo.real.recipe import BY_NAME
from demo.recipe import BY_NAME as RECIPES
from moe.disk.hub import resolve_folder
from moe.gguf.folder import ENDING


def resolve_model_name(name: str, progress: Callable[[str], None] = print) -> str:
    """Return the folder of a demo model, made if need be, or of a GGUF file; any other name as it is.

    Parameters
    ----------
    name : str
        A name of `demo.recipe` or of `demo.real.recipe`, a local path or a name on the Hugging Face hub.
    progress : Callable[[str], None]
        As for `demo.base_model.ensure_base_model`.

    Raises
    ------
    ValueError
        As `demo.base_model.ensure_base_model`, `demo.real.base_model.ensure_named` and
        `moe.disk.hub.resolve_folder`.
    """
    if name in BY_NAME:
        from demo.real.base_model import ensure_named  # Only now: nothing else needs what it imports.

        return str(ensure_named(name, progress))
    if name in RECIPES:
        return str(ensure_base_model(progress, RECIPES[name]))
    return str(resolve_folder(name)) if name.endswith(ENDING) else name
