"""What a run is made of outside its checkpoint, read and refused before a second has passed.

Without torch and transformers, which take seconds to import: a misspelt column is told at once.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from moe.disk.hub import resolve_folder
from scenario.contact_plan import plan_from
from scenario.data.federated_text import FederatedText
from scenario.derive import measured_population, population_from, text_from
from scenario.settings.config import RunConfig
from server.record.run_folder import check_can_be_made, check_resumable, name_run_folder
from sim.plans.plan import ContactPlan
from sim.population import Population

HF_VARIABLE = "HF_HOME"
# What a read-only or missing home answers to a cache that would be made in it.
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who is on the ground, when they are reached, and what they hold.

    Parameters
    ----------
    population : Population
        Who lives where; nobody where that is known on contact.
    plan : ContactPlan or None
        When they can be reached; None where the real link decides.
    text : FederatedText
        Who has which text.
    measured : Population
        Whose text the server measures on: the population, or itself.
    """

    population: Population
    plan: ContactPlan | None
    text: FederatedText
    measured: Population


def read_world(config: RunConfig, say: Callable[[str], None]) -> World:
    """Return the population, its contacts and its data.

    Parameters
    ----------
    config : RunConfig
        Checked settings.
    say : callable
        Receives notices of the sky and notes on the data.

    Raises
    ------
    ValueError
        If the sites, the sky or the data cannot be used; what is wrong with one does not hide the others.
    """
    faults: list[str] = []
    population = tried(faults, lambda: population_from(config))
    if population is None:
        raise ValueError("\n".join(faults))
    plan = tried(faults, lambda: plan_from(config, population, say) if config.sky.simulated else None)
    measured = population if population.clusters else measured_population(config)
    text = tried(faults, lambda: _text(config, measured))
    if text is None or faults:
        raise ValueError("\n".join(faults))
    for note in text.notes:
        say(f"note: {note}")
    return World(population=population, plan=plan, text=text, measured=measured)


def _text(config: RunConfig, population: Population) -> FederatedText:
    """Return who has which text; where Hugging Face's cache is the fault, say what helps."""
    way_out = f"set {HF_VARIABLE} to a folder that can be written, for Hugging Face's cache"
    if config.data.source != "embedded" and not {HF_VARIABLE, "XDG_CACHE_HOME"} & os.environ.keys():
        try:
            Path.home()
        except RuntimeError as error:
            raise ValueError(f"this user has no home folder; {way_out}") from error
    try:
        text = text_from(config, population)
        if config.evaluate.choices:
            text.answers()
        return text
    except ValueError as fault:
        if isinstance(fault.__cause__, OSError) and fault.__cause__.errno in NOT_WRITABLE:
            raise ValueError(f"{fault}; {way_out}") from fault
        raise


def check_run_folder(config: RunConfig) -> None:
    """Refuse a folder that the run could not be written to, or that it cannot go on in; writes nothing.

    Raises
    ------
    ValueError
        As `check_resumable` for a run that is continued, else if a folder cannot be made there.
    """
    if config.run.resume:
        check_resumable(Path(config.run.resume), config)
    else:
        check_can_be_made(name_run_folder(config))


def check_model_folder(config: RunConfig) -> None:
    """Refuse a folder of a checkpoint that is not there, without opening it.

    Raises
    ------
    ValueError
        If ``model.name`` is a path and no folder.
    """
    if Path(config.model.name).is_absolute():
        resolve_folder(config.model.name)


def tried(faults: list[str], read: Callable[[], Value]) -> Value | None:
    """Return what is read, or None after adding to the faults why it cannot be."""
    try:
        return read()
    except ValueError as fault:
        faults.append(str(fault))
    except OSError as failure:
        named = failure.filename and failure.strerror
        faults.append(f"{failure.filename} cannot be read: {failure.strerror}" if named else str(failure))
    return None
