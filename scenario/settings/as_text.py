"""The settings as people read them: the documentation page, and TOML with or without comments."""

import json
import textwrap
from collections.abc import Iterator, Mapping

from pydantic.fields import FieldInfo

from scenario.settings.config import RunConfig, Scalar
from scenario.settings.rules import describe_rule
from scenario.settings.section import Section, kebab

TABLE = "tool.flwr.app.config"
"""Where Flower reads an app's defaults in ``pyproject.toml``."""

PAGE_HEAD = """\
# Configuration

Every setting of a run. The defaults are the demo; they stand in `[tool.flwr.app.config]` of `pyproject.toml`.

- One setting: `flwr run . --stream --run-config "train.max-steps=64 sky.hours=48.0"`
- A named experiment: `flwr run . --stream --run-config conf/smoke.toml`; values on the command line are TOML,
  so text is quoted: `--run-config "strategy='fedavg'"`.
- `flwr run` takes one file or settings, not both, and all settings in one string: of two `--run-config` that
  set keys of one table it drops the first. `make demo ARGS='-c conf/smoke.toml "seed=3"'` takes any mix.
- A run repeated or continued: `--run-config RUN_FOLDER/config.toml` or `--run-config RUN_FOLDER/resume.toml`.
- Paths are absolute: Flower runs the app from another folder.
- The unit of a setting is the end of its name. Seconds and hours are simulated time unless they say *wall*.

Unknown or impossible settings are refused before anything is started, all of them at once.

This page is written by `python -m server.config > docs/configuration.md`.
"""


def configuration_page() -> str:
    """Return ``docs/configuration.md``: one table a section, made from the model itself."""
    parts = [PAGE_HEAD]
    for title, doc, settings in _tables():
        parts.append(f"\n## {f'[{title}]' if title else 'Top level'}\n\n{doc}\n")
        parts.append("\n| setting | default | allowed | meaning |\n|---|---|---|---|\n")
        for key, field in settings.items():
            cells = (
                f"`{key}`",
                f"`{toml_value(field.default)}`",
                describe_rule(field),
                field.description or "",
            )
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def commented_toml() -> str:
    """Return the defaults as the TOML tables of ``pyproject.toml``, each with its rule and meaning."""
    parts = []
    for title, doc, settings in _tables():
        head = f"[{TABLE}.{title}]" if title else f"[{TABLE}]"
        parts.append(f"{head}\n# {doc}\n" if title else f"{head}\n")
        for key, field in settings.items():
            rule = (
                "" if field.annotation in (bool, str) and not field.metadata else f" ({describe_rule(field)})"
            )
            parts += [f"# {line}\n" for line in textwrap.wrap(f"{field.description}{rule}", 106)]
            parts.append(f"{key} = {toml_value(field.default)}\n")
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def toml_text(settings: Mapping[str, Scalar]) -> str:
    """Return a flat configuration as a TOML file that ``flwr run --run-config FILE`` reads back.

    Parameters
    ----------
    settings : Mapping[str, bool | int | float | str]
        Dotted keys, at most one dot each, as `scenario.settings.config.flat_config` gives them.
    """
    top = {key: value for key, value in settings.items() if "." not in key}
    lines = [f"{key} = {toml_value(value)}" for key, value in top.items()]
    section = ""
    for key, value in settings.items():
        table, dot, name = key.rpartition(".")
        if not dot:
            continue
        if table != section:
            lines += ["", f"[{table}]"]
            section = table
        lines.append(f"{name} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def toml_value(value: Scalar) -> str:
    """Return one scalar as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's quoting of text is also that of TOML's basic strings once DEL is escaped; repr of a finite
    # number is TOML's.
    return (
        json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        if isinstance(value, str)
        else repr(value)
    )


def _tables() -> Iterator[tuple[str, str, dict[str, FieldInfo]]]:
    """Yield each table's name (empty at the top), its sentence and its settings."""
    top = {kebab(name): field for name, field in RunConfig.model_fields.items() if not _section_of(field)}
    yield "", "Settings of the whole run.", top
    for name, field in RunConfig.model_fields.items():
        if section := _section_of(field):
            settings = {kebab(inner): setting for inner, setting in section.model_fields.items()}
            yield name, (section.__doc__ or "").strip().splitlines()[0], settings


def _section_of(field: FieldInfo) -> type[Section] | None:
    annotation = field.annotation
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return None
