"""Configurations put right as they come in: what transformers 5.23 reads wrongly, what must not be used."""

from collections.abc import Callable, Mapping
from typing import Any

from transformers import PreTrainedConfig


def repair(config: PreTrainedConfig, stored: Mapping[str, Any]) -> PreTrainedConfig:
    """Return the configuration that the file means, without choices that would spoil a number or a run.

    Parameters
    ----------
    config : PreTrainedConfig
        As transformers read it; changed in place.
    stored : Mapping[str, Any]
        The content of ``config.json``.
    """
    _use_grouped_experts(config)
    _report_loss_alone(config)
    fault = _REPAIRS.get(config.model_type)
    if fault is not None:
        fault(config, stored)
    return config


def _use_grouped_experts(config: Any) -> None:
    """Undo the choice of ``batched_mm``, which copies weights for every choice of every token.

    On a CPU that is 40 times slower and gigabytes larger (1024 tokens, hidden size 128).
    """
    if "batched_mm" in (config._experts_implementation, config.get_text_config()._experts_implementation):
        config._experts_implementation = "grouped_mm"


def _report_loss_alone(config: Any) -> None:
    """Keep the routers' auxiliary loss out of ``loss``: it is reported in nats, and routers are frozen."""
    for part in (config, config.get_text_config()):
        if getattr(part, "output_router_logits", False):
            part.output_router_logits = False


def _dbrx(config: Any, stored: Mapping[str, Any]) -> None:
    """Take the base of the rotary embedding from where DBRX's files have it.

    That is ``attn_config.rope_theta`` (500000 in databricks/dbrx-base). transformers 5.23 computes with
    ``rope_parameters`` of the whole configuration, which it then fills with its default of 10000: the
    model loads without a word, and is another. Where the file has ``rope_parameters``, because
    transformers 5 wrote it, these hold. Without either, building the model fails for want of the first.
    """
    theta = getattr(config.attn_config, "rope_theta", None)
    is_said = "rope_parameters" in stored or "rope_theta" in stored
    if theta is None:
        config.attn_config.rope_theta = config.rope_parameters["rope_theta"]
    elif not is_said:
        config.rope_parameters = {**config.rope_parameters, "rope_theta": float(theta)}


_REPAIRS: Mapping[str, Callable[[Any, Mapping[str, Any]], None]] = {"dbrx": _dbrx}
