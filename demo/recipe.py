"""The numbers of the demo model: its size, and how long and how fast each stage of its making learns.

Where they come from is in docs/LOG.md: measured on 2 cores for what about 30 s of training can give, and
for experts that follow their domains and are yet far from having learnt them.
"""

from dataclasses import asdict, dataclass

RECIPE_VERSION = 2
"""Raise when the maker's code changes what it makes; a new version is made anew, whatever is cached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of training: AdamW, a short warm-up, then a linear decay to a tenth of the rate.

    Parameters
    ----------
    num_steps : int
        Optimiser steps.
    learning_rate : float
        Peak rate.
    batch_size : int
        Blocks of `Recipe.sequence_length` tokens a step.
    """

    num_steps: int
    learning_rate: float
    batch_size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to make: sizes of a Mixtral and the three stages of branch-train-mix, or one of joint training.

    Parameters
    ----------
    num_experts : int
        Of a layer, trained from scratch with the rest in the seed's stage alone (`demo.joint`); 0: one for
        each domain, by branch-train-mix.
    balance : float
        Weight of the loss that wants experts used evenly, in joint training.
    balanced_over : {"batch", "sequence"}
        Over what.
    router_supervision : float
        Weight of the cross-entropy between the router's logits and the domain of the text, beside the
        language-model loss, in the router's stage; 0 leaves the router to the language-model loss.
    """

    vocab_size: int = 1024
    hidden_size: int = 96
    intermediate_size: int = 128
    num_layers: int = 3
    num_heads: int = 4
    num_kv_heads: int = 2
    experts_per_token: int = 2
    max_positions: int = 512
    sequence_length: int = 64
    seed_stage: Stage = Stage(num_steps=700, learning_rate=3e-3, batch_size=8)
    expert_stage: Stage = Stage(num_steps=40, learning_rate=3e-3, batch_size=8)
    router_stage: Stage = Stage(num_steps=60, learning_rate=5e-3, batch_size=16)
    router_supervision: float = 0.3
    seed: int = 20260
    num_experts: int = 0
    balance: float = 0.0
    balanced_over: str = "batch"

    def key(self) -> str:
        """Return a text that is the same exactly for equal recipes of one version."""
        return f"version {RECIPE_VERSION}: {asdict(self)}"


JOINT_STAGE = Stage(num_steps=700, learning_rate=3e-3, batch_size=8)


DEFAULT = Recipe()

FIELD = Recipe(
    num_experts=32, experts_per_token=4, intermediate_size=32, seed_stage=JOINT_STAGE, balance=0.02
)
"""Fine-grained: many small experts, several a token, that follow domains about as far as OLMoE's do."""

FLAT = Recipe(num_experts=8, seed_stage=JOINT_STAGE, balance=1.0, balanced_over="sequence")
"""Experts that do not follow domains, as Mixtral's: every sequence uses all of them."""

BY_NAME = {"demo": DEFAULT, "demo-field": FIELD, "demo-flat": FLAT}
"""What ``model.name`` may say."""

TINY = Recipe(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=32,
    num_heads=2,
    num_kv_heads=1,
    seed_stage=Stage(num_steps=40, learning_rate=8e-3, batch_size=8),
    expert_stage=Stage(num_steps=20, learning_rate=8e-3, batch_size=8),
    router_stage=Stage(num_steps=20, learning_rate=5e-3, batch_size=8),
)
"""For tests: everything the default has, in seconds and without its quality."""
