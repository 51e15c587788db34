"""The settings of the model; as ``scenario/settings/learning.py``."""

from typing import Literal

from pydantic import Field, field_validator

from scenario.settings.section import Section, require_absolute


class ModelSettings(Section):
    """The Mixture-of-Experts checkpoint that is tuned."""

    name: str = Field(
        default="demo",
        min_length=1,
        description='"demo" (made on this machine once and cached), an absolute folder or GGUF file, or a '
        "hub name.",
    )
    # CPUs train fastest in float32; choose bfloat16 on a GPU that has it.
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="float32",
        description="Type the frozen weights are held in, which memory budgets count; auto = the file's own.",
    )
    hold: Literal["dequantised", "file"] = Field(
        default="dequantised",
        description="How frozen weights of a quantised checkpoint are held: dequantised, in model.dtype, or "
        "in the file's few bits, expanded as they are used (less memory, longer steps; LoRA only).",
    )
    # Code of strangers can do all that the person who starts it can.
    trust_remote_code: bool = Field(
        default=False,
        description="Run the code that a checkpoint of a family unknown to transformers brings with it, on "
        "the server and on every device; for checkpoints whose code you have read.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where models are held: auto = on CUDA where the process sees it (a simulation's clients "
        "see none without a share: --client-gpus), else on the CPU.",
    )
    # Own sub-models of the demo after tuning, two experts kept of eight: 3.895 reroute, 3.893 restrict at
    # half as much time again, 4.033 renormalise, 4.059 mask; merged, reroute is the best (docs/LOG.md).
    absent: Literal["reroute", "restrict", "renormalise", "mask"] = Field(
        default="reroute",
        description="Choices of absent experts are dropped (mask), and the weights of the kept ones rescaled "
        "(renormalise), and a token left with none goes to the kept expert its router likes best (reroute); "
        "or the kept experts share all of the token (restrict).",
    )

    # The demo's sub-models hold 2 MB each; of a large model one at a time is kept, and eight workers of a
    # laptop stay within 4 GB.
    kept_mb: float = Field(
        default=500.0,
        ge=0,
        le=1e9,
        description="Megabytes (10^6 bytes) of models a process keeps for its next messages, the least "
        "recently used gone first. The one in use stays even if larger; 0 keeps no other (real devices).",
    )

    delivery: Literal["beforehand", "experts", "everything"] = Field(
        default="beforehand",
        description="How the model comes to the devices: they have the whole checkpoint beforehand; or the "
        "shared part, and the assigned experts come over the link; or all of it comes over the link.",
    )
    # A pass of the default sky carries some tens of MB for a cluster; a broken transfer loses a piece.
    piece_mb: float = Field(
        default=4.0,
        ge=0.001,
        le=1024,
        description="Megabytes (10^6 bytes) of the model that one message brings at most, where experts are "
        "delivered; each is checked by its hash, and what arrived is not sent again.",
    )

    @field_validator("name")
    @classmethod
    def _no_relative_folder(cls, name: str) -> str:
        if name.startswith((".", "~")) or name.endswith(".gguf"):
            require_absolute(name)
        return name
