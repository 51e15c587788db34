"""What a client process keeps between messages: data, tokenizer, sub-models, each loaded once.

Everything is derived from the run configuration alone, so that any process, on any machine, on
whatever Ray worker, does the same work for the same device; but a node of a deployment may bring data.
"""

from collections.abc import Collection, Mapping
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import torch
from flwr.app import Context
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from client.hosting import PART, OwnData, node_population, own_data, own_text
from client.lower_layers import KeptOutputs, LowerLayers
from client.profile_noise import noise_stream, noised
from client.train import TrainSpec
from moe.delivery.part import held_experts
from moe.disk.layout import open_storage, read_layout, trust_code_of
from moe.disk.tokens import load_tokenizer
from moe.examples_apart import keeps_examples_apart
from moe.experts import ExpertId, Tuning
from moe.export.checkpoint import fingerprint
from moe.held import Held
from moe.submodel.routing import batches_of, routing_mass
from scenario.data.federated_text import FederatedText
from scenario.derive import block_form, drifted_text, text_from, tuning_from
from scenario.model_name import resolve_model_name
from scenario.settings.config import RunConfig, Scalar
from scenario.settings.reading import read_config
from scenario.tuned_models import MEGABYTE, TunedModels
from sim.population import Population

DEVICES_KEPT = 4096
"""Devices whose token blocks and routing a process remembers. The blocks of all are about twice the bytes
of the text, which every process holds anyway."""


