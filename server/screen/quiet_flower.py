"""Flower's running commentary left out of a run's screen; its warnings and errors stay."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from server.screen.last_word import FLOWERS_LOGGER


@contextmanager
def quiet_flower() -> Iterator[None]:
    """Leave out, in a ``with`` block, what Flower's strategies tell of every round: records of metrics."""
    logger = logging.getLogger(FLOWERS_LOGGER)
    logger.addFilter(_is_serious)
    try:
        yield
    finally:
        logger.removeFilter(_is_serious)


def _is_serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING
