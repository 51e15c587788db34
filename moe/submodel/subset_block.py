"""A family's block around the kept experts, where it calls them in a way of its own.

Shape letters: B sequences, T tokens (of all sequences when flat), H hidden.
"""

from typing import Any

from torch import Tensor, nn

from moe.families.blocks import MoEBlock


class SubsetBlock(nn.Module):
    """Stand-in for a whole block: its router and shared parts, under their names, and the family's call.

    ``experts`` is empty until the caller puts the kept experts there.

    Parameters
    ----------
    block : MoEBlock
        The block it replaces.
    """

    def __init__(self, block: MoEBlock) -> None:
        super().__init__()
        self._family = block.family
        for name, child in block.family.parent.named_children():
            if name not in block.held_children:
                self.add_module(name, child)
        for name, parameter in block.family.parent.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        self.add_module("experts", nn.Module())

    def forward(self, hidden: Tensor) -> Any:
        """Return what the family's block returns, of ``[B, T, H]`` or ``[T, H]``."""
        flat_TH = hidden.reshape(-1, hidden.shape[-1])
        output = self.get_submodule("router")(hidden if self._family.routes_sequences else flat_TH)
        routing = self._family.route(output)
        routed: Tensor = self.get_submodule("experts")(flat_TH, *routing)
        return self._family.finish(self, flat_TH, routed.view_as(hidden), routing)