class ClientState:
    """One process's view of a run.

    Parameters
    ----------
    config : RunConfig
        Of the run.
    own : OwnData or None
        What this node brings itself; None: its devices hold shares of the run's data.
    part : str
        Folder of the node's own part of the checkpoint; empty: it has the run's, whole.
    """

    def __init__(self, config: RunConfig, own: OwnData | None = None, part: str = "") -> None:
        self.config, self.own = config, own
        self.path = part or str(resolve_model_name(config.model.name))
        if config.model.trust_remote_code:
            trust_code_of(self.path)
        self.blocks = lru_cache(DEVICES_KEPT)(self._pack)
        # Kept, so that who asks again gets the same noise and cannot average it away.
        self.mass = lru_cache(DEVICES_KEPT)(self._profile)
        self._kept_outputs = KeptOutputs(int(config.train.kept_outputs_mb * MEGABYTE))
        self._models = TunedModels(config, self.path, self.tuning)

    @cached_property
    def population(self) -> Population:
        """Who lives where."""
        return node_population(self.own, self.config)

    @cached_property
    def tuning(self) -> Tuning:
        """How experts are tuned in this run."""
        return tuning_from(self.config, read_layout(self.path, self.config.model.dtype).layers)

    @cached_property
    def frozen_experts(self) -> frozenset[ExpertId]:
        """Every expert of the layers that are not tuned."""
        layout = read_layout(self.path, self.config.model.dtype)
        return frozenset(expert for expert in layout.experts if not self.tuning.tunes(expert.layer))

    @cached_property
    def fingerprint(self) -> str:
        """Of the base checkpoint this machine holds, or holds parts of."""
        return fingerprint(self.path)

    def held_experts(self) -> tuple[ExpertId, ...]:
        """Return the experts that are on this machine, ascending; none where it has the whole checkpoint."""
        return () if self._is_whole else tuple(sorted(held_experts(open_storage(self.path))))

    def lacking(self, experts: Collection[ExpertId]) -> frozenset[ExpertId]:
        """Return those of the experts that were not delivered to this machine."""
        if self._is_whole:
            return frozenset()
        return frozenset(experts) - held_experts(open_storage(self.path), experts)

    @cached_property
    def _is_whole(self) -> bool:
        return Held.read(Path(self.path)) is None

    def memory_bytes(self, device_id: int) -> int:
        """Return what the device can hold."""
        if self.own and self.own.memory_mb:
            return int(self.own.memory_mb * MEGABYTE)
        return self.population.device(device_id).memory_bytes

    def submodel(self, experts: frozenset[ExpertId]) -> nn.Module:
        """Return the sub-model of these experts; its tuned arrays have whatever values were set last."""
        return self._models.submodel(experts)

    def lower_layers(
        self, model: nn.Module, experts: frozenset[ExpertId], device_id: int, era: int = 0
    ) -> LowerLayers | None:
        """Return what the frozen layers below the tuned ones give for a device; None where it is not kept."""
        if not self._kept_outputs.max_bytes:
            return None
        frozen = frozenset(expert for expert in experts if not self.tuning.tunes(expert.layer))
        return LowerLayers(model, self._kept_outputs, (device_id, era, frozen)) or None

    def train_spec(self, steps: int, wall_budget_s: float, proximal_mu: float = 0.0) -> TrainSpec:
        """Return how to train for so many steps, or for so long."""
        settings = self.config.train
        return TrainSpec(
            steps=steps,
            wall_budget_s=wall_budget_s,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            optimizer=settings.optimizer,
            weight_decay=settings.weight_decay,
            max_grad_norm=settings.max_grad_norm,
            micro_batches=settings.micro_batches,
            gradient_checkpointing=settings.gradient_checkpointing,
            proximal_mu=proximal_mu,
        )

    @cached_property
    def _text(self) -> FederatedText:
        if self.own:
            return own_text(self.own, self.config, self.population)
        return text_from(self.config, self.population)

    @cached_property
    def _drifted(self) -> FederatedText:
        return drifted_text(self.config, self._text)

    @cached_property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        return load_tokenizer(self.path)

    def _pack(self, device_id: int, era: int = 0) -> NDArray[np.int64]:
        """Return the device's token blocks [N, T], of examples [N, 3, T]; of era 1 those it drifts to."""
        text = self._drifted if era else self._text
        several = text.holds_examples and self._keeps_apart
        return text.pack_device(self._tokenizer, device_id, block_form(self.config), several=several)

    @cached_property
    def _keeps_apart(self) -> bool:
        return keeps_examples_apart(self._models.profiling())

    @cached_property
    def heldout(self) -> NDArray[np.int64] | None:
        """What a node that brings its data never trains on, in blocks; None where the server has it."""
        if self.own is None:
            return None
        (cluster,) = self._text.clusters
        several = self._text.holds_examples and self._keeps_apart
        most = self.config.data.heldout_examples
        return self._text.pack_heldout(
            self._tokenizer, cluster, block_form(self.config), most, several=several
        )

    def sample(self, device_id: int, era: int = 0) -> tuple[Tensor, ...]:
        """Return batches of the blocks by which a device's routing is judged."""
        rows = self.blocks(device_id, era)[: self.config.profile.examples]
        return batches_of(rows, self.config.evaluate.batch_size)

    def _profile(self, device_id: int, era: int = 0) -> tuple[NDArray[np.float64], ...]:
        """Return the gate mass [E] per MoE layer of a sample of the device's blocks, as it may leave it."""
        exact = tuple(routing_mass(self._models.profiling(), self.sample(device_id, era)))
        noise, simulated = self.config.profile.noise, self.config.sky.simulated
        if not noise:
            return exact
        return noised(exact, noise, noise_stream(self.config.seed, device_id, era, simulated=simulated))


def client_state(context: Context) -> ClientState:
    """Return this process's client_state for the run of ``context``."""
    # One thread: results must not depend on how many workers share the cores.
    torch.set_num_threads(1)
    own = own_data(context.node_config, context.node_id)
    is_delivered = context.run_config.get("model.delivery", "beforehand") != "beforehand"
    part = str(context.node_config.get(PART, "")) if is_delivered else ""
    return _client_state(tuple(sorted(context.run_config.items())), own, part)


@lru_cache(1)
def _client_state(run_config: tuple[tuple[str, Scalar], ...], own: OwnData | None, part: str) -> ClientState:
    settings: Mapping[str, Scalar] = dict(run_config)
    return ClientState(read_config(settings), own, part)


def part_folder(context: Context) -> Path:
    """Return where a node keeps what it is sent of the model.

    Raises
    ------
    ValueError
        If its configuration does not say, or says a folder by half of its name.
    """
    named = context.node_config.get(PART)
    if not named or not Path(str(named)).is_absolute():
        raise ValueError(
            f"this node is sent pieces of the model, and {PART} of its --node-config, which says where to "
            f"keep them, must be an absolute folder, got {named!r}; start its SuperNode with --node-config "
            f"'{PART}=\"/data/model\"'"
        )
    return Path(str(named))
