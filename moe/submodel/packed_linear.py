"""Linear layers that hold their weight in the few bits of the file, and expand it as it is used.

QLoRA's way (arXiv 2305.14314): what is frozen stays small, what is trained is beside it. The expanded weight
lives for one product; the way back expands it again, for it would else be kept for every layer at once.
"""

from typing import Any

import torch
from torch import Tensor, nn

from moe.disk.shards import PackedWeight


class PackedLinear(nn.Linear):
    """Linear layer whose frozen weight is packed.

    It computes what a layer with the expanded weight computes, to the bit.

    Parameters
    ----------
    packed : PackedWeight
        The weight.
    bias : Tensor or None
        The bias, frozen.
    adds_bias_after : bool
        Whether the bias is added after the product, as experts do; other layers add it within.
    """

    def __init__(self, packed: PackedWeight, bias: Tensor | None, *, adds_bias_after: bool = False) -> None:
        nn.Module.__init__(self)  # nn.Linear would make a weight
        self.out_features, self.in_features = packed.shape
        self._expand, self._adds_bias_after = packed.expand, adds_bias_after
        self._kinds = {key: (tensor.dtype, tensor.shape) for key, tensor in packed.raw.items()}
        for place, tensor in enumerate(packed.raw.values()):
            # As bytes: a change of the model's type must not touch them.
            value = tensor.contiguous().reshape(-1).view(torch.uint8)
            self.register_buffer(f"packed_{place}", value, persistent=False)
        self.register_parameter("bias", None if bias is None else nn.Parameter(bias, requires_grad=False))

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weight ``[out, in]``, expanded anew each time it is asked for."""
        with torch.no_grad():
            return self._expand(
                {
                    key: self.get_buffer(f"packed_{place}").view(dtype).reshape(shape)
                    for place, (key, (dtype, shape)) in enumerate(self._kinds.items())
                }
            )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x @ weight.T + bias``."""
        if self.bias is None or not self._adds_bias_after:
            product: Tensor = _Product.apply(x, self.bias, self)
            return product
        product = _Product.apply(x, None, self)
        return product + self.bias.to(x.dtype)


class _Product(torch.autograd.Function):
    """The product with a weight that is expanded on the way there, and again on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        return nn.functional.linear(x, layer.weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.weight.to(gradient.dtype), None, None
