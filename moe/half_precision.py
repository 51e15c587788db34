"""Half precision on a CPU that has no instructions for it.

There torch 2.13 multiplies matrices in bfloat16 and float16 element by element in some layouts, among
them the one that backward needs: 500 times slower than in float32 (docs/LOG.md). So the products are made
in float32, a piece of the weight at a time, and rounded once: the model keeps its size in memory.
"""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_ATEN = torch.ops.aten
# Elements of an operand that are held in float32 at a time: 64 MB.
_PIECE = 1 << 24


def half_products(model: nn.Module) -> AbstractContextManager[object]:
    """Return a context in which a model in half precision is not slowed down by its processor.

    It changes nothing for a model in float32, on a GPU, or on a CPU with instructions for the type.
    """
    parameter = next(model.parameters())
    is_native = {
        torch.bfloat16: torch.ops.mkldnn._is_mkldnn_bf16_supported,
        torch.float16: torch.ops.mkldnn._is_mkldnn_fp16_supported,
    }
    types = {p.dtype for p in model.parameters()} & is_native.keys()
    if parameter.device.type != "cpu" or all(is_native[dtype]() for dtype in types):
        return nullcontext()
    return ProductsInFloat32()


class ProductsInFloat32(TorchDispatchMode):
    """Makes every product of matrices in half precision on the CPU in float32, rounded once."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation of torch."""
        options = dict(kwargs or {})
        if not options and func in (_ATEN.mm.default, _ATEN.addmm.default) and _is_half(args[0]):
            *bias, left_MK, right_KN = args
            out_MN = _product(left_MK, right_KN)
            return (out_MN + bias[0] if bias else out_MN).to(left_MK.dtype)
        if func is _ATEN.bmm.default and _is_half(args[0]):
            return func(args[0].float(), args[1].float()).to(args[0].dtype)
        return func(*args, **options)


def _is_half(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype in (torch.bfloat16, torch.float16)


def _product(left_MK: Tensor, right_KN: Tensor) -> Tensor:
    """Return the product in float32; operands are converted a piece of K at a time."""
    size = max(1, _PIECE // max(1, left_MK.shape[0], right_KN.shape[1]))
    out_MN = left_MK.new_zeros(left_MK.shape[0], right_KN.shape[1], dtype=torch.float32)
    for left, right in zip(left_MK.split(size, dim=1), right_KN.split(size, dim=0), strict=True):
        out_MN.addmm_(left.float(), right.float())
    return out_MN
