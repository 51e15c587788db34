"""What stands for all experts of a layer: called there, the full model's routing can be seen."""

from torch import nn

from moe.families.blocks import MoEBlock


class WholeLayer(nn.Module):
    """Mark of an experts module to which every choice of its router comes, whatever it makes of it.

    Attributes
    ----------
    layer : int
        Number of the layer.
    block : MoEBlock
        The block whose experts it stands for.
    is_skipped : bool
        Whether nobody will look at what it gives, so that it may give zeros.
    """

    layer: int
    block: MoEBlock
    is_skipped: bool = False


def whole_layers(model: nn.Module) -> tuple[WholeLayer, ...]:
    """Return the modules that stand for all experts of their layers, by layer; empty for other models."""
    found = (module for module in model.modules() if isinstance(module, WholeLayer))
    return tuple(sorted(found, key=lambda module: module.layer))
