"""The settings of the world a run learns in: its data, its sky, its link and its population."""

from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from scenario.settings.section import Section, require_absolute
from scenario.tables.file_formats import format_of

NO_TEXT = "none"
"""As ``data.source``: the server has no text to measure on."""


class DataSettings(Section):
    """Which text is tuned on, and who holds what."""

    source: str = Field(
        default="embedded",
        min_length=1,
        description='"embedded" (text found on every Python machine), a hub name, or an absolute '
        "csv/tsv/json/jsonl/ndjson/parquet/txt file, as it is or with .gz/.bz2/.xz/.zst behind, or folder. "
        '"none" where the population is known on contact and the server has no text to measure on.',
    )
    text_column: str = Field(default="text", min_length=1, description="Column that holds the text.")
    prompt_column: str = Field(
        default="",
        description="Column of the prompt, which is read and not predicted; several joined by +. With it "
        "response-column is predicted instead of text-column; empty = plain text.",
    )
    response_column: str = Field(default="", description="Column of the response to the prompt.")
    messages_column: str = Field(
        default="",
        description="Column of a list of chat messages (role and content), or its JSON; what the assistant "
        "says is predicted; empty = none.",
    )
    long_examples: Literal["truncate", "split"] = Field(
        default="truncate",
        description="What becomes of an example longer than a block: the prompt keeps its end, and the "
        "response its beginning (truncate), or the response goes on in further blocks (split).",
    )
    domain_column: str = Field(default="", description="Column that names the domain; empty = none.")
    label_column: str = Field(
        default="", description="Column that names the label for a Dirichlet split; empty = none."
    )
    drift_hours: float = Field(
        default=0.0,
        ge=0,
        le=8784,
        description="Simulated hour from which clusters hold one another's text, a test of re-assignment; "
        "0 = never.",
    )
    drift_share: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="Part of the clusters, the first ones, that exchange their text then; at least two.",
    )
    split: str = Field(default="train", min_length=1, description="Split of the dataset to read.")
    partitioner: Literal["domain", "iid", "dirichlet", "cluster"] = Field(
        default="domain",
        description="One domain per cluster, no skew at all, label skew by a Dirichlet draw, or as "
        "data.cluster-column says.",
    )
    cluster_column: str = Field(
        default="", description='Column with the name of each text\'s cluster; for the partitioner "cluster".'
    )
    device_column: str = Field(
        default="",
        description="Column that says who holds a text: what one holds is on one device. Empty = texts of a "
        "cluster are dealt to its devices.",
    )
    # Hsu, Qi, Brown 2019 (arXiv 1909.06335) call 0.5 moderate skew.
    dirichlet_alpha: float = Field(
        default=0.5, gt=0, le=1e6, description="Concentration of the Dirichlet draw; smaller = more skew."
    )
    mixing: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Part of each cluster's texts exchanged for texts of all clusters: 0 = one domain a "
        "cluster, 1 = a sample of everything.",
    )
    heldout_share: float = Field(
        default=0.1, gt=0, lt=1, description="Share of each cluster's texts kept for evaluation."
    )
    # 64 tokens keep the demo's local steps in the milliseconds on a laptop core.
    sequence_length: int = Field(default=64, ge=2, le=1_048_576, description="Tokens per training block.")
    heldout_examples: int = Field(
        default=64, ge=1, description="Blocks per cluster that a model is evaluated on."
    )

    @field_validator("source")
    @classmethod
    def _no_relative_file(cls, source: str) -> str:
        if format_of(source) or source.startswith((".", "~")):
            require_absolute(source)
        return source


def check_elements(elements: str) -> str:
    """Return ``elements`` if it is ``walker-delta:T/P/F``, ``walker-star:T/P/F`` or ``tle:/PATH``."""
    kind, _, rest = elements.partition(":")
    if kind == "tle":
        if not PurePosixPath(rest).is_absolute():
            raise ValueError(
                "must name the element file by an absolute path (Flower runs the app from another "
                "folder); write tle:/absolute/path/to/file.tle"
            )
        return elements
    parts = rest.split("/")
    if (
        kind not in ("walker-delta", "walker-star")
        or len(parts) != 3
        or not all(p.isdecimal() for p in parts)
    ):
        raise ValueError(
            "must be walker-delta:T/P/F, walker-star:T/P/F or tle:/absolute/path (T satellites in P planes, "
            "phasing F); for example walker-delta:6/3/1"
        )
    total, planes, phasing = (int(part) for part in parts)
    if total < 1 or planes < 1 or total % planes or phasing >= planes:
        raise ValueError(
            "must be a Walker pattern T/P/F with P >= 1, T a positive multiple of P and 0 <= F < P; "
            "for example 6/3/1"
        )
    return elements


