"""Models that take time to load, kept for the next message within a bound of bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from torch import nn

from moe.device import reclaim

Key = TypeVar("Key", bound=Hashable)


class ModelCache(Generic[Key]):
    """The models used last, as many as the bound holds; the one in use is there even if larger.

    What goes has gone before the next one is loaded, so that there is never a model more than the bound
    allows. A caller that holds on to a model it got earlier keeps its memory in use all the same.

    Parameters
    ----------
    load : callable
        Key -> its model. It must give an equal model each time: whether one is kept or loaded anew may
        change nothing but the time.
    expected_bytes : callable
        Key -> what its model will hold, known without loading it.
    max_bytes : int
        >= 0, for all of them together; 0 keeps the one in use alone.

    Raises
    ------
    ValueError
        If the bound is negative.
    """

    def __init__(
        self, load: Callable[[Key], nn.Module], *, expected_bytes: Callable[[Key], int], max_bytes: int
    ) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes of kept models must be >= 0, got {max_bytes}; 0 keeps one")
        self._load, self._expected_bytes, self._max_bytes = load, expected_bytes, max_bytes
        # Least recently used first.
        self._models: OrderedDict[Key, nn.Module] = OrderedDict()
        # Memory by address: after loading, and once more after the first use. Looking through all modules
        # of all models for every message took a tenth of a short run.
        self._memory: dict[Key, dict[int, int]] = {}
        self._is_used: set[Key] = set()

    def get(self, key: Key) -> nn.Module:
        """Return the model of a key, loaded if it is not there."""
        if key not in self._models:
            self._drop_down_to(self._max_bytes - self._expected_bytes(key))
            self._models[key] = self._load(key)
        elif key in self._is_used:
            self._models.move_to_end(key)
            return self._models[key]
        else:
            # Tables that a model computes for itself are not in what was expected.
            self._is_used.add(key)
        self._models.move_to_end(key)
        self._memory[key] = _memory(self._models[key])
        self._drop_down_to(self._max_bytes, spared=1)
        return self._models[key]

    @property
    def keys(self) -> tuple[Key, ...]:
        """Whose models are there, the least recently used first."""
        return tuple(self._models)

    @property
    def num_bytes(self) -> int:
        """Bytes of the models that are there: what they were seen to hold, or more where more is expected."""
        seen = {address: size for memory in self._memory.values() for address, size in memory.items()}
        unseen = (self._expected_bytes(key) - sum(memory.values()) for key, memory in self._memory.items())
        return sum(seen.values()) + sum(size for size in unseen if size > 0)

    def _drop_down_to(self, max_bytes: int, spared: int = 0) -> None:
        """Let the least recently used go until the rest fits, but for the last ``spared``."""
        num_kept = len(self._models)
        while len(self._models) > spared and self.num_bytes > max_bytes:
            key = next(iter(self._models))
            del self._models[key], self._memory[key]
            self._is_used.discard(key)
        if len(self._models) < num_kept:
            reclaim()


def held_bytes(models: Iterable[nn.Module]) -> int:
    """Return the bytes of the parameters and buffers of models, memory that several share once."""
    return sum({address: size for model in models for address, size in _memory(model).items()}.values())


def _memory(model: nn.Module) -> dict[int, int]:
    """Return the memory of a model's parameters and buffers: address -> bytes."""
    storages = [
        tensor.untyped_storage() for tensors in (model.parameters(), model.buffers()) for tensor in tensors
    ]
    return {storage.data_ptr(): storage.nbytes() for storage in storages}
