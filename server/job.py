"""Everything a run stands on, read and checked before anything is written."""

from collections.abc import Callable
from dataclasses import dataclass

import psutil
from transformers import AutoTokenizer

from demo.base_model import ensure_base_model, resolve_model_name
from moe.device import choose_device
from moe.disk.layout import read_layout
from moe.experts import ExpertArrays, ExpertLayout, Tuning
from moe.export.checkpoint import fingerprint
from moe.tuning.adapters import initial_arrays
from scenario.contact_plan import plan_from
from scenario.data.federated_text import FederatedText, check_blocks
from scenario.derive import population_from, text_from, tuning_from
from scenario.settings.config import RunConfig
from sim.plans.plan import ContactPlan
from sim.population import Population

FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is run.

    Parameters
    ----------
    config : RunConfig
        As the user gave it, checked.
    population : Population
        Who is on the ground.
    plan : ContactPlan or None
        When they can be reached; None where the real link decides.
    text : FederatedText
        Who has which text.
    path : str
        Folder of the base checkpoint.
    fingerprint : str
        Of it.
    layout : ExpertLayout
        Its experts.
    tuning : Tuning
        How they are tuned.
    initial : ExpertArrays
        Values of every tuned array before the first merge.
    """

    config: RunConfig
    population: Population
    plan: ContactPlan | None
    text: FederatedText
    path: str
    fingerprint: str
    layout: ExpertLayout
    tuning: Tuning
    initial: ExpertArrays

    @property
    def clusters(self) -> tuple[str, ...]:
        """Names of the clusters, in the population's order."""
        return tuple(cluster.name for cluster in self.population.clusters)

    @property
    def horizon_s(self) -> float:
        """Length of the run in seconds of its clock."""
        return self.plan.horizon_s if self.plan else self.config.sky.hours * 3600.0

    @property
    def adapter_parameters(self) -> int:
        """Trained values of an adapter of every expert."""
        return sum(value.size for value in self.initial.values())


def prepare(config: RunConfig, say: Callable[[str], None]) -> Job:
    """Return the job, or refuse it; nothing has been written then.

    Parameters
    ----------
    config : RunConfig
        Checked settings.
    say : callable
        Receives a line of progress now and then; making the demo's base model takes a minute.

    Raises
    ------
    ValueError
        If the sites, the sky, the data or the checkpoint cannot be used.
    """
    choose_device(config.model.device)  # refused now, not when the first model is loaded
    population = population_from(config)
    plan = plan_from(config, population, say) if config.sky.simulated else None
    text = text_from(config, population)
    for note in text.notes:
        say(f"note: {note}")
    # Last, because the demo's model takes a minute to make: a misspelt column is refused at once.
    if config.model.name == "demo":
        ensure_base_model(say)
    path = str(resolve_model_name(config.model.name))
    layout, tuning = read_layout(path, config.model.dtype), tuning_from(config)
    if not config.evaluate.streamed:
        check_memory(layout.total_bytes, psutil.virtual_memory().total)
    tokenizer = AutoTokenizer.from_pretrained(path)
    for note in check_blocks(text, tokenizer, population, sequence_length=config.data.sequence_length):
        say(f"note: {note}")
    return Job(
        config=config,
        population=population,
        plan=plan,
        text=text,
        path=path,
        fingerprint=fingerprint(path),
        layout=layout,
        tuning=tuning,
        initial=initial_arrays(path, tuning, layout.experts),
    )


def check_memory(model_bytes: int, machine_bytes: int) -> None:
    """Refuse to hold the whole model on a machine that it is larger than.

    Raises
    ------
    ValueError
        If it is; says which setting does without.
    """
    if model_bytes > machine_bytes:
        raise ValueError(
            f"to measure the merged model the server holds it whole, {model_bytes / 1e9:.1f} GB in "
            f"model.dtype, and this machine has {machine_bytes / 1e9:.1f} GB of memory; set "
            "evaluate.streamed = true, which reads its experts from disk as they are needed"
        )


def adapter_bytes_per_expert(job: Job) -> int:
    """Return the upload of one expert in every layer."""
    one_of_each = {(layer, 0) for layer in job.layout.layers}
    return sum(
        value.size * FLOAT32_BYTES
        for key, value in job.initial.items()
        if (key.layer, key.index) in one_of_each
    )
