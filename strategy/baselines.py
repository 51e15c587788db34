"""What EMS-FL is compared with, over the same Grid."""

from flwr.serverapp.strategy import FedAvg


def fedavg(*, num_nodes: int, fraction: float) -> FedAvg:
    """Return Flower's own FedAvg: every expert, everybody asked, a barrier in every round.

    With a frozen ``A`` the average of the values is exact, as in EMS-FL, so that the comparison is
    one of splitting and asynchrony alone. It waits for whoever is out of contact, so the grid must
    show it all nodes.

    Parameters
    ----------
    num_nodes : int
        Nodes there are.
    fraction : float
        Share of them asked in every round, in (0, 1].
    """
    asked = max(1, round(fraction * num_nodes))
    return FedAvg(
        fraction_train=fraction, fraction_evaluate=0.0, min_train_nodes=asked, min_available_nodes=num_nodes
    )
