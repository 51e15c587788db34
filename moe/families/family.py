"""What differs between families: where a block keeps its experts, and how it is called.

Nearly all families are a `FusedFamily`. Each of the others is one small class in
`moe.families.special_families` that says the same few things; no other file asks which family it has.

Shape letters: T tokens (of all sequences), H hidden, E experts, Z identity experts, K choices per token.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn


class Routing(NamedTuple):
    """Which experts each token goes to.

    Parameters
    ----------
    choice, weight : Tensor ``[T, K]``
        The chosen experts and their weights.
    logits : Tensor ``[T, E + Z]``
        The router's, of all experts.
    """

    choice: Tensor
    weight: Tensor
    logits: Tensor


class ModelFamily:
    """How the blocks of a family hold their experts and are called; the defaults fit most.

    Stored tensors are named relative to the module that holds them, such as ``gate_up_proj``.

    Parameters
    ----------
    parent : Module
        The family's block: what has a router and experts.
    experts : Module
        What holds the expert tensors.
    """

    holder: str = "experts"
    """Child of the block that holds the expert tensors; empty: the block itself."""
    projections: Mapping[str, tuple[str, ...]] = {"fc_in": ("gate_up_proj",), "fc_out": ("down_proj",)}
    """``fc_in`` and ``fc_out`` -> the stored tensors that make it, one below the other."""
    transposed: frozenset[str] = frozenset()
    """Tensors stored ``[in, out]`` rather than ``[out, in]``."""
    expert_prefix: str = ""
    """Where each expert has tensors of its own: how their names begin, ``{}`` for its number."""
    is_block_replaced: bool = True
    """Whether the block calls its experts in its own way, so that a sub-model must replace it whole."""
    routes_sequences: bool = False
    """Whether the router wants ``[B, T, H]``, because it counts the tokens of a sequence."""
    weighs_input: bool = False
    """Whether the router's weight multiplies what goes into an expert, not what comes out."""
    adds_by_expert: bool = False
    """Whether a token's outputs are added up in the order of the experts and in the model's dtype."""
    is_matrix: bool = False
    """Whether an expert's part of a stored weight is a matrix, rather than a stack of one matrix."""
    adapter: Literal["parameters", "modules", "none"] = "parameters"
    """What PEFT can adapt: fused parameters, a linear layer of each expert, or nothing."""

    def __init__(self, parent: Any, experts: Any) -> None:
        self.parent = parent
        self.experts = experts

    @property
    def num_experts(self) -> int:
        """How many experts there are to assign."""
        return self.num_rows(self.projections["fc_out"][0])

    @property
    def num_identity(self) -> int:
        """How many experts behind the real ones give back their input; everybody has them."""
        return 0

    @property
    def router(self) -> nn.Module:
        """The module that chooses among the experts."""
        router: nn.Module = self.parent.router
        return router

    @property
    def top_k(self) -> int:
        """How many experts a token goes to."""
        return int(self.parent.router.top_k)

    def num_rows(self, name: str) -> int:
        """Return into how many equal parts, an expert each, the first axis of a stored tensor divides."""
        return int(self.experts.get_parameter(name).shape[0])

    def gate(self) -> Callable[[Tensor], Tensor]:
        """Return the function between ``fc_in`` and ``fc_out``."""
        return gated_unit(self.experts.act_fn)

    def lent(self) -> dict[str, nn.Module]:
        """Return the modules that all experts share, by the name they keep beside the kept experts."""
        return {}

    def norm(self) -> nn.Module | None:
        """Return the norm behind the experts, if they share one."""
        return None

    def route(self, output: Any) -> Routing:
        """Return the routing that a router's output means; asked only where the block is replaced."""
        raise NotImplementedError(f"{type(self).__name__} must say what its router's output means")

    def finish(self, _block: Any, _flat_TH: Tensor, routed: Tensor, _routing: Routing) -> Any:
        """Return what the family's block returns.

        Parameters
        ----------
        _block : Module
            What stands in its place, with the children and parameters it had.
        _flat_TH, routed : Tensor
            The block's input; the routed experts' sum in the shape of that input.
        _routing : Routing
            Where the tokens went.
        """
        return routed

    @staticmethod
    def layer(path: str, _config: Any) -> int:
        """Return the number of the layer that a block of this name is in."""
        return numbers_in(path)[-1]

    @staticmethod
    def depth(config: Any) -> int:
        """Return how many layers a model has, with experts or without."""
        return int(config.num_hidden_layers)


class FusedFamily(ModelFamily):
    """Experts module called as ``experts(hidden_TH, choice_TK, weight_TK)``: it alone is replaced.

    Its class is nearly always one decorated with transformers' ``use_experts_implementation``.
    """

    is_block_replaced = False

    def __init__(self, parent: Any, experts: Any, router: nn.Module, fc_in: str, top_k: int) -> None:
        super().__init__(parent, experts)
        self._router, self._top_k = router, top_k
        self.projections = {"fc_in": (fc_in,), "fc_out": ("down_proj",)}
        is_transposed = getattr(experts, "is_transposed", False)
        self.transposed = frozenset({fc_in, "down_proj"} if is_transposed else ())

    @property
    def router(self) -> nn.Module:
        """The module found beside the experts."""
        return self._router

    @property
    def top_k(self) -> int:
        """What was found on the router, the block or in the configuration."""
        return self._top_k

    def gate(self) -> Callable[[Tensor], Tensor]:
        """Return the family's own gate function."""
        gate: Callable[[Tensor], Tensor]
        is_gated = getattr(self.experts, "has_gate", True)
        gate = self.experts._apply_gate if is_gated else self.experts.act_fn
        return gate

    def lent(self) -> dict[str, nn.Module]:
        """Return what the family's module has beside expert tensors (muse_spark: a norm)."""
        return dict(self.experts.named_children())

    def norm(self) -> nn.Module | None:
        """Return the family's own norm."""
        norm: nn.Module | None = getattr(self.experts, "post_expert_norm", None)
        return norm


def numbers_in(path: str) -> list[int]:
    """Return the numbers in a module's name, in order."""
    return [int(part) for part in path.split(".") if part.isdigit()]


def gated_unit(activation: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the gated unit over ``[gate, up]``: ``activation(gate) * up``."""

    def gate(wide: Tensor) -> Tensor:
        half, up = wide.chunk(2, dim=-1)
        return activation(half) * up

    return gate
