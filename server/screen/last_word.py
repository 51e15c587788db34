"""A run's last word when it cannot go on: what it says itself, and nothing of Flower's after it.

Flower logs an exception of a ServerApp with its traceback and an exit code of its own, which bury a
sentence meant for the user. Its logger is Python's ``logging.getLogger("flwr")``: a filter there is asked
about every record.
"""

import logging

FLOWERS_LOGGER = "flwr"
REFUSED = "The run was refused: "
"""Before a refusal, on every screen; `server.launch.flower_run` looks for it."""
STOPPED = "The run stopped: "
EXIT_CODE = "Exit Code:"


class LastWord(logging.Filter):
    """Turn the record of one exception into a sentence, and leave out the exit code after it.

    Parameters
    ----------
    error : BaseException
        Whose record it is.
    words : str
        What is said instead of its traceback.
    """

    def __init__(self, error: BaseException, words: str) -> None:
        super().__init__()
        self._error, self._words, self._is_said = error, words, False

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is shown; change it where it is the exception's."""
        if record.exc_info and record.exc_info[1] is self._error:
            record.msg, record.args, record.exc_info = self._words, (), None
            self._is_said = True
            return True
        return not (self._is_said and str(record.msg).startswith(EXIT_CODE))


def say_last(error: BaseException, prefix: str) -> None:
    """Let Flower's log end with a prefix and the error's own words when the error reaches it."""
    logging.getLogger(FLOWERS_LOGGER).addFilter(LastWord(error, f"{prefix}{error}"))
