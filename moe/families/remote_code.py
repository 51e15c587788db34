"""Checkpoints that bring code of their own: run only for those whom a person trusts.

Once trusted, its classes are registered with transformers, and the family is one like any other.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

_AUTO: tuple[Any, ...] = (AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForImageTextToText)
# Where transformers puts modules that came with a checkpoint.
_MODULES = "transformers_modules"


def trust_code(folder: Path, fields: Mapping[str, Any]) -> bool:
    """Import the classes that a checkpoint brings, and let transformers build its family with them.

    Code of a family that transformers itself implements is left alone: it is not needed.

    Parameters
    ----------
    folder : Path
        Of the checkpoint.
    fields : Mapping[str, Any]
        Its ``config.json``.

    Returns
    -------
    bool
        Whether code of the checkpoint is what runs, now or from an earlier call.

    Raises
    ------
    ValueError
        If the code cannot be imported, is of another repository, or has no model of this family.
    """
    family, said = fields.get("model_type"), fields.get("auto_map")
    if not isinstance(family, str) or not isinstance(said, Mapping):
        return False
    if family in CONFIG_MAPPING:
        return is_remote(CONFIG_MAPPING[family])
    where = f"checkpoint {folder}"
    builders = [auto for auto in _AUTO if auto.__name__ in said]
    if "AutoConfig" not in said or not builders:
        raise ValueError(
            f"{where} brings code for {', '.join(map(str, said))}, and needs AutoConfig and one of "
            f"{', '.join(auto.__name__ for auto in _AUTO)} in auto_map of config.json"
        )
    wanted = ["AutoConfig", builders[0].__name__]
    foreign = [str(said[name]) for name in wanted if "--" in str(said[name])]
    if foreign:
        raise ValueError(
            f"{where} names code of another repository ({foreign[0]}); put it beside the weights"
        )
    try:
        config_class, model_class = (
            get_class_from_dynamic_module(said[name], str(folder)) for name in wanted
        )
        AutoConfig.register(family, config_class)
        builders[0].register(config_class, model_class)
    except Exception as error:
        # Whatever the code of strangers raises as it is imported.
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{where} brings code that cannot be used ({type(error).__name__}: {reason})"
        ) from error
    return True


def is_remote(kind: type) -> bool:
    """Tell whether a class came with a checkpoint."""
    return kind.__module__.split(".")[0] == _MODULES
