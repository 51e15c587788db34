"""Take home: one PEFT adapter of the whole model, or a merged checkpoint; and tell bases apart.

Everything is written to a folder beside the target and renamed at the end, so that nothing
half-written is ever found.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import ParamWrapper
from safetensors.torch import load_file, save_file
from torch import Tensor

from moe.blocks import MoEBlock
from moe.experts import ExpertArrays, ParameterKey, Tuning
from moe.factors import check_arrays, frozen_factor
from moe.layout import layout_of, open_storage
from moe.merge import merged_experts
from moe.quiet import quiet_peft
from moe.shards import TORCH_DTYPES, open_checkpoint
from moe.storage import Storage
from moe.submodel import load_full

_ADAPTER_FILE = "adapter_model.safetensors"
# Per tensor, for the fingerprint: enough places to notice any training, few enough for 100 GB.
_SAMPLES = 32
_SAMPLE_BYTES = 256


def export_adapter(path: str | Path, arrays: ExpertArrays, tuning: Tuning, out_dir: str | Path) -> Path:
    """Write one PEFT LoRA adapter of the full model that holds every tuned expert.

    An expert without arrays gets a zero change. The factors are packed into PEFT's layout for fused
    parameters: ``lora_A`` ``[E*r, in]`` with the expert slowest, ``lora_B`` ``[out, r*E]`` with the
    expert fastest; nothing is rounded or re-factored, and it is float32.

    Parameters
    ----------
    path : str or Path
        The base checkpoint.
    arrays : ExpertArrays
        The ``lora_B`` of experts; ``A`` is made from ``tuning.seed``.
    tuning : Tuning
        Must be ``ffa``.
    out_dir : str or Path
        Folder to make; it must not exist, or be empty.

    Returns
    -------
    Path
        ``out_dir``. `load_adapter` loads it, as does ``PeftModel.from_pretrained`` on the base.

    Raises
    ------
    ValueError
        If arrays do not fit the model, the tuning has no adapter, or ``out_dir`` is in use.
    """
    if tuning.method != "ffa":
        raise ValueError(
            f"tuning {tuning.method!r} changes whole weights, which no adapter holds; use export_merged"
        )
    storage = open_storage(path)
    check_arrays(arrays, layout_of(storage), tuning)
    if any(block.num_experts == 1 for block in storage.blocks.values()):
        raise ValueError("PEFT cannot adapt a layer that has one expert (peft 0.21.2); use export_merged")
    config = _adapter_config(storage, tuning)
    expected = _expected_tensors(storage, config)
    packed = _pack(storage, arrays, tuning)
    if {key: value.shape for key, value in packed.items()} != expected:
        raise ValueError(
            "the adapter's tensors are not those PEFT asks for: missing "
            f"{sorted(expected.keys() - packed.keys())[:3]}, unexpected "
            f"{sorted(packed.keys() - expected.keys())[:3]}; use export_merged for this family"
        )
    with _new_folder(out_dir) as folder:
        save_file(packed, folder / _ADAPTER_FILE, metadata={"format": "pt"})
        config.save_pretrained(str(folder))
    return Path(out_dir)


def load_adapter(path: str | Path, adapter: str | Path, *, dtype: torch.dtype | str = "auto") -> PeftModel:
    """Return the full model with an exported adapter on it.

    ``PeftModel.from_pretrained`` only warns when the file lacks a tensor it needs; here that is an error.

    Raises
    ------
    ValueError
        If tensors are missing, unknown, or did not arrive in the model as they are in the file.
    """
    stored = load_file(Path(adapter) / _ADAPTER_FILE)
    with quiet_peft():
        model = PeftModel.from_pretrained(load_full(path, dtype=dtype), str(adapter)).eval()
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


def export_merged(path: str | Path, arrays: ExpertArrays, tuning: Tuning, out_dir: str | Path) -> Path:
    """Write a checkpoint with the arrays merged in, in the base's own format and dtype.

    Files are copied, then the bytes of each tuned expert are replaced where they lie: the model is
    never built, and what was not tuned stays the same to the bit.

    Parameters
    ----------
    path, arrays, tuning, out_dir
        As `export_adapter`; any tuning.

    Raises
    ------
    ValueError
        If arrays do not fit the model, or ``out_dir`` is in use.
    """
    storage = open_storage(path)
    check_arrays(arrays, layout_of(storage), tuning)
    base = storage.checkpoint
    with _new_folder(out_dir) as folder:
        for file in sorted(base.folder.iterdir()):
            if file.is_file():
                shutil.copyfile(file, folder / file.name)
        for expert, fused in merged_experts(storage, arrays, tuning):
            sources = storage.expert_names(expert.layer, expert.index)
            for name, value in storage.to_disk(expert.layer, expert.index, fused).items():
                spec = base.tensors[name]
                row = sources[name]
                start = spec.start if row is None else spec.start + row * (spec.num_bytes // spec.shape[0])
                _patch(folder / spec.file.name, start, value.to(TORCH_DTYPES[spec.dtype]))
    return Path(out_dir)


def fingerprint(path: str | Path) -> str:
    """Return a short hash that tells whether two machines have the same base.

    Covers the configuration, every tensor's name, dtype and shape, and bytes sampled evenly from every
    tensor: training changes all of a tensor, so it is noticed; a single flipped byte need not be.

    Returns
    -------
    str
        16 hexadecimal digits.

    Raises
    ------
    ValueError
        As `moe.shards.open_checkpoint`.
    """
    checkpoint = open_checkpoint(path)
    # transformers writes its own version into the file; the same weights are the same base.
    config = {key: value for key, value in checkpoint.config.items() if key != "transformers_version"}
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name, spec in sorted(checkpoint.tensors.items()):
        digest.update(f"{name} {spec.dtype} {spec.shape}".encode())
        with spec.file.open("rb") as stream:
            for offset in np.linspace(
                spec.start, max(spec.start, spec.stop - _SAMPLE_BYTES), _SAMPLES, dtype=np.int64
            ):
                stream.seek(int(offset))
                digest.update(stream.read(min(_SAMPLE_BYTES, spec.stop - int(offset))))
    return digest.hexdigest()[:16]


def _adapter_config(storage: Storage, tuning: Tuning) -> LoraConfig:
    targets = [
        f"{block.path}.{name}" for block in storage.blocks.values() for name in block.projections.values()
    ]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=tuning.lora_rank,
        lora_alpha=tuning.lora_alpha,  # type: ignore[arg-type]
        target_modules=[],
        target_parameters=targets,
    )
    config.base_model_name_or_path = str(storage.checkpoint.folder)
    config.inference_mode = True
    return config


def _expected_tensors(storage: Storage, config: LoraConfig) -> dict[str, torch.Size]:
    """Return what PEFT itself would save for this base and configuration; nothing is allocated."""
    with torch.device("meta"), quiet_peft():
        model = get_peft_model(storage.model, config, low_cpu_mem_usage=True)
    return {key: value.shape for key, value in get_peft_model_state_dict(model).items()}


def _pack(storage: Storage, arrays: ExpertArrays, tuning: Tuning) -> dict[str, Tensor]:
    """Return the adapter's tensors; ``storage.model`` must carry PEFT's wrappers, which give the names."""
    packed: dict[str, Tensor] = {}
    by_path = {block.path: block for block in storage.blocks.values()}
    for name, module in storage.model.named_modules():
        if isinstance(module, ParamWrapper):
            block = by_path[name.replace(".base_layer", "")]
            a_factor, b_factor = _pack_block(block, module.parameter_name, arrays, tuning)
            packed[f"base_model.model.{name}.lora_A.weight"] = a_factor
            packed[f"base_model.model.{name}.lora_B.weight"] = b_factor
    return packed


def _pack_block(
    block: MoEBlock, parameter: str, arrays: ExpertArrays, tuning: Tuning
) -> tuple[Tensor, Tensor]:
    projection = next(key for key, name in block.projections.items() if name == parameter)
    out_features, in_features = block.shape(projection)
    rank, count = tuning.lora_rank, block.num_experts
    a_factor = np.empty((count * rank, in_features), np.float32)
    b_factor = np.zeros((out_features, rank * count), np.float32)
    for index in range(count):
        key = ParameterKey(block.layer, index, f"{projection}.lora_A")
        a_factor[index * rank : (index + 1) * rank] = frozen_factor(tuning, key, in_features)
        value = arrays.get(ParameterKey(block.layer, index, f"{projection}.lora_B"))
        if value is not None:
            b_factor[:, index::count] = value
    return torch.from_numpy(a_factor), torch.from_numpy(b_factor)


def _patch(file: Path, start: int, value: Tensor) -> None:
    raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    with file.open("r+b") as stream:
        stream.seek(start)
        stream.write(raw)


@contextmanager
def _new_folder(out_dir: str | Path) -> Iterator[Path]:
    """Give a folder that becomes ``out_dir`` if all goes well, and vanishes if not."""
    target = Path(out_dir)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{target} exists and is not an empty folder; name another, or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        folder.chmod(0o755)
        if target.exists():
            target.rmdir()
        folder.rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
