"""FedBuff and FedAsync: every expert to every cluster, merged as updates come.

They are `EmsFl` without the splitting, so that the comparison is one of splitting alone: the same contacts,
dispatch, local steps, messages and saved state.
"""

from collections.abc import Iterable, Sequence

from typing_extensions import override

from strategy.baselines.mixing import mix_in
from strategy.ems_fl import EmsFl, Event
from strategy.events import merged_event


class FedBuff(EmsFl):
    """Merge as soon as a number of updates has come, from whichever clusters.

    Source: Nguyen et al. 2022, arXiv 2106.06639, Algorithm 1; ``settings.buffer_size`` is its K,
    ``settings.server_learning_rate`` its server rate and ``settings.discount`` its staleness weight.
    """

    @override
    def _due(self, *, at_end: bool = False) -> list[Sequence[str]]:
        waiting = self.state.arrivals
        is_full = sum(map(len, waiting.values())) >= self.settings.buffer_size
        return [tuple(waiting)] if waiting and (is_full or at_end) else []

    @override
    def _awaits_merge(self, cluster: str) -> bool:
        return False  # who comes while the buffer fills goes on from the present model


class FedAsync(EmsFl):
    """Mix every update into the server's model by itself, in the order of arrival.

    Source: Xie, Koyejo, Gupta 2019, arXiv 1903.03934, Algorithm 1; ``settings.server_learning_rate`` is its
    alpha, ``settings.discount`` its s. A device answers with its model, not with what it changed.
    """

    reply_with = "values"

    @override
    def _due(self, *, at_end: bool = False) -> list[Sequence[str]]:
        return [(cluster,) for cluster in self.state.arrivals]

    @override
    def _merge(self, clusters: Sequence[str]) -> Iterable[Event]:
        state, settings = self.state, self.settings
        for cluster in clusters:
            arrivals = state.arrivals.pop(cluster)
            for arrival in sorted(arrivals, key=lambda arrival: (arrival.arrived_s, arrival.node_id)):
                stale = {expert: state.version(expert) - was for expert, was in arrival.versions.items()}
                strength = {
                    expert: settings.server_learning_rate * settings.discount(s)
                    for expert, s in stale.items()
                }
                state.values = mix_in(state.values, arrival.update.arrays, strength)
                for expert in stale:
                    state.versions[expert] = state.version(expert) + 1
                state.merges += 1
                yield merged_event(cluster, state, [arrival], [stale], settings.discount)
