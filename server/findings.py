"""From a run's models to ``findings.json``: who uses which expert, how far each moved, what they say."""

from moe.experts import ExpertId
from moe.tuning.movement import change_norms
from server.completions import completions
from server.ems_fl_run import Outcome
from server.evaluate import Evaluator
from server.job import Job
from server.record.scene import Findings


def findings_of(job: Job, outcome: Outcome, evaluator: Evaluator) -> Findings:
    """Return what only the models can say at the end of a run."""
    norms = change_norms(job.layout, job.initial, outcome.values, job.tuning)
    return Findings(
        relevance={name: _shares(layers) for name, layers in outcome.relevance.items()},
        moved=tuple(
            tuple(norms.get(ExpertId(layer, index), 0.0) for index in range(count))
            for layer, count in job.layout.num_experts.items()
        ),
        completions=completions(job, outcome, evaluator),
    )


def _shares(layers: list[list[float]]) -> tuple[tuple[float, ...], ...]:
    """Return the routing mass of every layer as shares that add up to one."""
    return tuple(tuple(mass / (sum(layer) or 1.0) for mass in layer) for layer in layers)
