"""A GGUF file as the folder of a Hugging Face checkpoint: configuration and tokenizer beside a link to it.

What is made of the file's metadata, by transformers, is kept in ``$HF_HOME/ems-fl-gguf``; the weights stay
where they are. So nothing else needs to know that there is a checkpoint without a ``config.json``.
"""

import hashlib
import json
import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

from moe.gguf.header import GgufError, Header, read_gguf_header

ENDING = ".gguf"
READ = ("qwen2moe", "qwen3moe", "minimax-m2")
"""Architectures whose experts transformers reads from such a file."""
METHOD = "gguf"

_ADVICE = (
    "use the safetensors that it was made from, in any format that is read "
    "(fp8, mxfp4, compressed-tensors, bitsandbytes 4-bit, or unquantised)"
)


def find_file(path: Path) -> Path | None:
    """Return the GGUF file that a path means: itself, or the only one of a folder without ``config.json``.

    Raises
    ------
    ValueError
        If the folder has several.
    """
    if path.suffix == ENDING and path.is_file():
        return path
    if not path.is_dir() or (path / "config.json").is_file():
        return None
    found = sorted(path.glob(f"*{ENDING}"))
    if len(found) > 1:
        raise ValueError(
            f"{path} holds {len(found)} GGUF files ({', '.join(file.name for file in found[:4])}); give the "
            "path of one of them"
        )
    return found[0] if found else None


def as_checkpoint(file: Path) -> Path:
    """Return the folder that a GGUF file is read as; made at the first call on this machine.

    Raises
    ------
    ValueError
        If it is damaged, one of several shards, or of an architecture whose experts transformers does not
        read.
    """
    file = file.resolve()
    header = _checked(file)
    stat = file.stat()
    told = json.dumps([str(file), stat.st_size, stat.st_mtime_ns, version("transformers"), version("gguf")])
    folder = _cache() / f"{file.stem}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    except OSError as error:
        raise ValueError(
            f"what is made of {file} cannot be kept in {folder.parent} ({error.strerror}); set HF_HOME to a "
            "folder that can be written"
        ) from None
    try:
        _write(file, header, unfinished)
        unfinished.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _checked(file: Path) -> Header:
    try:
        header = read_gguf_header(file)
    except GgufError as error:
        raise ValueError(f"{error}; download it again") from None
    if header.num_shards > 1:
        raise ValueError(
            f"{file} is one of {header.num_shards} shards, and transformers reads a single file; join them "
            "(llama-gguf-split --merge)"
        )
    if header.architecture not in READ:
        raise ValueError(
            f"{file} is GGUF of architecture {header.architecture!r}, whose experts transformers does not "
            f"read from such a file (it does those of {', '.join(READ)}); {_ADVICE}"
        )
    return header


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HOME) / "ems-fl-gguf"


def _write(file: Path, header: Header, folder: Path) -> None:
    """Write configuration and tokenizer, by transformers, and a link to the weights."""
    from transformers import AutoConfig, AutoTokenizer

    os.symlink(file, folder / file.name)
    try:
        content = json.loads(
            AutoConfig.from_pretrained(file.parent, gguf_file=file.name).to_json_string(False)
        )
    except Exception as error:  # whatever its metadata may make transformers raise
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{file} has metadata of which transformers makes no configuration ({type(error).__name__}: "
            f"{reason}); {_ADVICE}"
        ) from error
    content |= _sizes(header) | {"quantization_config": {"quant_method": METHOD}}
    # It would name this machine's folder.
    content.pop("_name_or_path", None)
    (folder / "config.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    try:
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{file} has a tokenizer that transformers does not load ({type(error).__name__}: {reason}); "
            f"{_ADVICE}"
        ) from error


def _sizes(header: Header) -> dict[str, int]:
    """Return the widths of experts by the tensors: transformers 5.23 leaves Qwen's at their defaults."""
    if not header.architecture.startswith("qwen"):
        return {}
    found = {}
    for field, ending, axis in (
        ("moe_intermediate_size", ".ffn_gate_exps.weight", 1),
        ("shared_expert_intermediate_size", ".ffn_gate_shexp.weight", 0),
    ):
        shapes = [located.shape for name, located in header.tensors.items() if name.endswith(ending)]
        if shapes and len(shapes[0]) == axis + 2:
            found[field] = shapes[0][axis]
    return found
