"""Which formats are read, by what ``config.json`` says; all others are refused by name."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from moe.formats.compressed import find_compressed
from moe.formats.fp8 import find_fp8
from moe.formats.gguf import find_gguf
from moe.formats.mxfp4 import find_mxfp4
from moe.formats.nf4 import find_4bit
from moe.formats.packed import PackedTensors, Reader, Stored

SECTION = "quantization_config"
"""Where ``config.json`` says that weights are quantised."""

_READ: Mapping[str, Callable[[Mapping[str, Any], Mapping[str, Stored], Reader], PackedTensors]] = {
    "fp8": lambda said, tensors, _: find_fp8(said, tensors),
    "mxfp4": lambda said, tensors, _: find_mxfp4(said, tensors),
    "compressed-tensors": find_compressed,
    "bitsandbytes": find_4bit,
    "gguf": lambda _said, tensors, _read: find_gguf(tensors),
}

_KERNEL = "its numbers lie as a GPU kernel wants them"
_REFUSED: Mapping[str, str] = {
    "awq": _KERNEL,
    "gptq": f"{_KERNEL}, in an order of their own",
    "auto-round": _KERNEL,
    "aqlm": "it needs the kernels of aqlm",
    "vptq": "it needs the kernels of vptq",
    "spqr": "it needs the kernels of spqr",
    "higgs": "it needs the kernels of flute",
    "eetq": "it needs the kernels of eetq",
    "fp_quant": "it needs the kernels of qutlass",
    "fouroversix": "it needs the kernels of fouroversix",
    "bitnet": "it was trained in three values, and tuning it needs its own layers",
    "fbgemm_fp8": "it needs the kernels of fbgemm",
    "hqq": "transformers 5 reads no saved HQQ checkpoint",
    "nvfp4": "it needs the kernels of NVIDIA's Blackwell",
    "modelopt": "it is for NVIDIA's TensorRT",
    "quanto": "its files are pickled objects of optimum-quanto",
    "torchao": "its files are objects of torchao",
    "quark": "it needs the package quark",
}
DEQUANTISE: Mapping[str, str] = {
    "fp8": "FineGrainedFP8Config(dequantize=True)",
    "mxfp4": "Mxfp4Config(dequantize=True)",
    "compressed-tensors": "CompressedTensorsConfig(dequantize=True)",
}
"""What tells transformers to load a format dequantised; it loads no experts of the others."""

ADVICE = (
    "use a checkpoint in fp8, mxfp4, compressed-tensors, bitsandbytes 4-bit or gguf, or save a dequantised "
    "copy where its own library runs, and use that"
)
"""What to use instead of a format that is not read."""


def find_packed(
    where: str, config: Mapping[str, Any], tensors: Mapping[str, Stored], read: Reader
) -> PackedTensors | None:
    """Return the packed tensors of a checkpoint; None if its configuration says that it has none.

    Parameters
    ----------
    where : str
        Whose they are, for the error.
    config : Mapping[str, Any]
        Its ``config.json``.
    tensors : Mapping[str, Stored]
        What the headers say.
    read : callable
        Disk name -> values.

    Raises
    ------
    ValueError
        If the format is not read here, or scales are missing or of another shape; all faults at once.
    """
    said = quantization(where, config)
    if said is None:
        return None
    packed = partial(_READ[said["quant_method"]], said)(tensors, read)
    if packed.faults:
        more = f"; and {len(packed.faults) - 8} more" if len(packed.faults) > 8 else ""
        raise ValueError(
            f"{where} does not fit its quantization_config ({said['quant_method']}): "
            f"{'; '.join(packed.faults[:8])}{more}; download it again, or {ADVICE}"
        )
    if not packed.tensors:
        raise ValueError(
            f"{where} has a quantization_config ({said['quant_method']}), and no tensor of that kind; take "
            "the line out if its weights are not quantised"
        )
    return packed


def quantization(where: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what a configuration says of quantisation, in the whole or in a part of it; null says nothing.

    Raises
    ------
    ValueError
        If it is no description of one, or of one that is not read here.
    """
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        said = part.get(SECTION)
        if said is None:
            continue
        if not isinstance(said, dict) or not said:
            raise ValueError(
                f"{where} has quantization_config = {said!r} in config.json, which is no description of a "
                "quantisation; take the line out if its weights are not quantised"
            )
        method = said.get("quant_method", "bitsandbytes" if "load_in_4bit" in said else "unknown")
        if method not in _READ:
            reason = _REFUSED.get(method)
            told = f", which is not read here: {reason}" if reason else ", which is not known here"
            raise ValueError(f"{where} is quantised ({method}){told}; {ADVICE}")
        return {**said, "quant_method": method}
    return None


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a ``config.json`` as that of the dequantised copy."""
    return {
        name: without_quantization(value) if isinstance(value, Mapping) and SECTION in value else value
        for name, value in config.items()
        if name != SECTION
    }
