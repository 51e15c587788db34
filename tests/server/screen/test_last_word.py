"""A refusal ends Flower's log in its own words."""

import io
import logging
from collections.abc import Iterator

import pytest
from flwr.app import Context, RecordDict

from server.app import app
from server.screen.last_word import FLOWERS_LOGGER, REFUSED, say_last
from server.screen.quiet_flower import quiet_flower
from tests.fake_grid import FakeGrid


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Return what Flower's logger writes; its filters are as before afterwards."""
    logger, stream = logging.getLogger(FLOWERS_LOGGER), io.StringIO()
    handler, filters = logging.StreamHandler(stream), list(logger.filters)
    logger.addHandler(handler)
    yield stream
    logger.removeHandler(handler)
    logger.filters[:] = filters


def as_flower_ends(error: BaseException) -> None:
    """Log as `flwr-simulation` of Flower 1.41 does when its ServerApp raised."""
    logger = logging.getLogger(FLOWERS_LOGGER)
    logger.error("%s raised an exception", "Simulation", exc_info=error)
    logger.error("Exit Code: 700\nAn unhandled exception occurred\n\nFor more information, visit: <>")


def test_what_the_app_refuses_is_the_last_line_of_flowers_log_without_a_traceback(log: io.StringIO) -> None:
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"sky.hours": -1.0})
    with pytest.raises(ValueError) as error:
        app(FakeGrid(lambda _: RecordDict()), context)
    as_flower_ends(error.value)
    said = log.getvalue()
    assert said.startswith(REFUSED) and "sky.hours must be" in said
    assert "Traceback" not in said and "Exit Code" not in said
    assert said.rstrip() == f"{REFUSED}{error.value}"


def test_another_exception_keeps_its_traceback(log: io.StringIO) -> None:
    say_last(ValueError("refused"), REFUSED)
    try:
        raise KeyError("a bug")
    except KeyError as error:
        as_flower_ends(error)
    assert "Traceback" in log.getvalue() and "Exit Code: 700" in log.getvalue()


def test_flowers_commentary_is_left_out_and_its_warnings_stay(log: io.StringIO) -> None:
    logger = logging.getLogger(FLOWERS_LOGGER)
    with quiet_flower():
        logger.info("\t└──> MetricRecord: %s", {"loss": 1.0})
        logger.warning("something is wrong")
    logger.info("said again")
    assert log.getvalue().splitlines() == ["something is wrong", "said again"]
