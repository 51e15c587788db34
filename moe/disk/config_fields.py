"""The fields of ``config.json``: null is absent, and what no model can be built with is named.

transformers 5.23 checks the types of a configuration's fields, and raises for the first that is wrong;
other values it finds out about while it builds the model, or never. Here all are told at once, by name
and value, before anything is built.
"""

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

Fields = Mapping[str, Any]
FieldPath = tuple[str, ...]

# Where a null is a value that lacks, though no class says so. Other nulls there name layers without any.
_ROTARY = ("rope_parameters", "rope_scaling")
_ROTARY_VALUES = ("rope_theta", "rope_type", "type", "partial_rotary_factor")
# Every position would be turned by an angle that is no number.
_POSITIVE = ("rope_theta", "factor")
_TYPES: Mapping[str, type] = {
    **dict.fromkeys(("architectures",), list),
    **dict.fromkeys(("model_type", "dtype", "torch_dtype", "transformers_version"), str),
    "auto_map": dict,
}
# Counts of modules that are built one by one: a number far too large would fill the memory with them.
_LAYERS = re.compile(r"(?:^|_)n(?:um)?_(?:\w+_)?(?:layers|blocks)$|^(?:encoder|decoder)_layers$|^depth$")
_EXPERTS = re.compile(r"(?:^|_)n(?:um)?_(?:\w+_)?experts$")
_ALWAYS_BUILT = 1024
# A large model takes seconds to build, and every field is one attempt.
_PATIENCE_S = 10.0


def without_nulls(fields: Fields) -> dict[str, Any]:
    """Return the content of a ``config.json`` without the nulls that its family cannot have.

    transformers refuses them. Left out, such a field has its family's default, as any that is not there.
    A null that a family knows (no sliding window) stays.
    """
    return _without_nulls(fields, _config_class(fields))


def as_read(fields: Fields) -> dict[str, Any]:
    """Return the content of a ``config.json`` as a configuration is made from it.

    Infinities are written as transformers writes them, ``{"__float__": "Infinity"}``.
    """
    decoded: dict[str, Any] = PreTrainedConfig._decode_special_floats(without_nulls(fields))
    return decoded


def check_fields(where: str, fields: Fields, tensors: Mapping[str, Any]) -> None:
    """Refuse values of a type, or a size, that no model of the family has.

    Parameters
    ----------
    where : str
        Whose they are, for the error.
    fields : Mapping[str, Any]
        From `as_read`.
    tensors : Mapping[str, TensorSpec]
        What the files hold.

    Raises
    ------
    ValueError
        Naming every such field, with its value.
    """
    most_layers = max(_ALWAYS_BUILT, len(tensors))
    most_experts = max([most_layers, *(spec.shape[0] for spec in tensors.values() if spec.shape)])
    faults = dict(_mistyped(fields, _config_class(fields)))
    for path, value in _leaves(fields):
        if isinstance(value, float) and not math.isfinite(value):
            faults.setdefault(path, "is no finite number")
        if path[-1] in _POSITIVE and isinstance(value, (int, float)) and value <= 0:
            faults.setdefault(path, "must be > 0")
        for pattern, most in ((_LAYERS, most_layers), (_EXPERTS, most_experts)):
            if isinstance(value, int) and pattern.search(path[-1]) and not 0 <= value <= most:
                faults.setdefault(path, f"must be in [0, {most}] with the {len(tensors)} tensors it has")
    if "configuration_files" in fields:
        faults["configuration_files",] = "names other files for other versions; give one config.json"
    if faults:
        shown = [f"{told(path, _value(fields, path))} {why}" for path, why in list(faults.items())[:8]]
        more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise ValueError(f"{where} has an invalid config.json: {'; '.join(shown)}{more}; correct it")


def check_window(where: str, config: PreTrainedConfig) -> None:
    """Refuse a sliding window that is on and holds no token, or that layers want and there is not.

    Raises
    ------
    ValueError
        With the field and its value.
    """
    text = config.get_text_config()
    window = getattr(text, "sliding_window", None)
    # Some families have the field where the window is off, and 0 in it.
    is_on = getattr(text, "use_sliding_window", True)
    wanted = "sliding_attention" in (getattr(text, "layer_types", None) or ())
    if (isinstance(window, int) and window < 1 and is_on) or (wanted and window is None):
        raise ValueError(
            f"{where} has sliding_window = {window} in config.json, and a window holds at least the token "
            "itself: it must be >= 1, or null where no layer slides; correct it"
        )


def blame(where: str, fields: Fields, error: Exception, build: Callable[[Fields], object]) -> ValueError:
    """Return the error that says which field transformers could not build a model with.

    Found by trying: it is the field without which, at its default, a model can be built.

    Parameters
    ----------
    where : str
        Whose they are, for the error.
    fields : Mapping[str, Any]
        With which it could not.
    error : Exception
        What it raised.
    build : callable
        Builds a model on the meta device of other fields, or raises.
    """
    reason = " ".join(str(error).split())[:300]
    reason = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    path = _culprit(fields, build)
    what = "a config.json" if path is None else f"{told(path, _value(fields, path))} in config.json,"
    return ValueError(
        f"{where} has {what} with which transformers cannot build a model of family "
        f"{fields.get('model_type')} ({reason}); correct it"
    )


