"""The demo model: made once on this machine, cached, and from then on a checkpoint like any other.

``python -m demo.base_model OUT`` makes a copy to look at; ``--measure`` says what it is worth.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers.utils import logging as transformers_logging

from demo import branch_train_mix, cache, corpus, joint
from demo.packing import pack
from demo.recipe import DEFAULT, Recipe
from demo.tokenizer import train_tokenizer

Report = Callable[[str], None]

_REPORT_INTERVAL_S = 2.0
# Versions before the cache noticed damage keep theirs: they would not know what to do with these.
_SEALED = "sealed"


def ensure_base_model(progress: Report, recipe: Recipe = DEFAULT) -> Path:
    """Return the folder of the demo model, making it at the first call on this machine.

    The folder is complete or absent: it is written beside its place and renamed, and a second process
    that asks meanwhile waits for the first.

    Parameters
    ----------
    progress : Callable[[str], None]
        Called at least every 5 s while there is something to wait for.
    recipe : Recipe
        Another recipe is cached apart.

    Returns
    -------
    Path
        An ordinary Hugging Face checkpoint: mixtral, one expert per domain of the corpus and layer,
        float32 safetensors, with its tokenizer.

    Raises
    ------
    ValueError
        If this machine lacks the text the model is made from (see `demo.corpus.domains`).
    """
    path = cache.folder("demo-model", recipe.key(), corpus.digest(), _SEALED)
    return cache.ensure(path, lambda folder: make_base_model(folder, progress, recipe), progress)


def make_base_model(folder: Path, progress: Report, recipe: Recipe = DEFAULT) -> None:
    """Make the demo model and write it into an existing folder.

    Parameters and errors are those of `ensure_base_model`. The process's torch threads and random state
    are as before afterwards.
    """
    progress("reading the corpus")
    texts = corpus.maker_texts()
    progress(f"training a tokenizer on {len(texts)} domains: {', '.join(texts)}")
    every_text = (text for passages in texts.values() for text in passages)
    tokenizer = train_tokenizer(every_text, vocab_size=recipe.vocab_size, max_length=recipe.max_positions)
    blocks = [
        torch.from_numpy(pack(tokenizer, passages, sequence_length=recipe.sequence_length))
        for passages in texts.values()
    ]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        maker = joint if recipe.num_experts else branch_train_mix
        model = maker.make(
            blocks, recipe, eos_token_id=int(tokenizer.eos_token_id), report=_thinned(progress)
        )
    finally:
        torch.set_num_threads(num_threads)
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _thinned(progress: Report) -> Report:
    """Pass on a report at most every two seconds."""
    last_s = -_REPORT_INTERVAL_S

    def report(text: str) -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _REPORT_INTERVAL_S:
            last_s = now_s
            progress(text)

    return report


def main(arguments: list[str] | None = None) -> int:
    """Make the demo model in a folder of the user's choice; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.base_model", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write; must not exist yet")
    parser.add_argument("--measure", action="store_true", help="also measure loss, routing and capture")
    options = parser.parse_args(arguments)
    out: Path = options.out
    if out.exists():
        print(f"{out} exists already; name a folder that does not", file=sys.stderr)
        return 2
    started_s = time.monotonic()
    try:
        source = ensure_base_model(
            lambda text: print(f"{time.monotonic() - started_s:5.0f} s  {text}", flush=True)
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
            shutil.copytree(source, Path(beside) / "copy", ignore=shutil.ignore_patterns(".*"))
            os.replace(Path(beside) / "copy", out)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"made in {time.monotonic() - started_s:.0f} s: {out}")
    if options.measure:
        from demo.measure import describe

        print(describe(out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
