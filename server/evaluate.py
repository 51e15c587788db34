"""Two measures, always both, on every cluster's held-out text.

A cluster's *own sub-model* is what its devices can run; the *merged model* under its full router is
what the server has. They differ: most tokens of a domain go to other clusters' experts under the
full router (docs/design.md).
"""

from collections.abc import Mapping
from functools import cache

import numpy as np
from numpy.typing import NDArray
from torch import nn

from moe.device import choose_device
from moe.disk.tokens import load_tokenizer
from moe.examples_apart import keeps_examples_apart
from moe.experts import ExpertArrays, ExpertId, Tuning
from moe.objective import mean_loss
from moe.tuning.adapters import MergedModel, set_arrays
from scenario.data.federated_text import FederatedText
from scenario.derive import block_form
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
        tokenizer = load_tokenizer(path)
        self._config, self._path, self._tuning = config, path, tuning
        self._dtype = config.model.dtype
        self._several: bool | None = None if text.holds_examples else False

        def pack(several: bool) -> Mapping[str, NDArray[np.int64]]:
            form, most = block_form(config), config.data.heldout_examples
            return {
                name: text.pack_heldout(tokenizer, name, form, most, several=several) for name in clusters
            }

        self._pack = cache(pack)
        self._merged: MergedModel | None = None
        self._submodels = TunedModels(config, path, tuning)

    def merged(self, values: ExpertArrays) -> dict[str, float]:
        """Return the loss of the merged model under its full router, by cluster; nats per token."""
        if self._merged is None:
            device = choose_device(self._config.model.device)
            streamed = self._config.evaluate.streamed
            self._merged = MergedModel(self._path, self._tuning, self._dtype, device, streamed=streamed)
        self._merged.set(values)
        batch = self._config.evaluate.batch_size
        heldout = self._heldout(self._merged.model)
        return {name: mean_loss(self._merged.model, rows, batch) for name, rows in heldout.items()}

    def submodel(self, cluster: str, experts: tuple[ExpertId, ...], values: ExpertArrays) -> float:
        """Return the loss of a cluster's own sub-model on its own text; nats per token."""
        model = self._submodels.submodel(experts)
        set_arrays(model, {key: value for key, value in values.items() if key.expert in set(experts)})
        return mean_loss(model, self._heldout(model)[cluster], self._config.evaluate.batch_size)

    def _heldout(self, model: nn.Module) -> Mapping[str, NDArray[np.int64]]:
        """Return the held-out blocks by cluster; of examples, several in one if a model keeps them apart."""
        if self._several is None:
            self._several = keeps_examples_apart(model)
        return self._pack(self._several)
