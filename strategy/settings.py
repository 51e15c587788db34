"""What may be varied in EMS-FL, and the checks at its door."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Literal

from moe.experts import ExpertLayout
from strategy.defence.robust import Robust
from strategy.messages import Profile
from strategy.staleness import Discount, polynomial

Late = Literal["free", "anew"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmsFlSettings:
    """Settings of the strategy.

    Parameters
    ----------
    layout : ExpertLayout
        Of the server's base checkpoint.
    fingerprint : str
        Of the same; a node with another base is refused.
    clusters : sequence of str or None
        Every cluster that may take part; a node of another one is refused. None: whoever comes.
    min_clusters : int
        Where whoever comes takes part: clusters to hear before experts are assigned.
    name_fault : callable
        Why a text cannot be the name of a cluster, or nothing; asked where whoever comes takes part.
    max_experts : callable
        ``(cluster, memory_bytes) -> experts`` that a layer may give the cluster.
    one_of_each_bytes : int
        What one expert of every layer holds on a device while it is tuned; see `moe.tuning.memory_budget`.
    assign_method : str
        ``optimal``, ``random``, ``overlap`` or ``all``; see :func:`strategy.assignment.assign_experts`.
    is_provisional : bool
        Whether a cluster trains what its own data uses most until everybody was heard.
    watch : float
        Part of the capture by which a cluster's may fall before everybody is asked anew; 0: never.
    stay : float
        How much more an expert's mass counts for the cluster that has it, when experts are assigned anew.
    discount : Discount
        Strength of a late update; see :mod:`strategy.staleness`.
    server_learning_rate : float
        > 0.
    buffer_size : int
        Of FedBuff: updates that are merged together, >= 1.
    count_whole_cluster : bool
        Whether silent devices of a cluster count in the mean, with a delta of zero.
    robust : {"none", "clip", "trimmed-mean", "median"}
        What stands in the place of the mean of a pass; see `strategy.defence.robust`.
    late : {"free", "anew"}
        What a cluster gets that is heard after the assignment: experts that nobody has, or all are assigned
        anew.
    profile_wait_s : float
        How long to wait for clusters that have not been heard.
    merge_wait_s : float
        How long the first update of a pass waits for the rest of it.
    min_updates : int
        Updates of a cluster that are merged without waiting for the rest of their pass; 0: all that can come
        are waited for.
    evaluate_every_merges : int
        0: only at the start and at the end.
    target_loss : float
        The run ends when the evaluated loss is at most this; 0: never.
    max_failures : int
        Faults in a row after which a node is left alone.
    poll_interval_s : float
        Real seconds between two looks at a grid that does not block; 0 for a simulated one.
    earlier_runs : tuple of str
        Flower's names of the runs that this one goes on with.
    seed : int
        For random assignment.
    """

    layout: ExpertLayout
    fingerprint: str
    clusters: Sequence[str] | None
    max_experts: Callable[[str, int], int]
    one_of_each_bytes: int
    min_clusters: int = 1
    name_fault: Callable[[str], str] = lambda _name: ""
    assign_method: str = "optimal"
    late: Late = "anew"
    is_provisional: bool = False
    watch: float = 0.0
    stay: float = 0.1
    discount: Discount = field(default_factory=polynomial)
    server_learning_rate: float = 1.0
    buffer_size: int = 10
    count_whole_cluster: bool = False
    robust: Robust = "none"
    profile_wait_s: float = 43_200.0
    merge_wait_s: float = 600.0
    min_updates: int = 0
    evaluate_every_merges: int = 0
    target_loss: float = 0.0
    max_failures: int = 5
    poll_interval_s: float = 0.0
    earlier_runs: tuple[str, ...] = ()
    seed: int = 0

    @property
    def splits(self) -> bool:
        """Whether clusters have experts of their own; the rivals give all to all."""
        return self.assign_method != "all"

    @property
    def num_clusters(self) -> int:
        """How many clusters are expected."""
        return self.min_clusters if self.clusters is None else len(self.clusters)

    def in_order(self, heard: Collection[str]) -> list[str]:
        """Return the clusters that were heard: in the order of ``clusters``, else of their names."""
        return [name for name in self.clusters or sorted(heard) if name in heard]

    def awaited(self, heard: Collection[str]) -> int:
        """Return how many clusters are to be heard yet before experts are assigned."""
        return max(0, self.num_clusters - len(heard))

    @property
    def layers(self) -> tuple[int, ...]:
        """MoE layers of the base, ascending."""
        return self.layout.layers

    def check_profile(self, profile: Profile) -> None:
        """Refuse a node that does not belong to this run.

        Raises
        ------
        ValueError
            If its cluster is unknown or its name none, its base differs from the server's, its routing
            statistics have another shape, or its memory holds no expert.
        """
        if self.clusters is None:
            if fault := self.name_fault(profile.cluster):
                raise ValueError(f"the name of its cluster {fault}, got {profile.cluster[:80]!r}")
        elif profile.cluster not in self.clusters:
            raise ValueError(f"cluster {profile.cluster!r} is unknown; this run has {list(self.clusters)}")
        if profile.fingerprint != self.fingerprint:
            raise ValueError(
                f"its base checkpoint {profile.fingerprint[:12]} is not the server's "
                f"{self.fingerprint[:12]}: install the same one"
            )
        expected = [self.layout.num_experts[layer] for layer in self.layers]
        if [len(layer) for layer in profile.mass] != expected:
            raise ValueError(f"its routing statistics do not cover the model's experts {expected}")
        if self.max_experts(profile.cluster, profile.memory_bytes) < 1:
            shared_bytes, expert_bytes = self.layout.shared_bytes, self.one_of_each_bytes
            # In whole kilobytes, up: the number that is told must be enough.
            least_mb = math.ceil((shared_bytes + expert_bytes) / 1000) / 1000
            raise ValueError(
                f"its memory of {profile.memory_bytes} bytes does not hold the shared part and one expert "
                f"per layer of {self.layout.family} while it is tuned: {shared_bytes} bytes shared, and "
                f"{expert_bytes} of expert weights, gradients and optimiser state; raise "
                f"population.memory-mb to {least_mb} or more, or choose a smaller train.lora-rank, "
                "model.dtype or model"
            )


def experts_that_fit(
    layout: ExpertLayout,
    memory_bytes: int,
    *,
    one_of_each_bytes: int,
    adapter_bytes: int = 0,
    window_bytes: float = 0.0,
) -> int:
    """Return how many experts of every layer a device can tune and send.

    Parameters
    ----------
    layout : ExpertLayout
        Of the base.
    memory_bytes : int
        For the sub-model while it is tuned, activations left out.
    one_of_each_bytes : int
        Of it, for one expert in every layer, > 0.
    adapter_bytes : int
        Upload of one expert in every layer; 0: no limit from the link.
    window_bytes : float
        What one contact carries for the device.

    Returns
    -------
    int
        At least 0 and at most the experts of the smallest layer. The link never takes the last
        expert away: an update may take several windows.
    """
    fit = min(layout.num_experts.values())
    fit = min(fit, max(0, memory_bytes - layout.shared_bytes) // one_of_each_bytes)
    if adapter_bytes > 0:
        fit = min(fit, max(1, int(window_bytes // adapter_bytes)))
    return int(fit)