class SkySettings(Section):
    """When each cluster is served."""

    simulated: bool = Field(
        default=True,
        description="Simulate orbits and links; false = Flower's real network does the delaying.",
    )
    # With the default sites, altitude and mask: 6 to 12 contacts a day each, gaps of at most 4.7 hours.
    elements: str = Field(
        default="walker-star:3/3/0",
        description="walker-delta:T/P/F, walker-star:T/P/F (T satellites, P planes, phasing F), or tle:PATH.",
    )
    # A polar orbit passes over every latitude.
    inclination_deg: float = Field(
        default=90.0, ge=0, le=180, description="Inclination of the Walker orbits."
    )
    # Where most of today's communication constellations fly; 3GPP's link budgets are for LEO-600.
    altitude_km: float = Field(
        default=550.0, ge=160, le=50_000, description="Altitude of the circular Walker orbits."
    )
    start_utc: str = Field(
        default="",
        description="UTC instant of simulated second 0, ISO 8601; empty = newest epoch of the element file, "
        "or 2026-01-01T00:00:00Z for Walker.",
    )
    # Within 0.9 s by leap seconds; without 0.17 s of it a grazing rise moves by up to 0.5 s (docs/sky.md).
    ut1_utc_s: float = Field(
        default=0.0, gt=-1, lt=1, description="UT1 - UTC in seconds, as IERS publishes it."
    )
    serving: str = Field(
        default="any",
        min_length=1,
        description="any = every satellite serves the server, over inter-satellite links; or the name of the "
        "one satellite that is the server.",
    )
    area: Literal["centre", "all"] = Field(
        default="centre",
        description="A cluster is in contact when its centre is, or when all of its circle (radius_km of the "
        "sites file) is.",
    )
    gateways: str = Field(
        default="",
        description="CSV of gateway sites for satellites without inter-satellite links, which store and "
        "forward; absolute, empty = linked.",
    )
    hours: float = Field(
        default=24.0,
        gt=0,
        le=8784,
        description="Horizon in hours: simulated, or of wall time when not simulated.",
    )
    # A handheld under trees or between hills; 10 is 3GPP's minimum under an open sky (TR 38.821).
    elevation_mask_deg: float = Field(
        default=20.0,
        ge=0,
        lt=90,
        description="Elevation above the horizon from which a satellite serves a site.",
    )
    # At 60 s the window edges are right to 4.5 ms; at 300 s to some 40 ms (docs/design.md).
    step_s: float = Field(default=60.0, gt=0, le=300, description="Step of the search for window edges.")
    plan_file: str = Field(
        default="", description="Saved contact plan to use instead of orbits; absolute, empty = none."
    )

    _elements = field_validator("elements")(check_elements)
    _absolute = field_validator("plan_file", "gateways")(require_absolute)

    @field_validator("start_utc")
    @classmethod
    def _an_instant(cls, text: str) -> str:
        if not text:
            return text
        try:
            instant = datetime.fromisoformat(text)
        except ValueError:
            instant = None
        if instant is None or instant.tzinfo is None or instant.utcoffset() != UTC.utcoffset(None):
            raise ValueError("must be empty or an ISO 8601 instant in UTC; for example 2026-01-01T00:00:00Z")
        return text


LinkPreset = Literal["s-band", "ka", "starlink-like", "nb-iot", "kineis-like", "fixed"]
"""The presets of ``sim/plans/link.py``, which has their sources, and ``fixed``."""


class LinkSettings(Section):
    """How many bytes a window carries."""

    # 3GPP TR 38.821 S band handheld: 9 to 15 MB up per pass, so adapters fit and whole models do not.
    preset: LinkPreset = Field(
        default="s-band", description="Link budget by band, or fixed = the two rates below."
    )
    down_bytes_per_s: float = Field(
        default=1_000_000.0, gt=0, le=1e12, description='Rate to a cluster in view, with preset "fixed".'
    )
    up_bytes_per_s: float = Field(
        default=100_000.0, gt=0, le=1e12, description='Rate from a cluster in view, with preset "fixed".'
    )


class PopulationSettings(Section):
    """Who is on the ground."""

    known: Literal["beforehand", "on-contact"] = Field(
        default="beforehand",
        description="on-contact: real nodes name their cluster and bring their data (--node-config); "
        "clusters and devices are whoever was heard, population.clusters is how many clusters to hear before "
        "experts are assigned, and the rest of this section but memory-mb is not used.",
    )
    devices: int = Field(default=96, ge=1, description="Devices in all, dealt evenly to the clusters.")
    clusters: int = Field(default=8, ge=1, description="Regions; each is served by the same passes.")
    sites: str = Field(
        default="", description="CSV of cluster places; absolute, empty = built-in places, at most 500."
    )
    devices_per_node: int = Field(default=1, ge=1, description="Devices that one Flower node hosts.")
    # One step of a small model on a battery-powered device; with gaps of hours it bounds a visit's steps.
    step_time_s: float = Field(
        default=60.0, gt=0, le=1e6, description="Median seconds a device needs per local step."
    )
    # Draws are cut at two standard deviations: at 0.5 the slowest device is exp(2) = 7 times the fastest.
    speed_spread: float = Field(
        default=0.5, ge=0, le=4, description="Standard deviation of log(step time) over devices."
    )
    data_spread: float = Field(
        default=0.5, ge=0, le=4, description="Standard deviation of log(data size) over devices."
    )
    memory_mb: float = Field(
        default=64.0,
        gt=0,
        le=1e9,
        description="Megabytes (10^6 bytes) a device tunes in: weights, and for what is tuned gradients and "
        "optimiser state too; activations, which grow with the batch, are not counted.",
    )

    _absolute = field_validator("sites")(require_absolute)
