"""Who hosts which device of a deployed run: a device counts once."""

from collections.abc import Collection, Sequence
from typing import cast

from flwr.app import Message

from strategy.messages import CONFIG


def read_host(reply: Message) -> tuple[str, tuple[int, ...]] | None:
    """Return the cluster and the devices a node says it hosts; None where its reply does not say."""
    record = reply.content.config_records.get(CONFIG) if reply.has_content() else None
    if record is None or not {"cluster", "devices"} <= record.keys():
        return None
    try:
        return str(record["cluster"]), tuple(int(device) for device in cast(list[int], record["devices"]))
    except (TypeError, ValueError):  # whatever a hostile node may say; as a profile it is refused by name
        return None


class Hosts:
    """Claims of nodes on devices: the first holds, and another may take over once that one is gone.

    A SuperNode without a key gets a new id at every start, so that a claim for ever would shut out a device
    whose SuperNode was started again.
    """

    def __init__(self) -> None:
        self._claims: dict[int, tuple[int, ...]] = {}
        self._holder: dict[int, int] = {}

    def claim(self, node_id: int, devices: Sequence[int], online: Collection[int]) -> str:
        """Take in what a node says it hosts; return why it is turned away, or nothing.

        Parameters
        ----------
        node_id : int
            Who says so.
        devices : Sequence[int]
            Of the population.
        online : Collection[int]
            Nodes that are connected now.
        """
        self._claims[node_id] = tuple(devices)
        taken = [device for device in devices if self._other_holder(node_id, device, online)]
        if taken:
            holders = sorted({self._holder[device] for device in taken})
            return (
                f"it says it hosts device{'s' if len(taken) > 1 else ''} {_ranges(taken)}, which node "
                f"{' and node '.join(map(str, holders))} hosts already; a device counts once: start one "
                "SuperNode for each set of devices"
            )
        self._holder.update(dict.fromkeys(devices, node_id))
        return ""

    def is_turned_away(self, node_id: int, online: Collection[int]) -> bool:
        """Tell whether another node that is online holds a device this one says it hosts."""
        return any(self._other_holder(node_id, device, online) for device in self._claims.get(node_id, ()))

    def _other_holder(self, node_id: int, device: int, online: Collection[int]) -> bool:
        holder = self._holder.get(device, node_id)
        return holder != node_id and holder in online


def _ranges(numbers: Sequence[int]) -> str:
    """Return sorted whole numbers as ``0-3, 7``."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
