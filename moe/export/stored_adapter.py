"""An adapter as it lies in a folder: all that it says is what is applied, or it is refused by name.

PEFT has many kinds of adapters and, of LoRA alone, many settings that change what the numbers mean. Those
that are applied here are listed; any other that is on is refused, those of later versions of PEFT too.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from moe.disk.headers import HeaderError, read_header
from moe.disk.json_file import read_object

ADAPTER_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
ORIGIN_FILE = "ems_fl.json"

_APPLIED = frozenset(
    {
        *("peft_type", "r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),
        *("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern"),
    }
)
# Of training only, of the base, or read with another setting that is refused itself.
_WITHOUT_EFFECT = frozenset(
    {
        *("task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
        *("inference_mode", "lora_dropout", "init_lora_weights", "runtime_config", "ensure_weight_tying"),
        *("megatron_core", "qalora_group_size", "loftq_config", "eva_config", "corda_config"),
        "lora_ga_config",
    }
)
# What the factors start from. The others of PEFT take it out of the base's weights, which then change too.
_STARTS: tuple[Any, ...] = (True, False, "gaussian", "orthogonal", "eva")
_KNOWN = frozenset(setting.name for setting in dataclass_fields(LoraConfig))
_FLOATS = ("F64", "F32", "F16", "BF16")
_AGAIN = "copy or export it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAdapter:
    """What the folder of an adapter holds.

    Parameters
    ----------
    folder : Path
        Where it lies.
    config : LoraConfig
        Its settings, none of them unknown.
    tensors : Mapping[str, Tensor]
        By the names they have in the file; all finite.
    """

    folder: Path
    config: LoraConfig
    tensors: dict[str, Tensor]


def read_adapter(folder: Path) -> StoredAdapter:
    """Read an adapter from its folder.

    Raises
    ------
    ValueError
        If it is no LoRA adapter, has settings that are not applied here, is damaged, or holds values that
        are not finite; all faults of its settings, or of its tensors, at once.
    """
    fields = read_config_fields(folder)
    if not (folder / ADAPTER_FILE).is_file():
        pickle = "it has adapter_model.bin, which can run code when opened; save it as safetensors"
        what = pickle if (folder / "adapter_model.bin").is_file() else "give the folder of an adapter"
        raise ValueError(f"{folder} has {CONFIG_FILE} and no {ADAPTER_FILE}; {what}")
    faults = [*_setting_faults(fields)]
    if faults:
        raise ValueError(f"adapter {folder} cannot be merged: {'; '.join(faults[:8])}")
    known = {name: value for name, value in fields.items() if name in _APPLIED and value is not None}
    try:
        config = LoraConfig(**known)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"adapter {folder} has settings that PEFT refuses ({reason}); {_AGAIN}") from None
    return StoredAdapter(folder=folder, config=config, tensors=_read_tensors(folder / ADAPTER_FILE))


def read_config_fields(folder: Path) -> dict[str, Any]:
    """Return the content of an adapter's configuration file.

    Raises
    ------
    ValueError
        If there is none, or it is no JSON object.
    """
    if not (folder / CONFIG_FILE).is_file():
        raise ValueError(f"{folder} has no {CONFIG_FILE}; give the folder of a run or of an adapter")
    return read_object(folder / CONFIG_FILE, f"adapter {folder}", advice=_AGAIN)


def read_origin(folder: Path) -> str | None:
    """Return the fingerprint of the base that an adapter was exported from, if it says.

    Raises
    ------
    ValueError
        If the file that says it is damaged.
    """
    if not (folder / ORIGIN_FILE).is_file():
        return None
    owner = f"adapter {folder}"
    origin = read_object(folder / ORIGIN_FILE, owner, advice=_AGAIN).get("base_fingerprint")
    if origin is not None and not isinstance(origin, str):
        raise ValueError(f"{owner} has base_fingerprint = {origin!r} in {ORIGIN_FILE}, no text; {_AGAIN}")
    return origin


def _setting_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    kind = fields.get("peft_type")
    if kind != "LORA":
        yield f"peft_type is {kind!r}, and only LORA is merged here; merge it with PEFT (merge_and_unload)"
        return
    start = fields.get("init_lora_weights", True)
    if not any(start is known or (isinstance(known, str) and start == known) for known in _STARTS):
        yield (
            f"init_lora_weights = {start!r} changes the base's weights too; have PEFT convert it to a plain "
            "LoRA (save_pretrained with path_initial_model_for_weight_conversion)"
        )
    for name, value in fields.items():
        # Of a setting that is itself an object, an empty one is on, with all its defaults.
        is_off = not value and not (isinstance(value, dict) and name in _KNOWN)
        is_off |= name == "bias" and value == "none"
        if name not in _APPLIED | _WITHOUT_EFFECT and not is_off:
            yield f"{name} = {_short(value)} is not applied here; merge it with a PEFT that knows it"
    yield from _number_faults(fields)


def _number_faults(fields: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is no rank or no scale; PEFT takes some of it, and computes nonsense."""
    ranks, alphas = ({"": fields.get(name, 8)} for name in ("r", "lora_alpha"))
    for title, name, known in (("r", "rank_pattern", ranks), ("lora_alpha", "alpha_pattern", alphas)):
        pattern = fields.get(name)
        if pattern is None:
            pattern = {}
        if not isinstance(pattern, dict):
            yield f"{name} = {_short(pattern)} must be an object of names and numbers"
            continue
        for key, value in (known | pattern).items():
            where = f"{name}[{key!r}]" if key else title
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if title == "r" and (type(value) is not int or value < 1):
                yield f"{where} = {_short(value)} must be a whole number >= 1"
            elif title != "r" and not (is_number and math.isfinite(value)):
                yield f"{where} = {_short(value)} must be a finite number"
    if not isinstance(fields.get("use_rslora", False), bool):
        yield f"use_rslora = {_short(fields['use_rslora'])} must be true or false"


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        entries = read_header(file)
        foreign = [
            f"{name} is {entry.dtype}" for name, entry in entries.items() if entry.dtype not in _FLOATS
        ]
        if foreign:
            raise ValueError(
                f"{file.parent} has tensors that are no factors of LoRA: {'; '.join(foreign[:3])}, and a "
                f"factor is one of {', '.join(_FLOATS)}; {_AGAIN}"
            )
        tensors: dict[str, Tensor] = load_file(file)
    except (HeaderError, SafetensorError, OSError) as error:
        raise ValueError(f"adapter {file.parent} is damaged: {error}; {_AGAIN}") from None
    wild = [name for name, value in tensors.items() if not torch.isfinite(value).all()]
    if wild:
        more = f" and {len(wild) - 3} more" if len(wild) > 3 else ""
        raise ValueError(
            f"adapter {file.parent} has values that are not finite in {', '.join(wild[:3])}{more}; a merged "
            "model would be of no use: train it again"
        )
    return tensors


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
