"""Read Flower's run configuration once, and name every bad setting at once."""

import datetime
import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from scenario.settings.combinations import cross_faults
from scenario.settings.config import RunConfig, Scalar, config_fields
from scenario.settings.rules import Fault, describe_rule


def read_config(run_config: Mapping[str, Scalar]) -> RunConfig:
    """Return the checked settings of Flower's flat run configuration.

    Parameters
    ----------
    run_config : Mapping[str, bool | int | float | str]
        ``context.run_config``: dotted kebab-case keys such as ``"train.max-steps"``. A key that is not
        given takes its default.

    Returns
    -------
    RunConfig
        Immutable; ``cfg.train.max_steps``.

    Raises
    ------
    ValueError
        One message with a line for every unknown key, every value of a wrong type or out of range, and
        every pair of settings that cannot go together.

    Examples
    --------
    >>> read_config({"train.max-steps": 32}).train.max_steps
    32
    >>> read_config({"sky.elevation-mask-deg": 95})
    Traceback (most recent call last):
    ...
    ValueError: 1 setting of the run configuration cannot be used:
      sky.elevation-mask-deg must be a number in [0, 90), got 95; change it (default 20.0): ...
    """
    fields = config_fields()
    faults = [_unknown(key, fields) for key in run_config if key not in fields]
    known = {key: value for key, value in run_config.items() if key in fields}
    config, field_faults = _validate(known, fields)
    bad_keys = {key for fault in field_faults for key in fault.keys}
    faults += field_faults
    # A pair is only judged when both of its settings could be read: one mistake, one line.
    faults += [fault for fault in cross_faults(config) if bad_keys.isdisjoint(fault.keys)]
    if faults:
        plural = "s" if len(faults) > 1 else ""
        lines = "\n".join(f"  {fault.text}" for fault in faults)
        raise ValueError(f"{len(faults)} setting{plural} of the run configuration cannot be used:\n{lines}")
    return config


def _unknown(key: str, fields: Mapping[str, FieldInfo]) -> Fault:
    if inside := [known for known in fields if known.startswith(f"{key}.")]:
        return Fault((key,), f"{key} is a table of settings, not one; its first is {inside[0]}")
    # People leave out the section or write snake_case more often than they mistype a letter.
    close = difflib.get_close_matches(key.replace("_", "-"), fields, n=1, cutoff=0.6)
    close = close or [known for known in fields if known.split(".")[-1] == key.split(".")[-1]][:1]
    hint = f"did you mean {close[0]}?" if close else "docs/configuration.md lists every setting"
    return Fault((key,), f"{key} is not a setting; {hint}")


def _validate(known: Mapping[str, Scalar], fields: Mapping[str, FieldInfo]) -> tuple[RunConfig, list[Fault]]:
    """Return the settings with every unreadable one at its default, and a fault for each of those."""
    try:
        return RunConfig.model_validate(_nested(known)), []
    except ValidationError as error:
        faults = []
        for detail in error.errors():
            key = ".".join(str(part) for part in detail["loc"])
            faults.append(Fault((key,), _explain(key, known[key], fields[key], detail)))
    bad = {fault.keys[0] for fault in faults}
    good = {key: value for key, value in known.items() if key not in bad}
    return RunConfig.model_validate(_nested(good)), faults


def _nested(flat: Mapping[str, Scalar]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, name = key.rpartition(".")
        if dot:
            nested.setdefault(section, {})[name] = value
        else:
            nested[key] = value
    return nested


def _explain(key: str, value: Scalar, field: FieldInfo, detail: Any) -> str:
    """Return one line: what is wrong, the rule, the value, what to do."""
    got = f"got {_shown(value)}"
    if detail["type"] == "value_error":
        rule, _, advice = str(detail["ctx"]["error"]).partition("; ")
        return f"{key} {rule}, {got}; {advice}"
    if field.annotation is str and not isinstance(value, str | list):
        return f'{key} must be {describe_rule(field)}, {got}; quote it: "{_shown(value)}"'
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    close = difflib.get_close_matches(str(value), choices, n=1)
    advice = f'did you mean "{close[0]}"?' if close else f"change it (default {field.default!r})"
    return f"{key} must be {describe_rule(field)}, {got}; {advice}: {field.description}"


def _shown(value: object) -> str:
    """Return a value as TOML writes it, where Python writes another word."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat().replace("+00:00", "Z")
    return repr(value)
