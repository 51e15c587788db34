"""FedAvg and FedProx: Flower's own, which end with the horizon.

Every expert, everybody asked, a barrier in every round. With a frozen ``A`` the average of the values is
exact, as in EMS-FL, so that the comparison is one of splitting and asynchrony alone. A round that the horizon
cuts is not averaged: those who were back by chance would spoil what the whole rounds have reached.
"""

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from typing_extensions import override

from strategy.replies import MAX_REASON_LENGTH, error_text

POLL_INTERVAL_S = 1.0
"""Real seconds between two looks at who is here."""


class HorizonReachedError(Exception):
    """There is no time for another round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What came of one round.

    Parameters
    ----------
    number : int
        From 1.
    asked, answered : int
        Nodes.
    failures : Mapping[int, str]
        Why, by node, of those that answered with an error.
    is_cut : bool
        Whether the horizon came before every node had answered; nothing of such a round is kept.
    train_loss : float or None
        Mean over what was trained, weighted by examples, nats a token; None if nobody trained.
    """

    number: int
    asked: int
    answered: int
    failures: Mapping[int, str]
    is_cut: bool
    train_loss: float | None


class BoundedFedAvg(FedAvg):
    """FedAvg that begins no round after the horizon and keeps nothing of one that the horizon cuts.

    Flower's own goes through all its rounds and evaluates after each, though nobody can answer any more. It
    waits for whoever is out of contact, so the grid must show it all nodes.

    Parameters
    ----------
    num_nodes : int
        Nodes there must be before a round begins.
    fraction : float
        Share of the nodes asked in every round, in (0, 1].
    seed : int
        Of who is asked, in which order. Flower draws from Python's global generator, which Flower's own
        threads draw from too.
    server_learning_rate : float
        How far the server goes from its model to the average, > 0; 1 is FedAvg (Reddi et al. 2021, eta).
    proximal_mu : float
        >= 0; above 0 it is FedProx (Li et al. 2020, arXiv 1812.06127), whose term the client adds.
    is_over : callable
        Whether the horizon is reached.
    on_round : callable
        Receives every `Round` before the model is measured.
    on_wait : callable
        Told who is awaited while there are too few nodes.
    """

    def __init__(
        self,
        *,
        num_nodes: int,
        fraction: float,
        seed: int,
        server_learning_rate: float = 1.0,
        proximal_mu: float = 0.0,
        is_over: Callable[[], bool],
        on_round: Callable[[Round], None],
        on_wait: Callable[[str], None],
    ) -> None:
        asked = max(1, round(fraction * num_nodes))
        super().__init__(
            fraction_train=fraction,
            fraction_evaluate=0.0,
            min_train_nodes=asked,
            min_available_nodes=num_nodes,
        )
        self._is_over, self._on_round, self._on_wait = is_over, on_round, on_wait
        self._server_learning_rate, self._proximal_mu = server_learning_rate, proximal_mu
        self._asked, self._sent = 0, ArrayRecord()
        self._random_state = random.Random(seed).getstate()

    @override
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return a round's orders; as Flower's.

        Raises
        ------
        HorizonReachedError
            If there is no time for the round, or the nodes did not come in time.
        """
        while not self._is_over() and (here := len(list(grid.get_node_ids()))) < self.min_available_nodes:
            self._on_wait(f"waiting for nodes: {here} of at least {self.min_available_nodes} are here")
            time.sleep(POLL_INTERVAL_S)
        if self._is_over():
            raise HorizonReachedError
        if self._proximal_mu:
            config["proximal-mu"] = self._proximal_mu
        self._sent = arrays
        random.setstate(self._random_state)
        orders = list(super().configure_train(server_round, arrays, config, grid))
        self._random_state = random.getstate()
        self._asked = len(orders)
        return orders

    @override
    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Average what came, unless the horizon cut the round; as Flower's."""
        replies = list(replies)
        is_cut = len(replies) < self._asked and self._is_over()
        arrays, metrics = super().aggregate_train(server_round, replies)
        failures = {
            reply.metadata.src_node_id: error_text(reply.error)[:MAX_REASON_LENGTH]
            for reply in replies
            if reply.has_error()
        }
        loss = metrics.get("train-loss") if metrics is not None else None
        self._on_round(
            Round(
                number=server_round,
                asked=self._asked,
                answered=len(replies) - len(failures),
                failures=failures,
                is_cut=is_cut,
                train_loss=float(loss) if isinstance(loss, int | float) else None,
            )
        )
        if is_cut:
            return None, None
        return arrays if arrays is None else self._step_to(arrays), metrics

    def _step_to(self, mean: ArrayRecord) -> ArrayRecord:
        """Return the server's arrays moved toward the devices' mean."""
        if self._server_learning_rate == 1.0:
            return mean
        moved = {}
        for name, array in mean.items():
            old = self._sent[name].numpy().astype(np.float64)
            step = self._server_learning_rate * (array.numpy().astype(np.float64) - old)
            moved[name] = Array((old + step).astype(array.numpy().dtype))
        return ArrayRecord(moved)
