"""``python -m benchmarks.throughput.pfl_peer DEVICES``: pfl-research's own simulation; prints a line of JSON.

Runs in any Python that has ``pip install pfl`` (numpy is all it needs) and imports nothing of ours. One
process, as pfl has it on a machine without torch: a cohort of so many users, each answering with an array of
its own, added up as they come.
"""

# ruff: noqa: ARG002, D102 - the methods are those that pfl asks for
import json
import sys
import time
from itertools import count
from typing import Any

import numpy as np
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.hyperparam.base import ModelHyperParams
from pfl.metrics import Metrics
from pfl.model.base import StatefulModel
from pfl.stats import MappedVectorStatistics

ADAPTER_BYTES = 100_000
"""As `benchmarks.throughput.world`."""


class Adapter(StatefulModel):
    """A model that is one array."""

    def __init__(self) -> None:
        self.values = np.random.default_rng(0).standard_normal(ADAPTER_BYTES // 4).astype(np.float32)

    def get_parameters(self, placeholders: Any = None) -> MappedVectorStatistics:
        return MappedVectorStatistics({"w": self.values}, weight=1)

    def set_parameters(self, w: MappedVectorStatistics) -> None:
        self.values = w["w"]

    def get_model_difference(self, other_parameters: Any, clone: bool = False) -> MappedVectorStatistics:
        return MappedVectorStatistics({"w": self.values - other_parameters["w"]}, weight=1)

    def apply_model_update(self, statistics: MappedVectorStatistics) -> tuple["Adapter", Metrics]:
        self.values = self.values + statistics["w"]
        return self, Metrics()

    def evaluate(self, *_: Any, **__: Any) -> Metrics:
        return Metrics()

    def save(self, dir_path: str) -> None: ...

    def load(self, dir_path: str) -> None: ...


class NoTraining(FederatedAveraging):
    """Each user answers at once, with bytes of its own."""

    answers = count()

    def train_one_user(self, initial_model_state: Any, model: Adapter, *_: Any) -> Any:
        own = initial_model_state["w"] + np.float32(next(self.answers))
        return MappedVectorStatistics({"w": own}, weight=1), Metrics()


def main(num_devices: int) -> None:
    """Run one round over so many users, once more than is measured, so that everything is imported."""
    users = count()
    data = FederatedDataset(
        lambda user: Dataset(raw_data=(np.zeros(1),), user_id=str(user)), lambda: next(users)
    )
    backend = SimulatedBackend(training_data=data, val_data=data)
    run(backend, 2)
    began_s, cpu_began_s = time.monotonic(), time.process_time()
    run(backend, num_devices)
    spent = {"wall_s": time.monotonic() - began_s, "cpu_s": time.process_time() - cpu_began_s}
    print("\n" + json.dumps({"contender": "pfl", "devices": num_devices, **spent, "replies": num_devices}))


def run(backend: SimulatedBackend, cohort: int) -> None:
    """One central iteration."""
    NoTraining().run(
        NNAlgorithmParams(
            central_num_iterations=1,
            evaluation_frequency=1,
            train_cohort_size=cohort,
            val_cohort_size=0,
        ),
        backend,
        Adapter(),
        ModelHyperParams(),
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
