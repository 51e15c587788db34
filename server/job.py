"""Everything a run stands on, read and checked before anything is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from moe.disk.layout import open_storage
from moe.experts import ExpertArrays, ExpertLayout, Tuning
from moe.export.checkpoint import fingerprint
from moe.tuning.adapters import initial_arrays
from moe.tuning.shared_parts import check_shared
from scenario.data.federated_text import FederatedText
from scenario.derive import drifted_text, era_at, tuning_from
from scenario.settings.config import RunConfig
from server.inputs import read_world
from server.model_input import check_memory, read_model
from sim.plans.plan import ContactPlan
from sim.population import Population

__all__ = [
    "FLOAT32_BYTES",
    "Job",
    "adapter_bytes_per_expert",
    "check_memory",
    "prepare",
    "shared_adapter_bytes",
]

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
        """Names of the clusters, in the population's order; none where they are known on contact."""
        return tuple(cluster.name for cluster in self.population.clusters)

    def domains(self, time_s: float) -> Mapping[str, str]:
        """Return what each cluster's text is about at a time of the run, if it is known here."""
        text = self.text_at(time_s)
        return dict(zip(text.clusters, text.domains, strict=True))

    def text_at(self, time_s: float) -> FederatedText:
        """Return who holds which text at a time of the run; see ``data.drift-hours``."""
        return drifted_text(self.config, self.text) if era_at(self.config, time_s) else self.text

    @property
    def horizon_s(self) -> float:
        """Length of the run in seconds of its clock."""
        return self.plan.horizon_s if self.plan else self.config.sky.hours * 3600.0

    @property
    def adapter_parameters(self) -> int:
        """Trained values of an adapter of every expert."""
        return sum(value.size for value in self.initial.values())


def prepare(config: RunConfig, say: Callable[[str], None], workers: int = 0) -> Job:
    """Return the job, or refuse it; nothing has been written then.

    Parameters
    ----------
    config : RunConfig
        Checked settings.
    say : callable
        Receives a line of progress now and then; making the demo's base model takes a minute.
    workers : int
        As for `server.model_input.read_model`.

    Raises
    ------
    ValueError
        If the sites, the sky, the data or the checkpoint cannot be used.
    """
    world = read_world(config, say)
    path, layout = read_model(config, world, say, workers)
    tuning = tuning_from(config, layout.layers)
    if tuning.shared_parts:
        check_shared(open_storage(path), tuning)
        say(
            f"note: every cluster tunes {' and '.join(tuning.shared_parts)} too, averaged over all of them "
            "(train.parts): what clusters train is not disjoint there"
        )
    return Job(
        config=config,
        population=world.population,
        plan=world.plan,
        text=world.text,
        path=path,
        fingerprint=fingerprint(path),
        layout=layout,
        tuning=tuning,
        initial=initial_arrays(path, tuning, layout.experts),
    )


def shared_adapter_bytes(job: Job) -> int:
    """Return the upload of the tuned shared parts, as `adapter_bytes_per_expert`; 0 where they are not."""
    numbers = sum(value.size for key, value in job.initial.items() if key.is_shared)
    return numbers * job.config.merge.update_bits // 8


def adapter_bytes_per_expert(job: Job) -> int:
    """Return the upload of one expert in every layer, scales and the arrays' headers left out."""
    one_of_each = {(layer, 0) for layer in job.layout.layers}
    return sum(
        value.size * job.config.merge.update_bits // 8
        for key, value in job.initial.items()
        if (key.layer, key.index) in one_of_each
    )
