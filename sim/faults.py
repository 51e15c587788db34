"""How the sky refuses bad input: every fault at once, in one ``ValueError``."""

from collections.abc import Sequence

MAX_FAULTS_SHOWN = 20


def raise_faults(faults: Sequence[str]) -> None:
    """Raise one ``ValueError`` with a line for each fault; do nothing when there is none.

    Parameters
    ----------
    faults : Sequence[str]
        Sentences; past the first twenty only their number is given.

    Raises
    ------
    ValueError
        When there is at least one fault.
    """
    if not faults:
        return
    shown = list(faults[:MAX_FAULTS_SHOWN])
    if len(faults) > len(shown):
        shown.append(f"and {len(faults) - len(shown)} more")
    raise ValueError("\n".join(shown))
