"""The base checkpoint that a run is made of, read and refused; no weight is read.

Apart from `server.job`, because PEFT, which only the run itself needs, takes another second to import.
"""

from collections.abc import Callable

import psutil

from moe.device import choose_device
from moe.disk.layout import layout_of, open_storage
from moe.disk.tokens import check_tokens, load_tokenizer
from moe.experts import ExpertLayout
from scenario.data.check_blocks import check_blocks
from scenario.model_name import resolve_model_name
from scenario.settings.config import RunConfig
from server.inputs import World


def read_model(config: RunConfig, world: World, say: Callable[[str], None]) -> tuple[str, ExpertLayout]:
    """Return the folder of the base checkpoint and its experts, fit for this machine and the data.

    Parameters
    ----------
    config : RunConfig
        Checked settings.
    world : World
        Whose text must fill blocks of tokens.
    say : callable
        As for `server.job.prepare`.

    Raises
    ------
    ValueError
        If the device, the checkpoint, its tokenizer or its size cannot be used, or a device's text is short.
    """
    choose_device(config.model.device)  # refused now, not when the first model is loaded
    path = resolve_model_name(config.model.name, say)
    storage = open_storage(path, config.model.dtype)
    layout = layout_of(storage)
    if not config.evaluate.streamed:
        check_memory(layout.total_bytes, psutil.virtual_memory().total)
    tokenizer = load_tokenizer(path)
    check_tokens(tokenizer, storage)
    length = config.data.sequence_length
    for note in check_blocks(world.text, tokenizer, world.population, sequence_length=length):
        say(f"note: {note}")
    return path, layout


def check_memory(model_bytes: int, machine_bytes: int) -> None:
    """Refuse to hold the whole model on a machine that it is larger than.

    Raises
    ------
    ValueError
        If it is; says which setting does without.
    """
    if model_bytes > machine_bytes:
        raise ValueError(
            f"to measure the merged model the server holds it whole, {model_bytes / 1e9:.1f} GB in "
            f"model.dtype, and this machine has {machine_bytes / 1e9:.1f} GB of memory; set "
            "evaluate.streamed = true, which reads its experts from disk as they are needed"
        )
