"""The real demo model: SmolLM2-135M-Instruct with eight experts in its last layers, made once and cached.

From then on it is a checkpoint like any other (Qwen2-MoE, bfloat16, with its tokenizer and chat template).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.utils import logging as transformers_logging

from demo import cache, corpus
from demo.packing import pack
from demo.real import learning, wheel
from demo.real.recipe import BY_NAME, RealRecipe
from demo.real.upcycle import upcycle, with_vocabulary
from demo.real.vocabulary import trim

Report = Callable[[str], None]
Texts = Mapping[str, Sequence[str]]
"""Domain -> texts."""


def ensure_named(name: str, progress: Report) -> Path:
    """Return the folder of the model of one of the names, made from the maker's part of the embedded text.

    Raises
    ------
    ValueError
        As `ensure_real_model`, or if this machine lacks the embedded text.
    """
    return ensure_real_model(BY_NAME[name], corpus.maker_texts(), progress)


def ensure_real_model(recipe: RealRecipe, texts: Texts, progress: Report) -> Path:
    """Return the folder of the model made from some texts, making it at the first call on this machine.

    Parameters
    ----------
    recipe : RealRecipe
        Its numbers.
    texts : Mapping[str, Sequence[str]]
        Domain -> texts; an expert each. What devices hold is not to be among them.
    progress : Callable[[str], None]
        As for `demo.base_model.ensure_base_model`.

    Returns
    -------
    Path
        Complete: it is written beside its place and renamed, and others wait for the first to make it.

    Raises
    ------
    ValueError
        If the wheel is not installed, or a domain has too little text.
    """
    path = cache.folder("demo-real", recipe.key(), wheel.PINS[0], text_digest(texts))
    return cache.ensure(path, lambda folder: make_real_model(folder, recipe, texts, progress), progress)


def text_digest(texts: Texts) -> str:
    """Name texts: a SHA-256 in hex over every one of every domain."""
    total = sha256()
    for name, passages in texts.items():
        total.update(f"{name} {len(passages)}".encode())
        for passage in passages:
            total.update(sha256(passage.encode()).digest())
    return total.hexdigest()


def make_real_model(folder: Path, recipe: RealRecipe, texts: Texts, progress: Report) -> None:
    """Make the model and write it into an existing folder.

    Parameters and errors are those of `ensure_real_model`. The process's torch threads are as before
    afterwards.
    """
    gguf = wheel.gguf_path()
    report = _thinned(progress)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        progress(f"decoding {wheel.GGUF_NAME}")
        dense, full_tokenizer = wheel.decode(gguf)
        progress("cutting the vocabulary down to the text")
        tokenizer, old_ids_V = trim(
            full_tokenizer, (text for passages in texts.values() for text in passages)
        )
        dense = with_vocabulary(dense, old_ids_V)
        blocks = [
            _spread(
                torch.from_numpy(pack(tokenizer, passages, sequence_length=recipe.sequence_length)),
                recipe.blocks_per_domain,
            )
            for passages in texts.values()
        ]
        trunk, top = learning.split(dense, recipe.num_layers)
        hidden = learning.trunk_outputs(trunk, torch.cat(blocks), report).split(
            [len(part) for part in blocks]
        )
        branches = _branches(top, hidden, blocks, recipe, report)
        model = upcycle(dense, branches, recipe, int(tokenizer.eos_token_id))
        sample = [_spread(part, recipe.router_blocks) for part in hidden]
        domain_N = torch.arange(len(blocks)).repeat_interleave(torch.tensor([len(part) for part in sample]))
        learning.fit_router(model, torch.cat(sample), domain_N, recipe, report)
    finally:
        torch.set_num_threads(num_threads)
    progress("writing the model")
    transformers_logging.disable_progress_bar()
    model.bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _spread(rows: Tensor, count: int) -> Tensor:
    """Return so many rows from all over, for neighbours are of one document; all where there are fewer."""
    return rows[torch.linspace(0, len(rows) - 1, min(count, len(rows))).long()]


def _branches(
    top: LlamaForCausalLM,
    hidden: Sequence[Tensor],
    blocks: Sequence[Tensor],
    recipe: RealRecipe,
    report: Report,
) -> list[list[nn.Module]]:
    """Return each expert's feed-forward blocks: of its own domain, or the generalist's for all."""
    if recipe.routing == "k-means":
        generalist = learning.tune_feed_forwards(
            top,
            torch.cat(list(hidden)),
            torch.cat(list(blocks)),
            recipe,
            num_steps=recipe.generalist_steps,
            seed=recipe.seed,
            report=lambda text: report(f"generalist: {text}"),
        )
        return [generalist] * len(blocks)

    def branch(domain: int) -> list[nn.Module]:
        return learning.tune_feed_forwards(
            top,
            hidden[domain],
            blocks[domain],
            recipe,
            num_steps=recipe.num_steps,
            seed=recipe.seed + domain,
            report=lambda text: report(f"expert {domain + 1} of {len(blocks)}: {text}"),
        )

    with ThreadPoolExecutor(max_workers=learning.NUM_WORKERS) as pool:
        return list(pool.map(branch, range(len(blocks))))


def _thinned(progress: Report) -> Report:
    """Pass on a report at most every two seconds."""
    last_s = 0.0

    def report(text: str) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= 2.0:
            last_s = time.monotonic()
            progress(text)

    return report
