"""What PEFT is told of a LoRA tuning, wherever adapters are made: in a sub-model, or for the file."""

from typing import Any

from moe.experts import Tuning


def lora_settings(tuning: Tuning) -> dict[str, Any]:
    """Return the arguments of ``peft.LoraConfig`` that the tuning decides; dropout is training's alone."""
    return {"r": tuning.lora_rank, "lora_alpha": tuning.lora_alpha, "use_rslora": tuning.lora_rslora}
