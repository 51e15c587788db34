"""A second device for machines that have only a CPU.

Its tensors compute on the CPU, exactly, but are on a device of their own: an operation that mixes them
with the CPU's tensors is refused as on a GPU, and so is reading one as a numpy array. What a test computes
on it must therefore be moved there and back as on a GPU. It says nothing about a GPU's kernels or rounding.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = "second"


def _histc(numbers: Tensor, *bins: int) -> Tensor:
    return torch.histc(numbers.float(), *bins).to(numbers.dtype)


def _topk(numbers: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    """Choose among equal numbers the last: torch leaves it open, and a GPU chooses otherwise than the CPU."""
    if numbers.dim() == 0:
        return torch.topk(numbers, k, dim, largest, sorted)
    found = torch.sort(numbers.flip(dim), stable=True, dim=dim, descending=largest)
    values, places = (part.narrow(dim, 0, k) for part in found)
    return torch.return_types.topk((values, numbers.shape[dim] - 1 - places))


_INSTEAD: Mapping[Any, Any] = {
    # torch's lazy conjugate is undone above the level at which `_run` works: there it would be forgotten.
    torch.ops.aten._conj.default: torch.ops.aten.conj_physical.default,
    torch.ops.aten._neg_view.default: torch.ops.aten.neg.default,
    # transformers' experts count whole numbers with it wherever they are not on the CPU, which cannot.
    torch.ops.aten.histc.default: _histc,
}
# Not on the CPU, whose own choice it must differ from.
_INSTEAD_FAR: Mapping[Any, Any] = {**_INSTEAD, torch.ops.aten.topk.default: _topk}


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Yield the device; outside the context nothing can be computed on it."""
    _register()
    # Without it torch.tensor(..., device=...) is made below the level at which `_run` works.
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)
    try:
        with _Dispatch():
            yield torch.device(NAME, 0)
    finally:
        torch._C._set_only_lift_cpu_tensors(before)


def _register() -> None:
    if torch._C._get_privateuse1_backend_name() == NAME:
        return
    # torch's own scaffold for a device written in Python: streams and guards that do nothing.
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module(), _Hidden())


class _Module(backend_registration._DummyBackendModule):
    """What would be ``torch.cuda``; its random numbers are the CPU's."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class _Hidden(backend_registration._DummyPrivateUse1Hook):
    """Keeps ``torch.accelerator`` from offering the device to other tests of this process."""

    def is_available(self) -> bool:
        return False


class _Far(Tensor):
    """A tensor on the second device; ``near`` holds its values."""

    near: Tensor

    @staticmethod
    def __new__(cls, near: Tensor) -> "_Far":
        far: _Far = torch.Tensor._make_wrapper_subclass(
            cls,
            near.size(),
            strides=near.stride(),
            storage_offset=near.storage_offset(),
            dtype=near.dtype,
            device=torch.device(NAME, 0),
        )
        far.near = near
        return far

    # torch types its own, which does nothing, without the class.
    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Iterable[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})

    def tolist(self) -> Any:
        """Return Python numbers, as any device can; torch refuses it to subclasses."""
        return self.near.tolist()

    def untyped_storage(self) -> torch.UntypedStorage:
        """Return the memory that the values lie in."""
        return self.near.untyped_storage()

    def __format__(self, spec: str) -> str:
        return format(self.near, spec)


class _Dispatch(TorchDispatchMode):
    """Sees also the operations that have no tensor of the device yet, such as the first move to it."""

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    far = [leaf for leaf in leaves if isinstance(leaf, _Far)]
    wish = kwargs.get("device")
    is_copy = func is torch.ops.aten.copy_.default
    # As on a GPU, a number (a tensor without axes) may stay on the CPU.
    near = [leaf for leaf in leaves if isinstance(leaf, Tensor) and not isinstance(leaf, _Far) and leaf.dim()]
    if far and near and not is_copy:
        shapes = [tuple(leaf.shape) for leaf in near]
        raise RuntimeError(f"{func}: tensors on {NAME} and on {near[0].device} {shapes}")
    goes_far = bool(far) if wish is None else torch.device(wish).type == NAME
    if goes_far and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError(f"{func}: a generator of the CPU for a tensor on {NAME}")
    if wish is not None and goes_far:
        kwargs = {**kwargs, "device": "cpu"}
    instead = _INSTEAD_FAR if goes_far else _INSTEAD
    found = instead.get(func, func)(*tree_map_only(_Far, _near, args), **tree_map_only(_Far, _near, kwargs))
    if is_copy:
        return args[0]
    if not goes_far:
        return found
    # What an operation changed in place stays the tensor it was.
    known = {id(tensor.near): tensor for tensor in far}
    return tree_map_only(
        Tensor, lambda tensor: known[id(tensor)] if id(tensor) in known else _Far(tensor), found
    )


def _near(tensor: _Far) -> Tensor:
    return tensor.near
