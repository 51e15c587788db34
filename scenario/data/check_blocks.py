"""Refuse a deal, before a run, in which somebody has nothing to train or to be measured on."""

from collections.abc import Iterator, Sequence
from functools import cache

from transformers import PreTrainedTokenizerBase

from scenario.data.federated_text import FederatedText
from scenario.tables.table import some
from sim.population import Population

_LONGEST_TOKEN_CHARS = 32
"""No tokenizer's mean token is longer, runs of blanks in source code included."""


def check_blocks(
    text: FederatedText, tokenizer: PreTrainedTokenizerBase, population: Population, *, sequence_length: int
) -> tuple[str, ...]:
    """Refuse a deal in which a device or a held-out set does not fill one block of tokens.

    A holder whose own texts are too short takes further ones, as `pack` does with ``more``. Only what is
    short is tokenised, and each text once, so that this is quick however many devices there are.

    Returns
    -------
    tuple[str, ...]
        What a person should know, such as how many devices take further texts; often empty.

    Raises
    ------
    ValueError
        If any does not; says which and what to change.
    """
    if text.holds_examples:
        return text.check_examples(tokenizer)

    @cache
    def num_tokens(item: str) -> int:
        return len(tokenizer(item, add_special_tokens=False, verbose=False)["input_ids"]) + 1

    def fill(texts: Sequence[str], more: Iterator[str]) -> tuple[int, bool]:
        """Return the tokens of a holder, and whether they are not all its own; stops at one block."""
        if sum(map(len, texts)) >= _LONGEST_TOKEN_CHARS * sequence_length:
            return sequence_length, False
        own = total = sum(map(num_tokens, texts))
        while total < sequence_length and (further := next(more, None)) is not None:
            total += num_tokens(further)
        return total, own < sequence_length

    devices = {
        f"device {item.device_id}": fill(
            text.device_texts(item.device_id), text.more_device_texts(item.device_id)
        )
        for item in population.devices
    }
    heldout = {
        f"held-out set of {item.name}": fill(
            text.heldout_texts(item.name), text.more_heldout_texts(item.name)
        )
        for item in population.clusters
    }
    faults = [
        f"{name} ({total} tokens)"
        for name, (total, _) in (devices | heldout).items()
        if total < sequence_length
    ]
    if faults:
        raise ValueError(
            f"one example is {sequence_length} tokens, and less is held by {some(faults)}, with what it can"
            " take from its cluster and domain. Use fewer clusters, more data or a shorter sequence length"
        )
    taking = {
        f"{len(devices)} devices": sum(takes for _, takes in devices.values()),
        f"{len(heldout)} held-out sets": sum(takes for _, takes in heldout.values()),
    }
    return tuple(
        f"{count} of {those} fill no example of {sequence_length} tokens with texts of their own, and take"
        " further ones of their cluster or domain"
        for those, count in taking.items()
        if count
    )
