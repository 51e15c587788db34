"""Take home: one PEFT adapter of the whole model, or a merged checkpoint; and tell bases apart.

Everything is written to a folder beside the target and renamed at the end (`moe.disk.writing`), so that
nothing half-written is ever found.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from moe.disk.config_fields import without_nulls
from moe.disk.dequantised import DequantisedCheckpoint
from moe.disk.layout import layout_of, open_storage
from moe.disk.shards import TORCH_DTYPES, Checkpoint, Part, locate, open_checkpoint
from moe.disk.storage import Storage
from moe.disk.weight_files import companions
from moe.disk.writing import new_folder
from moe.experts import ExpertArrays, ExpertId, Tuning
from moe.export.dequantised_copy import write_copy
from moe.export.model_card import adapter_card
from moe.export.packing import adapter_config, as_in_model, pack, read_changes
from moe.export.stored_adapter import ADAPTER_FILE, ORIGIN_FILE, read_adapter, read_origin
from moe.factors import check_arrays
from moe.held import refuse_part
from moe.quiet import quiet_peft
from moe.submodel.load import load_full
from moe.tuning.merge import changed_experts, merged_experts
from moe.tuning.router_rows import changed_rows, row_changes
from moe.tuning.shared_parts import changed_linears, linear_changes

# For the fingerprint: enough places of every tensor to notice any training, few enough in all for
# a checkpoint of 20,000 tensors to take seconds.
_MAX_SAMPLES, _MIN_SAMPLES, _ALL_SAMPLES = 32, 4, 65_536
_SAMPLE_BYTES = 256


def export_adapter(
    path: str | Path,
    arrays: ExpertArrays,
    tuning: Tuning,
    out_dir: str | Path,
    *,
    about: Mapping[str, str] | None = None,
    replace: bool = False,
) -> Path:
    """Write one PEFT LoRA adapter of the full model that holds every tuned expert.

    An expert without arrays gets a zero change. Nothing is rounded or re-factored; it is float32.

    Parameters
    ----------
    path : str or Path
        The base checkpoint.
    arrays : ExpertArrays
        The ``lora_B`` of experts and shared parts; ``lora_A`` where they have none is drawn from
        ``tuning.seed``.
    tuning : Tuning
        Must be ``ffa`` or ``lora``.
    out_dir : str or Path
        Folder to make; it must not exist, or be empty, unless it is to be replaced.
    about : Mapping[str, str], optional
        What the model card says of the run besides base, tuning and versions: title -> text.
    replace : bool
        Whether an earlier export is replaced, once this one is whole.

    Returns
    -------
    Path
        ``out_dir``. `load_adapter` loads it, as does ``PeftModel.from_pretrained`` on the base.

    Raises
    ------
    ValueError
        If arrays do not fit the model, the tuning has no adapter, or ``out_dir`` is in use.
    OSError
        If the disk has no room; what was there before is as it was. As `moe.disk.writing.new_folder`.
    """
    if tuning.method == "full":
        raise ValueError(
            f"tuning {tuning.method!r} changes whole weights, which no adapter holds; use export_merged"
        )
    storage = open_storage(path)
    check_arrays(arrays, layout_of(storage), tuning)
    config = adapter_config(storage, tuning)
    packed = pack(storage, config, arrays, tuning)
    num_bytes = sum(tensor.nbytes for tensor in packed.values())
    with new_folder(out_dir, what="the adapter", num_bytes=num_bytes, replace=replace) as folder:
        save_file(packed, folder / ADAPTER_FILE, metadata={"format": "pt"})
        config.save_pretrained(str(folder))
        origin = {"base_fingerprint": fingerprint(path), "tuning": asdict(tuning)}
        (folder / ORIGIN_FILE).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(adapter_card(storage, tuning, about or {}), encoding="utf-8")
    return Path(out_dir)


def load_adapter(path: str | Path, adapter: str | Path, *, dtype: torch.dtype | str = "auto") -> PeftModel:
    """Return the full model with an exported adapter on it.

    ``PeftModel.from_pretrained`` only warns when the file lacks a tensor it needs; here that is an error.

    Raises
    ------
    ValueError
        As `moe.export.stored_adapter.read_adapter`; if tensors are missing, unknown, or did not arrive in the
        model as they are in the file.
    """
    tensors = read_adapter(Path(adapter)).tensors
    with quiet_peft():
        model = PeftModel.from_pretrained(load_full(path, dtype=dtype), str(adapter)).eval()
    stored = as_in_model(model, model.active_peft_config, tensors)
    loaded = get_peft_model_state_dict(model)
    faults = [f"{key} is missing" for key in loaded if key not in stored]
    faults += [f"{key} is not of this model" for key in stored if key not in loaded]
    faults += [
        f"{key} was not loaded"
        for key in loaded.keys() & stored.keys()
        if not torch.equal(loaded[key], stored[key].to(loaded[key].dtype))
    ]
    if faults:
        raise ValueError(
            f"adapter {adapter} does not fit {path}: {'; '.join(sorted(faults)[:5])}; "
            "export it again from this base"
        )
    return model


def export_merged(
    path: str | Path,
    arrays: ExpertArrays,
    tuning: Tuning,
    out_dir: str | Path,
    *,
    replace: bool = False,
) -> Path:
    """Write a checkpoint with the arrays merged in, in the base's own dtype.

    Files are copied, then the bytes of each tuned expert are replaced where they lie: the model is
    never built, and what was not tuned stays the same to the bit. Of a quantised base it is the dequantised
    copy, in the type its configuration names (bfloat16, as they are published).

    Parameters
    ----------
    path, arrays, tuning, out_dir, replace
        As `export_adapter`; any tuning.

    Raises
    ------
    ValueError
        If arrays do not fit the model, or ``out_dir`` is in use.
    OSError
        As `export_adapter`.
    """
    storage = open_storage(path)
    check_arrays(arrays, layout_of(storage), tuning)
    rows = [
        *changed_rows(storage, row_changes(storage, arrays)),
        *changed_linears(storage, linear_changes(storage, arrays, tuning)),
    ]
    return _write_merged(storage, merged_experts(storage, arrays, tuning), rows, out_dir, replace)


def merge_adapter(path: str | Path, adapter: str | Path, out_dir: str | Path) -> Path:
    """Write a checkpoint with an exported adapter merged in; as `export_merged`, from the file alone.

    Raises
    ------
    ValueError
        If the adapter was exported from another base, or does not fit this one, or ``out_dir`` is in use.
    OSError
        As `export_adapter`.
    """
    storage = open_storage(path)
    origin = read_origin(Path(adapter))
    if origin not in (None, fingerprint(path)):
        raise ValueError(
            f"adapter {adapter} was trained on a base with fingerprint {origin}, and {path} has "
            f"{fingerprint(path)}; give the base it was trained on"
        )
    experts = layout_of(storage).experts
    changes = read_changes(storage, Path(adapter))
    rows = [*changed_rows(storage, changes.rows), *changed_linears(storage, changes.linears)]
    return _write_merged(storage, changed_experts(storage, experts, changes.expert), rows, out_dir)


def fingerprint(path: str | Path) -> str:
    """Return a short hash that tells whether two machines have the same base.

    Covers the configuration, every tensor's name, dtype and shape, and bytes sampled evenly from every
    tensor: training changes all of a tensor, so it is noticed; a single flipped byte need not be.

    Returns
    -------
    str
        16 hexadecimal digits; of a device's part of a checkpoint those of the whole, which it was told.

    Raises
    ------
    ValueError
        As `moe.disk.shards.open_checkpoint`.
    """
    checkpoint = open_checkpoint(path)
    if checkpoint.held is not None:
        return checkpoint.held.base
    # transformers writes its own version into the file; the same weights are the same base.
    config = {key: value for key, value in checkpoint.config.items() if key != "transformers_version"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    num_samples = max(_MIN_SAMPLES, min(_MAX_SAMPLES, _ALL_SAMPLES // len(checkpoint.tensors)))
    with ExitStack() as opened:
        files = {spec.file for spec in checkpoint.tensors.values()}
        streams = {file: opened.enter_context(file.open("rb")) for file in files}
        for name, spec in sorted(checkpoint.tensors.items()):
            digest.update(f"{name} {spec.dtype} {spec.shape}".encode())
            last = max(spec.start, spec.stop - _SAMPLE_BYTES)
            for offset in np.linspace(spec.start, last, num_samples, dtype=np.int64).tolist():
                streams[spec.file].seek(offset)
                digest.update(streams[spec.file].read(min(_SAMPLE_BYTES, spec.stop - offset)))
    return digest.hexdigest()[:16]


def _write_merged(
    storage: Storage,
    experts: Iterable[tuple[ExpertId, dict[str, Tensor]]],
    others: Iterable[tuple[str, Part | None, Tensor]],
    out_dir: str | Path,
    replace: bool = False,
) -> Path:
    """Copy a checkpoint and put these experts, and other tensors or rows of them, in the place of its own."""
    refuse_part(storage.checkpoint.held)
    base = storage.checkpoint
    # Nothing that was left in the base's folder: transformers reads one set of weights, other programs
    # may take the other, and it would be without the change.
    names = companions(base.folder)
    is_packed = isinstance(base, DequantisedCheckpoint)
    num_bytes = sum(spec.num_bytes for spec in base.tensors.values()) if is_packed else 0
    if not is_packed:
        names += [*base.weights.shards, *filter(None, [base.weights.index])]
    num_bytes += sum((base.folder / name).stat().st_size for name in names)
    with new_folder(out_dir, what="the merged checkpoint", num_bytes=num_bytes, replace=replace) as folder:
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(base.folder / name, folder / name)
        _write_config(storage, folder)
        if isinstance(base, DequantisedCheckpoint):
            write_copy(base, folder)
            base = open_checkpoint(folder)
        for expert, fused in experts:
            parts = storage.expert_names(expert.layer, expert.index)
            for name, value in storage.to_disk(expert.layer, expert.index, fused).items():
                _patch(folder, base, name, parts[name], value)
        for name, part, value in others:
            _patch(folder, base, name, part, value)
    return Path(out_dir)


def _write_config(storage: Storage, folder: Path) -> None:
    """Leave out of config.json what was read as absent: transformers would refuse the file."""
    fields = without_nulls(storage.checkpoint.config)
    if fields != storage.checkpoint.config:
        (folder / "config.json").write_text(json.dumps(fields, indent=2) + "\n", encoding="utf-8")


def _patch(folder: Path, base: Checkpoint, name: str, part: Part | None, value: Tensor) -> None:
    """Replace a tensor, or one part of it, where it lies."""
    spec = base.tensors[name]
    start, _ = locate(spec, part)
    rounded = value.to(TORCH_DTYPES[spec.dtype])
    if not torch.isfinite(rounded).all():
        raise ValueError(
            f"the change makes {name!r} larger than its type {spec.dtype} can hold, or it is not finite "
            "already in the base; nothing is written"
        )
    raw = rounded.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    with (folder / spec.file.relative_to(base.folder)).open("r+b") as stream:
        stream.seek(start)
        stream.write(raw)
