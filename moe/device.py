"""On which device a process computes: the one function that decides."""

import ctypes
import gc
from contextlib import suppress
from typing import Any, TypeVar, cast

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def choose_device(wish: str) -> torch.device:
    """Return the device to hold models on.

    Parameters
    ----------
    wish : {"auto", "cpu", "cuda"}
        ``auto``: CUDA where this process sees such a device, else the CPU.

    Raises
    ------
    ValueError
        If CUDA is asked for where there is none, or the wish is none of these.
    """
    if wish not in ("auto", "cpu", "cuda"):
        raise ValueError(f"model.device must be one of auto, cpu, cuda, got {wish!r}")
    has_cuda = torch.cuda.is_available()
    if wish == "cuda" and not has_cuda:
        raise ValueError(
            'model.device is "cuda", and this process sees no CUDA device: install a torch built for CUDA, '
            "give a simulation's clients a share of the GPU (--client-gpus 0.5; for plain flwr run "
            'backend.client-resources.num-gpus in .flwr/config.toml), or set it to "auto"'
        )
    return torch.device("cuda" if has_cuda and wish != "cpu" else "cpu")


def to_device(model: Model, device: torch.device | str) -> Model:
    """Move a model, in place, and return it."""
    cast(Any, model).to(device)  # transformers' own signature hides torch's
    return model


def reclaim() -> None:
    """Free what dropped models held; takes a few tenths of a second.

    Models are full of reference cycles (hooks, modules that know each other), which Python collects when
    it likes. On CUDA, torch keeps freed memory for this process; others on the same GPU may need it.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def trim() -> None:
    """Give memory that was freed back to the system, where the C library can (glibc); else do nothing.

    What was made on the way to a large tensor leaves holes among what is kept: a third of a model's bytes.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
