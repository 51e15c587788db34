"""Which files of a folder are the model's weights: those that transformers would read, no others.

A folder may hold more: what an earlier save has left, another variant, the publisher's own format. The
order of preference is that of transformers 5.23 (``modeling_utils._get_resolved_checkpoint_files``).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from moe.disk.json_file import read_object

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# A line of config.json that names the file, instead of the two above.
_EXPLICIT = "transformers_weights"
_WEIGHT_ENDINGS = (
    *(".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"),
    *(".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".onnx_data", ".npz", ".nemo"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The weight files of one checkpoint.

    Parameters
    ----------
    shards : tuple[str, ...]
        Their names, relative to the folder, in the order in which transformers reads them: where two
        hold a tensor of one name, the later is the model's.
    index : str
        Name of the index; empty without one.
    places : Mapping[str, str]
        Tensor -> shard, by the index.
    faults : tuple[str, ...]
        What is wrong with them.
    """

    shards: tuple[str, ...]
    index: str = ""
    places: Mapping[str, str] = field(default_factory=dict)
    faults: tuple[str, ...] = ()


def find_weights(folder: Path, config: Mapping[str, Any]) -> WeightFiles:
    """Return the files that transformers would load from a folder.

    Parameters
    ----------
    folder : Path
        Of a checkpoint.
    config : Mapping[str, Any]
        Its ``config.json``.

    Raises
    ------
    ValueError
        If there are none, or not in safetensors.
    """
    explicit = config.get(_EXPLICIT)
    if explicit is not None:
        return _explicit(folder, explicit)
    if (folder / SINGLE).is_file():
        return WeightFiles(shards=(SINGLE,))
    if (folder / INDEX).is_file():
        return _indexed(folder, INDEX)
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    pickles = [name for name in names if name.endswith((".bin", ".pt", ".pth"))]
    loose = [name for name in names if name.endswith(".safetensors")]
    if pickles and not loose:
        raise ValueError(
            f"checkpoint {folder} has only pickle weights ({', '.join(pickles[:3])}), which can run code "
            "when opened; convert them to safetensors (model.save_pretrained) first"
        )
    packed = [name for name in names if name.endswith(".gguf")]
    if len(packed) == 1 and not loose and _is_gguf(config):
        return WeightFiles(shards=(packed[0],))
    if packed and not loose:
        raise ValueError(
            f"checkpoint {folder} has a config.json and no weights but {packed[0]}; give the path of the "
            "GGUF file itself, which brings a configuration of its own"
        )
    hint = f"; it has {', '.join(loose[:3])}, whose index is missing" if loose else ""
    raise ValueError(f"checkpoint {folder} has neither {SINGLE} nor {INDEX}{hint}; download or save it again")


def _is_gguf(config: Mapping[str, Any]) -> bool:
    """Tell whether a folder was made of a GGUF file; see `moe.gguf.folder`."""
    said = config.get("quantization_config")
    return isinstance(said, dict) and said.get("quant_method") == "gguf"


def companions(folder: Path) -> list[str]:
    """Return the names of the files beside the weights: configuration, tokenizer, licence."""
    return sorted(
        file.name
        for file in folder.iterdir()
        if file.is_file() and not file.name.startswith(".") and not file.name.endswith(_WEIGHT_ENDINGS)
    )


def _explicit(folder: Path, name: Any) -> WeightFiles:
    """Return the file that config.json names, as transformers takes it."""
    if not isinstance(name, str) or not _is_inside(name) or not (folder / name).is_file():
        raise ValueError(
            f"checkpoint {folder} has {_EXPLICIT} = {name!r} in config.json, which is no file there; "
            "take the line out, or name the file"
        )
    return _indexed(folder, name) if name.endswith(".index.json") else WeightFiles(shards=(name,))


def _indexed(folder: Path, index: str) -> WeightFiles:
    content = read_object(folder / index, f"checkpoint {folder}")
    places = content.get("weight_map")
    if not isinstance(places, dict) or not places:
        return WeightFiles(shards=(), index=index, faults=(f"{index} has no weight_map",))
    faults = []
    if not isinstance(content.get("metadata"), dict):
        faults.append(f"{index} has no metadata, without which transformers does not open it")
    outside = sorted({repr(file) for file in places.values() if not _is_shard_name(file)})
    if outside:
        faults.append(f"{index} names {', '.join(outside[:3])}, which is no safetensors file in the folder")
        return WeightFiles(shards=(), index=index, faults=tuple(faults))
    shards = sorted(set(places.values()))
    absent = [file for file in shards if not (folder / file).is_file()]
    if absent:
        faults.append(f"missing {len(absent)} of {len(shards)} shards: {', '.join(absent)}")
    return WeightFiles(
        shards=tuple(file for file in shards if file not in absent),
        index=index,
        places={name: file for name, file in places.items() if file not in absent},
        faults=tuple(faults),
    )


def _is_shard_name(name: Any) -> bool:
    return isinstance(name, str) and name.endswith(".safetensors") and _is_inside(name)


def _is_inside(name: str) -> bool:
    """Tell whether a relative name stays in its folder: an index must not reach for other files."""
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name
