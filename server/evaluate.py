"""Two measures, always both, on every cluster's held-out text.

A cluster's *own sub-model* is what its devices can run; the *merged model* under its full router is
what the server has. They differ: most tokens of a domain go to other clusters' experts under the
full router (docs/design.md).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from hashlib import sha256
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from moe.device import choose_device
from moe.disk.tokens import load_tokenizer
from moe.examples_apart import keeps_examples_apart
from moe.experts import ExpertArrays, ExpertId, Tuning, held_with
from moe.objective import mean_loss, summed_losses
from moe.submodel.routing import batches_of, routing_mass
from moe.tuning.adapters import MergedModel, set_arrays
from scenario.data.federated_text import FederatedText
from scenario.data.questions import Questions
from scenario.derive import block_form, drifted_text, era_at
from scenario.settings.config import RunConfig
from scenario.tuned_models import TunedModels


class Evaluator:
    """Held-out losses of one run.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    path : str
        Folder of the base checkpoint.
    tuning : Tuning
        How experts are tuned.
    text : FederatedText
        Whose held-out texts are measured on.
    clusters : sequence of str
        By name.
    """

    def __init__(
        self, config: RunConfig, path: str, tuning: Tuning, text: FederatedText, clusters: tuple[str, ...]
    ) -> None:
        tokenizer = self._tokenizer = load_tokenizer(path)
        self._config, self._path, self._tuning = config, path, tuning
        self._dtype = config.model.dtype
        self._several: bool | None = None if text.holds_examples else False

        def text_of(era: int) -> FederatedText:
            return drifted_text(config, text) if era else text

        def pack(several: bool, era: int) -> Mapping[str, NDArray[np.int64]]:
            form, most, of = block_form(config), config.data.heldout_examples, text_of(era)
            return {name: of.pack_heldout(tokenizer, name, form, most, several=several) for name in clusters}

        def questions(cluster: str, era: int) -> Questions:
            length = config.data.sequence_length
            return text_of(era).questions(tokenizer, cluster, config.evaluate.choices, length)

        self._pack, self._questions = cache(pack), cache(questions)
        self._era = 0
        self._merged: MergedModel | None = None
        self._submodels = TunedModels(config, path, tuning)
        # The values that a run begins and ends with are measured twice: as it goes, and for its summary. And
        # most clusters' own experts are the same at two measurements in a row.
        self._known: dict[bytes, Any] = {}

    def turn_to(self, time_s: float) -> None:
        """Measure from now on what clusters hold out at this time of the run; see ``data.drift-hours``."""
        self._era = era_at(self._config, time_s)

    def merged(self, values: ExpertArrays) -> dict[str, float]:
        """Return the loss of the merged model under its full router, by cluster; nats per token."""
        return dict(self._remembered(self._digest("", values), lambda: self._measure_merged(values)))

    def routing(self, values: ExpertArrays) -> dict[str, list[NDArray[np.float64]]]:
        """Return the gate mass [E] of every MoE layer that the merged model gives each cluster's text.

        That is a profile by the experts themselves, of what the cluster holds out.
        """
        model, batch = self.merged_with(values), self._config.evaluate.batch_size
        return {
            name: list(routing_mass(cast(PreTrainedModel, model), batches_of(rows, batch)))
            for name, rows in self._pack(False, self._era).items()
        }

    def submodel(self, cluster: str, experts: tuple[ExpertId, ...], values: ExpertArrays) -> float:
        """Return the loss of a cluster's own sub-model on its own text; nats per token."""
        own = held_with(set(experts), values)
        digest = self._digest(cluster, own)
        return float(self._remembered(digest, lambda: self._measure_submodel(cluster, experts, own)))

    def _remembered(self, digest: bytes, measure: Callable[[], Any]) -> Any:
        """Return what was measured for these values before, or measure; a number takes no room."""
        if digest not in self._known:
            self._known[digest] = measure()
        return self._known[digest]

    def _measure_merged(self, values: ExpertArrays) -> dict[str, float]:
        model, batch = self.merged_with(values), self._config.evaluate.batch_size
        return {name: mean_loss(model, rows, batch) for name, rows in self._blocks(model).items()}

    def _measure_submodel(self, cluster: str, experts: tuple[ExpertId, ...], own: ExpertArrays) -> float:
        model = self.submodel_with(experts, own)
        return mean_loss(model, self._blocks(model)[cluster], self._config.evaluate.batch_size)

    def merged_with(self, values: ExpertArrays) -> nn.Module:
        """Return the merged model with these values; it is the same model at every call."""
        if self._merged is None:
            device = choose_device(self._config.model.device)
            streamed = self._config.evaluate.streamed
            hold = self._config.model.hold if streamed else "dequantised"
            self._merged = MergedModel(
                self._path, self._tuning, self._dtype, device, streamed=streamed, hold=hold
            )
        return self._merged.set(values).model

    def submodel_with(self, experts: tuple[ExpertId, ...], values: ExpertArrays) -> nn.Module:
        """Return the sub-model of these experts with their values; it may be the same model next time."""
        model = self._submodels.submodel(experts)
        set_arrays(model, held_with(set(experts), values))
        return model

    def model_of(self, experts: Sequence[ExpertId], values: ExpertArrays) -> nn.Module:
        """Return the sub-model of these experts, or for none the merged model, with these values."""
        return self.submodel_with(tuple(experts), values) if experts else self.merged_with(values)

    def accuracy(self, cluster: str, experts: Sequence[ExpertId], values: ExpertArrays) -> float:
        """Return how many of a cluster's held-out questions a model answers as the data does; a share.

        Parameters
        ----------
        cluster : str
            Whose questions.
        experts : sequence of ExpertId
            Of the sub-model that answers; empty for the merged model.

        Notes
        -----
        The answer chosen is the one with the highest probability, all its tokens together: ``acc`` of the
        lm-evaluation-harness (github.com/EleutherAI/lm-evaluation-harness). Of equal ones the first.
        """
        asked = self._questions(cluster, self._era)
        model, batch = self.model_of(experts, values), self._config.evaluate.batch_size
        losses = summed_losses(model, asked.blocks.reshape(-1, *asked.blocks.shape[2:]), batch)
        chosen_Q = losses.reshape(asked.blocks.shape[:2]).argmin(axis=1)
        return float((chosen_Q == asked.right).mean())

    def heldout(self, cluster: str) -> NDArray[np.int64]:
        """Return held-out blocks of a cluster, token ids ``[N, T]``, or of one example each ``[N, 3, T]``."""
        return self._pack(False, self._era)[cluster]

    def _blocks(self, model: nn.Module) -> Mapping[str, NDArray[np.int64]]:
        """Return the held-out blocks by cluster; of examples, several in one if a model keeps them apart."""
        if self._several is None:
            self._several = keeps_examples_apart(model)
        return self._pack(self._several, self._era)

    def _digest(self, of: str, values: ExpertArrays) -> bytes:
        """Return what is the same exactly for the same values on the same text."""
        digest = sha256(f"{self._era} {of}".encode())
        for key in sorted(values):
            digest.update(f"{key}{values[key].dtype}{values[key].shape}".encode())
            digest.update(np.ascontiguousarray(values[key]).data)
        return digest.digest()

    def text(self, tokens: NDArray[np.int64]) -> str:
        """Return token ids as people read them."""
        return str(self._tokenizer.decode(tokens.tolist(), skip_special_tokens=True))
