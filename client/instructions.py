"""Who this message is for and how long there is to train.

In simulation the sky says so in the message; in deployment the node knows its cluster and devices
from its own configuration and trains for a budget of real time.
"""

import math
from dataclasses import dataclass
from typing import cast

from flwr.app import ConfigRecord, Context, Message

from client.hosting import hosted_devices
from scenario.derive import era_at
from scenario.settings.config import RunConfig
from sim.grid.transit import SKY_RECORD
from sim.population import Population
from strategy.messages import CONFIG


@dataclass(frozen=True, slots=True, kw_only=True)
class Instructions:
    """What the client works from.

    Parameters
    ----------
    cluster : str
        The node's cluster.
    devices : tuple[int, ...]
        Devices it hosts.
    steps : int
        Most local steps.
    wall_budget_s : float
        Most real seconds; infinite in simulation.
    era : int
        Which text simulated devices hold: 0, or 1 once it has drifted.
    """

    cluster: str
    devices: tuple[int, ...]
    steps: int
    wall_budget_s: float
    era: int = 0

    def sign(self, reply: Message) -> Message:
        """Return the reply; a deployed node's says which devices it is for, which nobody else knows."""
        if math.isfinite(self.wall_budget_s) and CONFIG not in reply.content:
            reply.content[CONFIG] = ConfigRecord({"cluster": self.cluster, "devices": list(self.devices)})
        return reply


def read_instructions(
    message: Message, context: Context, config: RunConfig, population: Population
) -> Instructions:
    """Return the instructions of a message.

    Raises
    ------
    ValueError
        If neither the message nor the node's configuration says whose devices these are, or they
        are not devices of one cluster of this run.
    """
    if SKY_RECORD in message.content.config_records:
        sky = message.content.config_records[SKY_RECORD]
        return Instructions(
            cluster=str(sky["cluster"]),
            devices=tuple(cast(list[int], sky["devices"])),
            steps=int(cast(int, sky["local-steps"])),
            wall_budget_s=math.inf,
            era=era_at(config, float(cast(float, sky["time-s"]))),
        )
    devices = hosted_devices(context.node_config, population)
    clusters = {population.device(device).cluster for device in devices}
    if len(clusters) != 1:
        raise ValueError(f"a node hosts devices of one cluster; {list(devices)} belong to {sorted(clusters)}")
    return Instructions(
        cluster=clusters.pop(),
        devices=devices,
        steps=config.train.max_steps,
        wall_budget_s=config.train.steps_wall_budget_s,
    )
