"""Find the weight of a router that has one row for each expert."""

from torch import nn


def weight_name(router: nn.Module, num_experts: int) -> str | None:
    """Return the name of the router's one matrix with a row for each expert; None if none or several."""
    found = [
        name
        for name, value in router.named_parameters()
        if value.is_floating_point() and value.ndim == 2 and value.shape[0] == num_experts
    ]
    return found[0] if len(found) == 1 else None


NO_ROWS = "has no single weight of one row for each expert; turn train.router-rows off for this family"
