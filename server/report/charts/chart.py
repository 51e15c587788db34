"""One chart of the page, and the look that all of them share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Figure = dict[str, Any]
"""A plotly figure as JSON: ``data`` and ``layout``. Colours of text and grid come from the page."""

# Okabe and Ito's colours for all kinds of colour vision, yellow left out: it vanishes on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
DASHES = ("solid", "dot", "dash", "dashdot")
DOWN, UP, TRAINING, MERGE, CONTACT = COLOURS[0], COLOURS[1], COLOURS[2], COLOURS[3], "rgba(128,128,128,0.22)"
GREY = "#808080"
SEQUENTIAL = "Cividis"

MOST_LINES = 12
"""Clusters drawn one by one; of more, the mean and the range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """One chart.

    Parameters
    ----------
    key : str
        Unique on the page, for its element.
    title : str
        Its heading.
    figure : Figure
        What is drawn.
    note : str
        A sentence or two below: how to read it, and what was left out.
    height_px : int
        On a wide screen.
    is_wide : bool
        Whether it takes the whole width.
    choices : Mapping[str, Mapping[str, Any]]
        Rows of buttons: what they ask -> label -> values of every trace and title of the axis, ``{"x" or
        "y": [...], "axis": title}``. The first of a row is what the figure shows.
    kind : str
        Which part of the page's script cares for it; empty for a plain chart.
    more : Mapping[str, Any]
        What that part needs.
    """

    key: str
    title: str
    figure: Figure
    note: str = ""
    height_px: int = 380
    is_wide: bool = False
    choices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    kind: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)


def style(number: int) -> tuple[str, str]:
    """Return colour and dash of the n-th line: the dash changes when the colours begin anew."""
    return COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]


def layout(**more: Any) -> dict[str, Any]:
    """Return a layout with the shared margins and legend, and ``more``."""
    return {
        "margin": {"l": 56, "r": 12, "t": 12, "b": 44},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        "hovermode": "closest",
        "showlegend": True,
        **more,
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": title, "standoff": 8}, "automargin": True, **more}


def size_text(num_bytes: float) -> str:
    """Return bytes in decimal units, three digits."""
    return scaled(num_bytes, "B")


def scaled(number: float, unit: str = "") -> str:
    """Return a number with three digits and a decimal prefix: ``"12.3 MB"``, ``"1.20 k"``."""
    prefixes = ("", "k", "M", "G", "T", "P", "E")
    power = 0
    while abs(number) >= 999.5 and power < len(prefixes) - 1:
        number, power = number / 1000, power + 1
    whole = power == 0 and float(number).is_integer()
    digits = 0 if whole or abs(number) >= 99.95 else 1 if abs(number) >= 9.995 else 2
    return f"{number:.{digits}f} {prefixes[power]}{unit}".rstrip()


def rounded(values: Sequence[float | None], digits: int) -> list[float | None]:
    """Return values with so many decimals, to keep the page small."""
    return [None if value is None else round(value, digits) for value in values]
