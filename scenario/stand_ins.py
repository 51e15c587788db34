"""The stand-ins that devices profile with: made once a machine for a base, its text and its settings."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from demo import cache, corpus
from demo.packing import pack
from moe.device import choose_device
from moe.disk.layout import read_layout
from moe.disk.tokens import load_tokenizer
from moe.export.checkpoint import fingerprint
from moe.held import Held
from moe.standin.file import read_stand_ins, save_stand_ins
from moe.standin.fit import fit_stand_ins
from moe.standin.load import load_with_stand_ins
from moe.standin.stand_in import StandIns
from scenario.data.text_source import read_texts
from scenario.settings.config import RunConfig

FILE_NAME = "stand_ins.safetensors"
MIN_TOKENS = 8192
TOKENS_PER_REGRESSOR = 8
"""Tokens fitted to: so many for each channel and expert, and no fewer than the minimum. 2,048 did as well as
six times as many on a base of 96 channels and 32 experts (docs/LOG.md)."""
_VERSION = "1"


def ensure_stand_ins(config: RunConfig, path: str, progress: Callable[[str], None] = print) -> StandIns:
    """Return the stand-ins of a run's base, making them at the first call on this machine.

    A device's part of a checkpoint has them beside it.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    path : str
        Folder of the base checkpoint.
    progress : callable
        Told of every layer while they are made, and of another process that makes them.

    Raises
    ------
    ValueError
        If the text cannot be read or does not fill a block; as `moe.standin.fit.fit_stand_ins`.
    """
    base, beside = fingerprint(path), Path(path) / FILE_NAME
    if Held.read(Path(path)) is None:
        beside = make_stand_ins(config, path, base, progress)
    elif not beside.is_file():
        raise ValueError(
            f"{path} is a device's part of a checkpoint and has no {FILE_NAME}, without which it cannot tell "
            "which experts its data uses; make it with ems-fl prepare CHECKPOINT --part FOLDER, or have "
            'everything delivered (model.delivery = "everything")'
        )
    return read_stand_ins(beside, base=base)


def make_stand_ins(config: RunConfig, path: str, base: str, progress: Callable[[str], None]) -> Path:
    """Return the file of `ensure_stand_ins`, made if it is not there; ``base`` is the fingerprint."""
    texts = list(_in_turn_by_domain(_texts_by_domain(config)))
    settings = config.model
    described = (
        *(_VERSION, base, settings.dtype, settings.hold, str(config.profile.stand_in_rank)),
        *(str(config.data.sequence_length), hashlib.sha256("\0".join(texts).encode()).hexdigest()),
    )

    def make(folder: Path) -> None:
        progress("making stand-ins for the experts, to profile without them")
        found = fit_stand_ins(
            path,
            [_blocks(config, path, texts)],
            base=base,
            rank=config.profile.stand_in_rank,
            dtype=settings.dtype,
            hold=settings.hold,
            device=choose_device(settings.device),
            progress=progress,
        )
        save_stand_ins(found, folder / FILE_NAME)

    num_threads = torch.get_num_threads()
    # One thread: what is made must not depend on the machine's cores.
    torch.set_num_threads(1)
    try:
        return cache.ensure(cache.folder("stand-ins", *described), make, progress) / FILE_NAME
    finally:
        torch.set_num_threads(num_threads)


def load_profiling(config: RunConfig, path: str) -> PreTrainedModel:
    """Return a base's shared part with its stand-ins; no byte of an expert is read where they are made."""
    settings = config.model
    return load_with_stand_ins(path, ensure_stand_ins(config, path), dtype=settings.dtype, hold=settings.hold)


def _texts_by_domain(config: RunConfig) -> list[Sequence[str]]:
    """Return the text to fit to; one group where nothing says which domain a text is of."""
    source, data = config.profile.stand_in_text, config.data
    if not source:
        return list(corpus.maker_texts().values())
    # Of examples both parts, as one text.
    pair = f"{data.prompt_column}+{data.response_column}"
    found = read_texts(
        source,
        text_column=pair if data.response_column else data.text_column,
        domain_column=data.domain_column,
        label_column="",
        split=data.split,
        needs="domain" if data.domain_column else "",
    )
    groups: dict[str, list[str]] = {}
    for text, domain in zip(found.texts, found.domains or [""] * len(found.texts), strict=True):
        groups.setdefault(domain, []).append(text)
    return list(groups.values())


def _in_turn_by_domain(groups: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a text of each domain, then another of each; by hash, so that a few are from all over it."""
    ordered = [sorted(texts, key=lambda text: hashlib.sha256(text.encode()).digest()) for texts in groups]
    return (text for text in chain.from_iterable(zip_longest(*ordered)) if text is not None)


def _blocks(config: RunConfig, path: str, texts: Sequence[str]) -> Tensor:
    """Return the blocks ``[N, T]`` to fit to."""
    layout = read_layout(path, config.model.dtype, config.model.hold)
    regressors = layout.shapes["fc_out"][0] + max(layout.num_experts.values())
    length = config.data.sequence_length
    most = max(1, max(MIN_TOKENS, TOKENS_PER_REGRESSOR * regressors) // length)
    return torch.from_numpy(pack(load_tokenizer(path), texts, sequence_length=length, max_examples=most))
