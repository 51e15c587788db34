"""The model card that goes with an exported adapter."""

from collections.abc import Mapping
from importlib.metadata import version

from moe.disk.hub import hub_name
from moe.disk.layout import auto_class, layout_of
from moe.disk.storage import Storage
from moe.experts import Tuning
from moe.families.remote_code import is_remote
from moe.formats.find import DEQUANTISE

_METHODS = {
    "ffa": "LoRA on the routed experts, `A` frozen and seeded, only `B` trained (FFA-LoRA, arXiv 2403.12313)",
    "lora": "LoRA on the routed experts, both factors trained and averaged (FedIT, arXiv 2305.05644)",
}
_SHARED = (
    "; {parts} too, with adapters of the same kind that all clusters trained and the server averaged: what "
    "clusters trained is not disjoint there"
)
_ROWS = "; the experts' rows of the router too, as LoRA of full rank"
_FALSE_WARNING = (
    "PEFT 0.21.2 warns here that keys of `rank_pattern` and `alpha_pattern` were ignored. They are not: it "
    "looks for them among modules, and those of the routers name parameters."
)


def adapter_card(storage: Storage, tuning: Tuning, about: Mapping[str, str]) -> str:
    """Return the text of a README.md in the hub's form.

    Parameters
    ----------
    storage : Storage
        The base.
    tuning : Tuning
        How the experts were tuned.
    about : Mapping[str, str]
        Sections of the caller's: title -> Markdown.
    """
    folder = storage.checkpoint.folder
    found = hub_name(folder)
    base, commit = (found[0], f" at {found[1]}") if found else (folder.name, "")
    layout = layout_of(storage)
    # Of a model with towers, some classes build the text part alone: the adapter fits one class's names.
    auto = auto_class(storage.model.config).__name__
    versions = ", ".join(f"{name} {version(name)}" for name in ("transformers", "peft", "torch"))
    lines = [
        "---",
        *([f"base_model: {base}"] if found else []),
        "library_name: peft",
        "tags: [mixture-of-experts, federated-learning, lora]",
        "---",
        "",
        f"# Experts of {base}, tuned by EMS-FL",
        "",
        f"- base: {base}{commit} ({layout.family}, {len(layout.layers)} MoE layers, top-{layout.top_k})",
        f"- tuned: {_tuned(tuning)}, "
        f"rank {tuning.lora_rank}, alpha {tuning.lora_alpha:g}, "
        f"scale {tuning.scale:g}{' (rsLoRA, arXiv 2312.03732)' if tuning.lora_rslora else ''}",
        f"- made with: {versions}; older versions of PEFT read the factors in another order",
        *_base_format(storage),
        *_code_warning(storage),
        "",
        *_loading(storage, auto, base if found else "<base>"),
    ]
    if tuning.router_rows:
        lines += ["", _FALSE_WARNING]
    for title, text in about.items():
        lines += ["", f"## {title}", "", text]
    return "\n".join([*lines, ""])


def _tuned(tuning: Tuning) -> str:
    shared = " and ".join(tuning.shared_parts)
    how = _METHODS[tuning.method]
    if "experts" not in tuning.parts:
        return how.replace("the routed experts", f"{shared} alone")
    return how + (_SHARED.format(parts=shared) if shared else "") + (_ROWS if tuning.router_rows else "")


def _base_format(storage: Storage) -> list[str]:
    """Return what the card says of a quantised base: which form of it stock PEFT can load the adapter on."""
    if not storage.checkpoint.packed:
        return []
    is_read = _method(storage) in DEQUANTISE
    how = "below, transformers does that as it loads" if is_read else "transformers does not load its experts"
    return [
        f"- the base is quantised ({storage.checkpoint.format}), and the adapter was trained on what that "
        "means in numbers. Stock PEFT does not add to experts in few bits: it loads the adapter on the "
        f"dequantised base ({how}), or take the merged checkpoint, which is dequantised"
    ]


def _code_warning(storage: Storage) -> list[str]:
    if not is_remote(type(storage.model)):
        return []
    return [
        "- **the base brings code of its own**, which ran in training (`trust_remote_code=True`): read it"
    ]


def _loading(storage: Storage, auto: str, base: str) -> list[str]:
    """Return the code that loads base and adapter."""
    said = DEQUANTISE.get(_method(storage)) if storage.checkpoint.packed else None
    more = f", {said.partition('(')[0]}" if said else ""
    told = f', dtype="auto", quantization_config={said}' if said else ""
    told += ", trust_remote_code=True" if is_remote(type(storage.model)) else ""
    if storage.checkpoint.packed and not said:
        base = f"<dequantised copy of {base}>"
    return [
        "```python",
        "from peft import PeftModel",
        f"from transformers import {auto}{more}",
        "",
        f'base = {auto}.from_pretrained("{base}"{told})',
        'model = PeftModel.from_pretrained(base, "<this folder>")',
        "```",
    ]


def _method(storage: Storage) -> str:
    return storage.checkpoint.format.partition(",")[0]
