"""The base checkpoint that a run is made of, read and refused; no weight is read.

Apart from `server.job`, because PEFT, which only the run itself needs, takes another second to import.
"""

from collections.abc import Callable

import psutil

from moe.device import choose_device
from moe.disk.layout import layout_of, open_storage, read_layout, trust_code_of
from moe.disk.tokens import check_tokens, load_tokenizer
from moe.experts import ExpertLayout
from moe.families.blocks import TESTED_FAMILIES
from moe.held import refuse_part
from moe.inspect.selftest import check
from scenario.data.check_blocks import check_blocks
from scenario.model_name import resolve_model_name
from scenario.settings.config import RunConfig
from server.inputs import World
from server.screen.ascii_screen import alarm

WORKER_BYTES = 80_000_000
"""What a worker holds beside the model and what others hold too: own memory of the pool's in a run of a
thousand devices (docs/LOG.md)."""


def read_model(
    config: RunConfig, world: World, say: Callable[[str], None], workers: int = 0
) -> tuple[str, ExpertLayout]:
    """Return the folder of the base checkpoint and its experts, fit for this machine and the data.

    Parameters
    ----------
    config : RunConfig
        Checked settings.
    world : World
        Whose text must fill blocks of tokens.
    say : callable
        As for `server.job.prepare`.
    workers : int
        Other processes of this machine that will hold sub-models.

    Raises
    ------
    ValueError
        If the device, the checkpoint, its tokenizer or its size cannot be used, or a device's text is short.
    """
    choose_device(config.model.device)  # refused now, not when the first model is loaded
    path = resolve_model_name(config.model.name, say)
    if config.model.trust_remote_code and trust_code_of(path):
        say(alarm(f"CODE THAT CAME WITH THE CHECKPOINT RUNS HERE AND ON EVERY DEVICE: {path}"))
    storage = open_storage(path, config.model.dtype, config.model.hold)
    refuse_part(storage.checkpoint.held)
    layout = layout_of(storage)
    machine_bytes = psutil.virtual_memory().total
    # What the server merges into is dequantised, however devices hold it.
    whole = read_layout(path, config.model.dtype)
    if not config.evaluate.streamed:
        check_memory(whole.total_bytes, machine_bytes)
    server_bytes = one_expert_a_layer_bytes(whole) if config.evaluate.streamed else whole.total_bytes
    check_workers(layout, workers, server_bytes=server_bytes, machine_bytes=machine_bytes)
    _try_family(path, layout, say)
    tokenizer = load_tokenizer(path)
    check_tokens(tokenizer, storage)
    length = config.data.sequence_length
    for note in check_blocks(world.text, tokenizer, world.measured, sequence_length=length):
        say(f"note: {note}")
    if config.uses_stand_ins:
        from scenario.stand_ins import ensure_stand_ins  # Only now: it imports PEFT.

        ensure_stand_ins(config, path, say)
    return path, layout


def _try_family(path: str, layout: ExpertLayout, say: Callable[[str], None]) -> None:
    """Put a family that is in no test of this project through the self-test, which needs it twice in memory.

    Raises
    ------
    ValueError
        If it fails.
    """
    if layout.family in TESTED_FAMILIES:
        return
    if 2 * read_layout(path).total_bytes > psutil.virtual_memory().total:
        say(
            f"note: family {layout.family} is in no test of this project, and too large for the self-test on "
            "this machine; run python -m moe.inspect --self-test where it fits twice"
        )
        return
    found = check(path)
    if not found.has_passed:
        raise ValueError(
            f"family {layout.family} is in no test of this project, and failed the self-test: keep-all "
            f"differs by {found.keep_all_error:.1e} of the largest logit, slice then merge is "
            f"{'exact' if found.is_merge_exact else 'not exact'}; use a tested family"
        )
    say(f"note: family {layout.family} is in no test of this project; it passed the self-test")


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


def one_expert_a_layer_bytes(layout: ExpertLayout) -> int:
    """Return the bytes of the smallest sub-model: the shared part and an expert in every layer."""
    return layout.shared_bytes + sum(layout.expert_bytes.values())


def check_workers(layout: ExpertLayout, workers: int, *, server_bytes: int, machine_bytes: int) -> None:
    """Refuse more workers than this machine has memory for, even if every cluster held one expert a layer.

    Parameters
    ----------
    layout : ExpertLayout
        As devices hold the model.
    workers : int
        Processes that hold a sub-model each; they may share its pages, but for the experts they tune.
    server_bytes, machine_bytes : int
        What the server holds, and all there is.

    Raises
    ------
    ValueError
        If it cannot fit; with the estimate.
    """
    of_one = WORKER_BYTES + sum(layout.expert_bytes.values())
    least_bytes = server_bytes + layout.shared_bytes + workers * of_one
    if workers and least_bytes > machine_bytes:
        raise ValueError(
            f"{workers} workers need at least {least_bytes / 1e9:.1f} GB ({server_bytes / 1e9:.1f} GB for "
            f"the server, {layout.shared_bytes / 1e9:.1f} GB for the shared part, "
            f"{of_one / 1e9:.2f} GB a worker with one expert a layer), and this machine has "
            f"{machine_bytes / 1e9:.1f} GB of memory; lower --workers, set evaluate.streamed = true, or "
            "hold weights in fewer bits (model.dtype, model.hold)"
        )