def told(path: FieldPath, value: Any) -> str:
    """Return a field and its value as messages write them."""
    text = repr(value)
    return f"{'.'.join(path)} = {text if len(text) <= 60 else text[:57] + '...'}"


def _culprit(fields: Fields, build: Callable[[Fields], object]) -> FieldPath | None:
    until_s = time.monotonic() + _PATIENCE_S
    usual = _usual_types(fields)
    for path, _ in sorted(_leaves(fields), key=lambda leaf: _innocence(leaf[1], usual.get(leaf[0]))):
        if path == ("model_type",) or time.monotonic() > until_s:
            continue
        try:
            build(_left_out(fields, path))
        except Exception:
            continue  # as many types as there are families; it is not this field alone
        return path
    return None


def _usual_types(fields: Fields) -> dict[FieldPath, type]:
    """Return the types of the fields of the family's default configuration, where it can be made."""
    try:
        return {path: type(value) for path, value in _leaves(_config_class(fields)().to_dict())}
    except Exception:
        return {}


def _innocence(value: Any, usual: type | None) -> int:
    """Return what to try first: of another type than usual, or a size below one, or a name."""
    if usual not in (None, type(None), type(value)):
        return 0
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number:
        return 1 if isinstance(value, str) else 2
    return 0 if value <= 0 else 3


def _leaves(fields: Fields, before: FieldPath = ()) -> Iterator[tuple[FieldPath, Any]]:
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*before, name))
        else:
            yield (*before, name), value


def _value(fields: Fields, path: FieldPath) -> Any:
    value: Any = fields
    for name in path:
        value = value[name]
    return value


def _left_out(fields: Fields, path: FieldPath) -> dict[str, Any]:
    name, *rest = path
    if rest:
        return {**fields, name: _left_out(fields[name], tuple(rest))}
    return {key: value for key, value in fields.items() if key != name}


def _without_nulls(fields: Fields, config_class: Any) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in fields.items():
        if value is None:
            if not _refusal(config_class, name, None):
                kept[name] = value
        elif not isinstance(value, Mapping):
            kept[name] = value
        elif name in _ROTARY:
            kept[name] = _without_rotary_nulls(value)
        else:
            kept[name] = _without_nulls(value, _part_class(config_class, name, value))
    return kept


def _without_rotary_nulls(fields: Fields) -> dict[str, Any]:
    return {
        name: _without_rotary_nulls(value) if isinstance(value, Mapping) else value
        for name, value in fields.items()
        if value is not None or name not in _ROTARY_VALUES
    }


def _mistyped(fields: Fields, config_class: Any, before: FieldPath = ()) -> Iterator[tuple[FieldPath, str]]:
    for name, value in fields.items():
        path = (*before, name)
        if isinstance(value, Mapping) and (part := _part_class(config_class, name, value)) is not None:
            yield from _mistyped(value, part, path)
        elif name in _TYPES and value is not None and not isinstance(value, _TYPES[name]):
            yield path, f"must be {_TYPES[name].__name__}, got {type(value).__name__}"
        elif refusal := _refusal(config_class, name, value):
            yield path, refusal


def _refusal(config_class: Any, name: str, value: Any) -> str:
    """Return why a configuration class does not take a value; empty if it does, or knows no such field."""
    known: Mapping[str, Any] = getattr(config_class, "__validators__", {})
    stored = getattr(config_class, "attribute_map", {}).get(name, name)
    for validate in known.get(stored, ()):
        try:
            validate(value)
        except (TypeError, ValueError) as error:
            return _shortened(" ".join(str(error).split()), value)
    return ""


def _shortened(reason: str, value: Any) -> str:
    """Return what a configuration class says of a value in the words of these messages."""
    # "Field 'hidden_size' expected int, got str (value: 'x')", "Field 'head_dim' with value 'x' doesn't match
    # any type in (<class 'int'>, <class 'NoneType'>). Errors: ..."
    types = re.search(r"expected (\w+), got|any type in \((.*?)\)\. Errors", reason)
    if types is None:
        return f"is refused by transformers ({reason[:200]})"
    wanted = (types[1] or types[2]).replace("<class 'NoneType'>", "null")
    wanted = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", wanted)
    return f"must be {wanted.replace(', ', ' or ')}, got {type(value).__name__}"


def _config_class(fields: Fields) -> Any:
    """Return the family's configuration class; None for a family that is not known."""
    family = fields.get("model_type")
    return CONFIG_MAPPING[family] if isinstance(family, str) and family in CONFIG_MAPPING else None


def _part_class(config_class: Any, name: str, fields: Fields) -> Any:
    """Return the class of a part of a configuration, such as ``text_config``; None if it is not one."""
    part = getattr(config_class, "sub_configs", {}).get(name)
    if part is None or hasattr(part, "__validators__"):
        return part
    return _config_class(fields)  # AutoConfig: the part names its family itself
