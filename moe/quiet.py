"""Keep the libraries' own progress bars and known harmless warnings off the screen."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Switch off transformers' progress bar meanwhile, and its report of tensors it did not use.

    A run has a progress bar of its own; what lacks is an error (see `moe.disk.storage.Storage`), and what is
    over, such as the vision tower where only the language model is loaded, is meant to be.
    """
    was_on, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if was_on:
            logging.enable_progress_bar()


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Hide what PEFT 0.21.2 says wrongly.

    It asks transformers 5.23 for a property under its old name, and calls the ranks of parameters
    ignored (tuned router rows have ranks of their own): it looks for them among modules only, and uses
    them. That it does is checked by the shapes of what it would save.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
        warnings.filterwarnings("ignore", message="The following (rank|alpha)_pattern keys did not match")
        yield
