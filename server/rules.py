"""What a setting may be: alone, in words, and beside the other settings."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

if TYPE_CHECKING:
    from server.config import RunConfig
    from server.world_sections import DataSettings


class Fault(NamedTuple):
    """One thing wrong with the settings named by ``keys``."""

    keys: tuple[str, ...]
    text: str


def describe_rule(field: FieldInfo) -> str:
    """Return what values a setting may take, in words: ``"a number in [0, 90)"``."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(f'"{choice}"' for choice in get_args(field.annotation))
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    kind = kinds[field.annotation] if field.annotation in kinds else str(field.annotation)
    bounds = {name: getattr(rule, name) for rule in field.metadata for name in _BOUNDS if hasattr(rule, name)}
    if any(getattr(rule, "pattern", None) for rule in field.metadata):
        pattern = next(rule.pattern for rule in field.metadata if getattr(rule, "pattern", None))
        return f"{kind} that matches {pattern}"
    if any(getattr(rule, "min_length", None) for rule in field.metadata):
        return f"{kind} that is not empty"
    return f"{kind} {_interval(bounds)}" if bounds else kind


_BOUNDS = ("ge", "gt", "le", "lt")


def _interval(bounds: Mapping[str, float]) -> str:
    shown = {name: str(bound) if isinstance(bound, int) else f"{bound:g}" for name, bound in bounds.items()}
    lower = shown.get("ge", shown.get("gt"))
    upper = shown.get("le", shown.get("lt"))
    if upper is None:
        return f"{'>=' if 'ge' in bounds else '>'} {lower}"
    if lower is None:
        return f"{'<=' if 'le' in bounds else '<'} {upper}"
    return f"in {'[' if 'ge' in bounds else '('}{lower}, {upper}{']' if 'le' in bounds else ')'}"


def cross_faults(config: "RunConfig") -> Iterator[Fault]:
    """Yield the settings that are each allowed but cannot go together."""
    train, sky, data, population = config.train, config.sky, config.data, config.population
    if train.min_steps > train.max_steps:
        yield Fault(
            ("train.min-steps", "train.max-steps"),
            f"train.min-steps must be at most train.max-steps, got {train.min_steps} and {train.max_steps}; "
            "raise max-steps or lower min-steps",
        )
    if train.micro_batches > train.batch_size:
        yield Fault(
            ("train.micro-batches", "train.batch-size"),
            "train.micro-batches must be at most train.batch-size, got "
            f"{train.micro_batches} parts of {train.batch_size} blocks; lower it",
        )
    if train.lora_rslora and train.method == "full":
        yield Fault(
            ("train.lora-rslora", "train.method"),
            'train.lora-rslora needs a LoRA train.method, got true and "full", which has no adapter; '
            'turn it off, or choose the method "ffa"',
        )
    if population.devices < population.clusters:
        yield Fault(
            ("population.devices", "population.clusters"),
            f"population.devices must be at least population.clusters, got {population.devices} devices for "
            f"{population.clusters} clusters; a cluster without a device would have no data",
        )
    if config.run.resume and config.strategy == "fedavg":
        yield Fault(
            ("run.resume", "strategy"),
            f'run.resume needs the strategy "ems-fl", got {config.run.resume!r} and "fedavg"; the '
            "baseline keeps no state between rounds, start it anew",
        )
    yield from _data_faults(data)
    horizon_s = sky.hours * 3600
    if sky.simulated and config.profile.wait_hours > sky.hours:
        yield Fault(
            ("profile.wait-hours", "sky.hours"),
            f"profile.wait-hours must be at most sky.hours, got {config.profile.wait_hours} and {sky.hours}; "
            "the run would end before its experts are assigned",
        )
    if sky.simulated and sky.step_s > horizon_s:
        yield Fault(
            ("sky.step-s", "sky.hours"),
            f"sky.step-s must be at most the horizon, got {sky.step_s} s for {horizon_s} s (sky.hours = "
            f"{sky.hours}); lower step-s or raise hours",
        )
    if not sky.simulated and train.steps_wall_budget_s > horizon_s:
        yield Fault(
            ("train.steps-wall-budget-s", "sky.hours"),
            "train.steps-wall-budget-s must be at most the horizon when sky.simulated is false, got "
            f"{train.steps_wall_budget_s} s for {horizon_s} s (sky.hours = {sky.hours}); no visit would end",
        )


def _data_faults(data: "DataSettings") -> Iterator[Fault]:
    if data.source == "embedded":
        return
    if data.partitioner == "domain" and not data.domain_column:
        yield Fault(
            ("data.partitioner", "data.domain-column"),
            'data.domain-column must name a column when data.partitioner is "domain" and data.source is '
            f'{data.source!r}, got ""; name it, or choose the partitioner "iid"',
        )
    if data.partitioner == "dirichlet" and not (data.label_column or data.domain_column):
        yield Fault(
            ("data.partitioner", "data.label-column"),
            'data.label-column or data.domain-column must name a column when data.partitioner is "dirichlet" '
            f'and data.source is {data.source!r}, got "" for both; name one, or choose the partitioner "iid"',
        )
