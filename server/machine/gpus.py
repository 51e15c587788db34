"""What the workers of a simulation get of a machine's GPUs."""

import math


def workers_on_gpus(client_gpus: float, num_gpus: int) -> float:
    """Return how many workers find room on the GPUs; infinite where they ask for none.

    A share lies on one GPU: two workers with 0.4 fit on it, and on two GPUs four, not five. Flower divides
    the sum, and would wait for a fifth worker that Ray can never start.

    Parameters
    ----------
    client_gpus : float
        GPUs of each worker: a share in [0, 1], or a whole number.
    num_gpus : int
        GPUs of this machine, >= 0.

    Examples
    --------
    >>> workers_on_gpus(0.4, 2), workers_on_gpus(2, 5), workers_on_gpus(0, 1)
    (4, 2, inf)
    """
    if client_gpus == 0:
        return math.inf
    if client_gpus >= 1:
        return num_gpus // int(client_gpus)
    # Ray counts in ten-thousandths of a GPU.
    return num_gpus * (10_000 // max(1, round(client_gpus * 10_000)))


def check_clients_device(device: str, client_gpus: float) -> None:
    """Refuse clients that must compute on a GPU and are given none.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda"}
        ``model.device`` of the run.
    client_gpus : float
        GPUs of each worker.

    Raises
    ------
    ValueError
        If every client of a simulation would refuse every message for want of a GPU.
    """
    if device == "cuda" and client_gpus == 0:
        raise ValueError(
            'model.device is "cuda", and the clients of the simulation see no GPU unless they are given a '
            'share of one: add --client-gpus 0.5 (two clients share a GPU), or set model.device to "auto"'
        )
