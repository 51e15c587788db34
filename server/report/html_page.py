"""The page: one HTML file that holds everything, its charts' library included."""

import base64
import datetime as dt
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from server.record.run_folder import write_atomically
from server.report import first_screen, several
from server.report.run_files import RunFiles
from server.report.sections import Section, sections_of

PAGE_FILE = "report.html"
_FOLDER = Path(__file__).with_name("page")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Page:
    title: str
    kicker: str
    heading: str
    lead: str
    sections: Sequence[Section]
    numbers: Sequence[first_screen.Number] = ()
    alarm: str = ""
    warnings: Sequence[str] = ()
    missing: Sequence[str] = ()
    state: str = "ended"


def build_page(runs: Sequence[RunFiles]) -> str:
    """Return the page of one run, or of several side by side.

    Parameters
    ----------
    runs : Sequence[RunFiles]
        At least one.
    """
    return _render(_page_of(runs[0]) if len(runs) == 1 else _comparison_of(runs))


def prepare() -> None:
    """Read and pack what every page holds, half a second at the first call."""
    _template()
    _library()


def write_page(path: Path, runs: Sequence[RunFiles]) -> Path:
    """Write the page, atomically, and return its path.

    Raises
    ------
    OSError
        If the disk has no room or may not be written.
    """
    write_atomically(path, build_page(runs))
    return path


def _page_of(run: RunFiles) -> _Page:
    state = {"ended": "", "going": " · still going", "stopped": " · not ended"}[run.state]
    return _Page(
        title=f"{run.name} · EMS-FL",
        kicker=f"{run.name}{state}",
        heading=first_screen.heading(run),
        lead=first_screen.lead(run),
        numbers=first_screen.numbers(run),
        alarm=first_screen.alarm(run),
        warnings=first_screen.warnings(run),
        missing=run.missing,
        sections=sections_of(run),
        state=run.state,
    )


def _comparison_of(runs: Sequence[RunFiles]) -> _Page:
    labels = several.labels(runs)
    return _Page(
        title=f"{len(runs)} runs · EMS-FL",
        kicker=", ".join(labels),
        heading=f"{len(runs)} runs side by side",
        alarm=" ".join(filter(None, map(first_screen.alarm, runs))),
        lead=several.lead(runs, labels),
        missing=[f"{label}: {line}" for label, run in zip(labels, runs, strict=True) for line in run.missing],
        sections=several.sections(runs, labels),
    )


def _render(page: _Page) -> str:
    charts = {
        chart.key: {"figure": chart.figure, "kind": chart.kind, "choices": chart.choices, "more": chart.more}
        for section in page.sections
        for chart in section.charts
    }
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return _template().render(
        **{name: getattr(page, name) for name in _Page.__dataclass_fields__},
        made=f"on {now}",
        style=Markup(_fenced("style")),
        script=Markup(_fenced("script")),
        library=_library(),
        figures=Markup(_packed(_json(charts))),
    )


@lru_cache(maxsize=1)
def _template() -> Any:
    environment = Environment(
        loader=DictLoader({"page": _fenced("template")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page")


def _fenced(name: str) -> str:
    """Return what stands in the fence of one of the page's parts."""
    text = (_FOLDER / f"{name}.md").read_text(encoding="utf-8")
    return text.partition("\n```")[2].partition("\n")[2].rpartition("\n```")[0]


@lru_cache(maxsize=1)
def _library() -> Markup:
    # 4.8 MB as it is; packed 2 MB, which every browser since 2023 unpacks by itself.
    return Markup(_packed(get_plotlyjs()))


def _packed(text: str) -> str:
    # Level 6 packs within 2 % of level 9 in a third of the time.
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


def _json(charts: Mapping[str, Any]) -> str:
    return json.dumps(charts, allow_nan=False, separators=(",", ":"), default=float)
