"""Settings on a command line, with or without their option, before, between or behind the others."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

SETTINGS_OPTIONS = ("-c", "--run-config")


def with_settings_option(arguments: Sequence[str], valued: Iterable[argparse.Action]) -> list[str]:
    """Return the arguments with ``-c`` before every one that is a setting, in the order they were given.

    `argparse` takes words without an option at one place of the line only, and keeps no order between them
    and the words of ``-c``; of two settings the last one wins, so their order must not be lost.

    Parameters
    ----------
    arguments : sequence of str
        As typed.
    valued : iterable of argparse.Action
        The other options that take one value: what follows them is no setting.

    Examples
    --------
    >>> with_settings_option(["seed=1", "-c", "a.toml", "seed=2"], [])
    ['-c', 'seed=1', '-c', 'a.toml', '-c', 'seed=2']
    """
    takes_value = [name for action in valued for name in action.option_strings]
    ordered: list[str] = []
    is_value = only_settings = False
    for position, word in enumerate(arguments):
        if is_value:
            ordered.append(word)
            is_value = False
        elif only_settings or not word.startswith("-"):
            ordered += [SETTINGS_OPTIONS[0], word]
        elif word == "--":
            only_settings = True
        elif word in SETTINGS_OPTIONS and _is_word(arguments[position + 1 : position + 2]):
            continue  # what follows gets it
        else:
            ordered.append(word)
            # `argparse` also takes the beginning of a long option's name.
            is_value = any(name == word or (len(word) > 2 and name.startswith(word)) for name in takes_value)
    return ordered


def _is_word(following: Sequence[str]) -> bool:
    """Tell whether a word follows that is no option."""
    return bool(following) and not following[0].startswith("-")
