"""The layers below the lowest tuned one: frozen, so what they give for a block is computed once and kept.

Shape letters: B blocks of a batch, T tokens of a block, H hidden.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moe.half_precision import half_products
from moe.objective import is_encoder_decoder, language_model_inputs


class KeptOutputs:
    """Outputs by block within a bound of bytes; the first that come stay, as all come equally often.

    Parameters
    ----------
    max_bytes : int
        >= 0; 0 keeps nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.num_bytes = max_bytes, 0
        self._outputs: dict[Hashable, Tensor] = {}

    def get(self, key: Hashable) -> Tensor | None:
        """Return what is kept under a key."""
        return self._outputs.get(key)

    def put(self, key: Hashable, output: Tensor) -> None:
        """Keep an output if there is room."""
        size = output.numel() * output.element_size()
        if self.num_bytes + size <= self.max_bytes:
            self._outputs[key] = output
            self.num_bytes += size


class LowerLayers:
    """What the frozen layers of a model give for the blocks of one device.

    Each block runs through them by itself, whether it is kept or not: how many rows a product of matrices
    has decides its last bits, and those must not depend on what there was room for.

    Parameters
    ----------
    model : nn.Module
        What is trained.
    kept : KeptOutputs
        Shared by all devices and models of a process.
    owner : Hashable
        Names device and frozen layers; a block is known by it and its number.
    """

    def __init__(self, model: nn.Module, kept: KeptOutputs, owner: Hashable) -> None:
        self._model, self._kept, self._owner = model, kept, owner
        self._layers = frozen_layers(model)

    def __bool__(self) -> bool:
        """Tell whether there are such layers."""
        return bool(self._layers)

    def outputs(self, tokens_BT: Tensor, rows: Sequence[int]) -> Tensor:
        """Return ``[B, T, H]`` what enters the lowest tuned layer for these blocks of the device."""
        found = []
        for row, tokens_T in zip(rows, tokens_BT, strict=True):
            key = (self._owner, row)
            output = self._kept.get(key)
            if output is None:
                output = self._run(tokens_T[None])
                self._kept.put(key, output)
            found.append(output)
        return torch.cat(found)

    @contextmanager
    def skipped(self, output_BTH: Tensor) -> Iterator[None]:
        """Let the model's next passes take this in place of what the frozen layers would give.

        Everything else of the model runs as ever: embeddings, positions and masks.
        """
        for layer in self._layers[:-1]:
            layer.forward = _pass_on
        self._layers[-1].forward = lambda *_args, **_named: output_BTH
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.forward

    @torch.no_grad()
    def _run(self, tokens_1T: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def stop(_layer: nn.Module, _args: Any, output: Tensor) -> None:
            seen.append(output)
            raise _EnoughError

        handle = self._layers[-1].register_forward_hook(stop)
        try:
            with half_products(self._model):
                self._model(**language_model_inputs(self._model, tokens_1T))
        except _EnoughError:
            pass
        finally:
            handle.remove()
        return seen[0]


class _EnoughError(Exception):
    """Ends a pass where the layers above are not needed."""


def _pass_on(*args: Any, **named: Any) -> Any:
    return args[0] if args else named["hidden_states"]


def frozen_layers(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return the layers below the lowest tuned one, from the first on; empty where they cannot be skipped.

    That is so for encoder-decoders, where something outside of the layers is tuned, and where a layer
    gives more than one tensor to the next.
    """
    if is_encoder_decoder(model):
        return ()
    tuned = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    for stack in (module for module in model.modules() if isinstance(module, nn.ModuleList)):
        inside = [bool(tuned & {id(item) for item in layer.parameters()}) for layer in stack]
        if any(inside) and {id(item) for item in stack.parameters()} >= tuned:
            return tuple(stack)[: inside.index(True)]
    return ()
