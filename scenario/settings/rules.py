"""What a setting may be, in words, and what is wrong with one that is not."""

import json
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo


class Fault(NamedTuple):
    """One thing wrong with the settings named by ``keys``."""

    keys: tuple[str, ...]
    text: str


def describe_rule(field: FieldInfo) -> str:
    """Return what values a setting may take, in words: ``"a number in [0, 90)"``."""
    if get_origin(field.annotation) is Literal:
        return "one of " + ", ".join(json.dumps(choice) for choice in get_args(field.annotation))
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
