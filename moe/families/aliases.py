"""Checkpoints published under a name of their own whose architecture transformers has under another."""

from collections.abc import Mapping
from typing import Any

_ALIASES = {
    # By its own config.json its code is that of DeepSeek-V3 (huggingface.co/moonshotai/Kimi-K2-Instruct).
    ("kimi_k2", "DeepseekV3ForCausalLM"): "deepseek_v3",
}


def as_known(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the content of a ``config.json`` under the name by which transformers knows its architecture.

    Only where the file itself names that architecture: then the checkpoint's own code is not needed.
    """
    architectures = config.get("architectures")
    # A field may hold anything here: what is wrong with it is said by those who need it.
    named = (
        [(config.get("model_type"), one) for one in architectures] if isinstance(architectures, list) else []
    )
    known = next((alias for name, alias in _ALIASES.items() if name in named), None)
    if known is None:
        return config
    return {key: value for key, value in config.items() if key != "auto_map"} | {"model_type": known}
