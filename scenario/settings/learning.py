"""The settings of the run and the learning, one frozen model per table.

Every field carries its unit in its name, its default with where that comes from, its allowed range and
the sentence that ``docs/configuration.md`` and the error messages show. Torch-free and cheap to import:
each client parses the same settings. The model is in ``scenario/settings/model.py``, the data, the sky,
the link and the population are in ``scenario/settings/world.py``.
"""

from typing import Literal

from pydantic import Field, field_validator

from scenario.settings.section import Section, require_absolute


class RunSettings(Section):
    """Where a run writes, and how often."""

    # XDG base directories: user data that should survive goes under XDG_DATA_HOME.
    dir: str = Field(
        default="",
        description="Folder that run folders are made in; absolute, empty = $EMS_FL_RUNS (runs/ of the "
        "checkout after make setup), else $XDG_DATA_HOME/ems-fl/runs.",
    )
    name: str = Field(
        default="demo",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="First part of the run folder's name; letters, digits, dots, dashes, underscores.",
    )
    resume: str = Field(default="", description="Run folder to continue; absolute, empty = start a new run.")
    # A merged checkpoint is as large as the base model: only on request.
    export_merged: bool = Field(
        default=False, description="Also write the full merged checkpoint at the end."
    )
    save_every_merges: int = Field(
        default=1,
        ge=1,
        description="Merges between two saved states; what real nodes did since ends with the ServerApp.",
    )
    # Half of the 10 s that a run may be silent at most.
    heartbeat_s: float = Field(
        default=5.0,
        gt=0,
        le=3600,
        description="Wall seconds of silence after which a line says what is awaited.",
    )

    # A killed SuperNode is back after a minute; a device may need minutes to read its part of a checkpoint.
    silence_s: float = Field(
        default=600.0,
        ge=1,
        le=1e7,
        description="On real nodes: seconds of contact, beyond train.steps-wall-budget-s, without an answer "
        "and without an upload, after which what a node was asked counts as lost and it is asked anew.",
    )
    grouped: bool = Field(
        default=True,
        description="In simulation, what many nodes are to do at one time travels as one Flower message; "
        "false = a message for each node, Flower's own way: slower, and the same results.",
    )

    _absolute = field_validator("dir", "resume")(require_absolute)


class ProfileSettings(Section):
    """How the routing statistics are gathered before experts are assigned."""

    examples: int = Field(default=32, ge=1, description="Blocks each device runs through the full router.")
    wait_hours: float = Field(
        default=12.0,
        gt=0,
        le=8784,
        description="Hours to wait for profiles; then assign with those that came.",
    )
    method: Literal["auto", "exact", "stand-in"] = Field(
        default="auto",
        description="What devices profile with: the checkpoint's experts, read from disk one by one (exact), "
        "or its shared part and small maps that stand for the experts (stand-in), made once a machine; "
        "auto = stand-in where experts are delivered (model.delivery), else exact.",
    )
    # Rank 16 and a constant for each expert: 0.986 of the exact capture or more on six bases (docs/LOG.md).
    stand_in_rank: int = Field(
        default=16, ge=1, le=4096, description="Rank of the map that stands for a layer's experts."
    )
    stand_in_text: str = Field(
        default="",
        description="Text that stand-ins are fitted to, absolute, as data.source; it must hold every domain "
        "that devices hold. Empty = the part of the embedded text that no device holds.",
    )

    # 0 gives the exact profile; what strengths cost is in docs/LOG.md.
    noise: float = Field(
        default=0.0,
        ge=0,
        le=10,
        description="Scale of the Laplace noise that a device adds to each expert's share of a layer before "
        "its profile leaves it: of L layers it is (2 L / noise)-differentially private for all of its data; "
        "0 = none.",
    )

    _absolute = field_validator("stand_in_text")(require_absolute)


class AssignSettings(Section):
    """Which experts go to which cluster."""

    method: Literal["optimal", "random", "overlap", "all"] = Field(
        default="optimal",
        description="Most captured routing mass; or, to compare: a random deal, each cluster its own best "
        "whoever else has them, every expert to all.",
    )
    experts_per_layer: int = Field(
        default=0, ge=0, description="Most experts of a layer a cluster gets; 0 = as many as fit."
    )
    provisional: bool = Field(
        default=False,
        description="Until every cluster was heard each trains what its own data uses most and nobody else "
        "does; what the assignment confirms is kept.",
    )
    watch: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Part by which what a cluster's experts catch of its data may fall below its first "
        "visits before all are asked anew and experts move; 0 = experts are assigned once.",
    )
    # Moves that a tenth of an expert's mass would pay are within the noise of 32 blocks a device.
    stay: float = Field(
        default=0.1,
        ge=0,
        le=10,
        description="When experts are assigned anew, by which part an expert's mass counts more for the "
        "cluster that has it: moving it costs a delivery and what is under way.",
    )
    late: Literal["anew", "free"] = Field(
        default="anew",
        description="What a cluster gets that is heard after the assignment: all experts are assigned anew, "
        "or it gets some that nobody has, if there are any.",
    )
    link_budget: bool = Field(
        default=True, description="Also keep each assignment within its cluster's window bytes."
    )


class TrainSettings(Section):
    """What a device does with its experts between two contacts."""

    # FFA-LoRA (arXiv 2403.12313): the only rule of half the bytes that averages exactly under staleness.
    method: Literal["ffa", "lora", "full"] = Field(
        default="ffa",
        description="ffa: LoRA with A frozen and B trained. lora: A and B trained, each averaged by itself, "
        "which is not the mean of the products B A where devices share an expert. "
        "full: the experts' weights and biases.",
    )
    # Rank 8, alpha 16: the usual start in PEFT's and FlowerTune's recipes.
    lora_rank: int = Field(default=8, ge=1, le=4096, description="Rank of the adapters.")
    lora_alpha: float = Field(
        default=16.0, gt=0, le=1e6, description="Scale of the adapters: alpha / rank times B A."
    )
    # Off: at rank 8 it multiplies the change, and so the best learning rate, by sqrt 8.
    lora_rslora: bool = Field(
        default=False,
        description="Scale by alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732): steady at high ranks.",
    )
    lora_dropout: float = Field(default=0.0, ge=0, lt=1, description="Dropout before A, in training only.")
    router_rows: bool = Field(
        default=False,
        description="Also tune the rows of the router that choose the assigned experts; they are as disjoint "
        "as the experts.",
    )
    layers: str = Field(
        default="all",
        pattern=r"^(all|last [1-9][0-9]*|[0-9]+( *, *[0-9]+)*)$",
        description="Layers that are tuned: all, the last n that have experts (last 4), or a list "
        "of decoder layers (20, 22, 23). Gradients stop at the lowest of them.",
    )
    parts: str = Field(
        default="experts",
        pattern=r"^(experts|attention|shared-experts)( *, *(experts|attention|shared-experts))*$",
        description="What is tuned of these layers: experts, and beside them attention and shared-experts, "
        'such as "experts, attention". These are in every sub-model: their LoRA adapters are trained by all '
        "clusters and averaged over all, so that what clusters train is no longer disjoint.",
    )
    # Off: it pays where many frozen layers lie below, and the demo has none (docs/LOG.md).
    kept_outputs_mb: float = Field(
        default=0.0,
        ge=0,
        le=1e9,
        description="Megabytes (10^6 bytes) a process keeps of what the frozen layers below the lowest tuned "
        "one give for the blocks of its devices, the same in every step. 0 computes it anew.",
    )
    # Measured on the demo: rank 8 at 1e-2 does as well as rank 16 at 5e-3; 2e-2 overfits (docs/LOG.md).
    learning_rate: float = Field(default=1e-2, gt=0, le=10, description="Step size of the local optimiser.")
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", description="Local optimiser.")
    # On the demo's day 32 steps of 4 blocks end where 24 steps of 8 do, in four fifths of the time.
    batch_size: int = Field(default=4, ge=1, description="Blocks per local step.")
    # Off: the demo's activations are small, and both make a step slower.
    micro_batches: int = Field(
        default=1,
        ge=1,
        description="Parts that the blocks of one step are run in to hold fewer activations; same step.",
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Hold only each layer's input and compute the rest again in the backward pass: less "
        "memory, up to half as much time again, the same gradients.",
    )
    min_steps: int = Field(
        default=1, ge=1, description="Fewest local steps per visit, even if they outlast the gap."
    )
    # As many as the demo's run can take and be no slower than its first version, with 12 steps of 8 blocks,
    # which end 0.03 higher; 32 end 0.025 lower (docs/LOG.md). A gap has room for hundreds.
    max_steps: int = Field(
        default=20, ge=1, description="Most local steps per visit, even if more would fit the gap."
    )
    steps_wall_budget_s: float = Field(
        default=60.0,
        gt=0,
        le=1e6,
        description="Wall seconds a client trains per visit when the sky is not simulated.",
    )
    weight_decay: float = Field(
        default=0.0, ge=0, lt=1, description="Decoupled weight decay of the local optimiser."
    )
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e6, description="Gradients are clipped to this norm.")


class MergeSettings(Section):
    """How the server takes in what comes up, and when it stops."""

    # FedBuff (arXiv 2106.06639): (1 + s)^-0.5; FedAsync (arXiv 1903.03934) has all three.
    discount: Literal["constant", "polynomial", "hinge"] = Field(
        default="polynomial",
        description="Weight of an update by its staleness s: 1, (1+s)^-a, or 1/(a(s-b)+1) past b.",
    )
    discount_a: float = Field(default=0.5, gt=0, le=100, description="a of the discount.")
    discount_b: int = Field(
        default=4, ge=0, description="b of the hinge: staleness up to it is not discounted."
    )
    server_learning_rate: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Step size on the server, for every strategy; of fedasync the mixing weight, at most 1.",
    )
    # Measured on three bases: docs/LOG.md, docs/results.md.
    take: Literal["whole", "root-share", "share"] = Field(
        default="root-share",
        description="How much of an expert's change the merged model takes: all, or by its clusters' share p "
        "of what the full router sends it, sqrt p or p. Devices go on from the whole change.",
    )
    # FedBuff (arXiv 2106.06639) found K = 10 good over many tasks.
    buffer_size: int = Field(
        default=10, ge=1, description="Of fedbuff: updates, of any devices, that are merged together."
    )
    count: Literal["reporting", "cluster"] = Field(
        default="reporting",
        description="Divide by the examples of the devices that reported, or of the whole cluster.",
    )
    robust: Literal["none", "clip", "trimmed-mean", "median"] = Field(
        default="none",
        description="What stands in the place of the mean where three updates or more of a pass meet: no "
        "update longer than the median one, a mean without the extremes of each number, or each number's "
        "median.",
    )
    # 8: a quarter of the bytes for the same losses to 0.01 (docs/LOG.md).
    update_bits: Literal[32, 16, 8] = Field(
        default=32,
        description="Bits of a number of an update on its way up: float32, float16, or 8-bit numbers with "
        "a scale for each row or column, rounded at random so that their mean is right.",
    )
    wait_s: float = Field(
        default=600.0,
        ge=0,
        le=1e7,
        description="Longest wait for the rest of a cluster after its first update of a pass.",
    )
    min_updates: int = Field(
        default=0,
        ge=0,
        description="Updates of a cluster that are merged at once, k of n; the others of the pass are merged "
        "later, as stale as they are then. 0 = the rest of the pass is waited for.",
    )
    max_merges: int = Field(
        default=0, ge=0, description="Merges after which the run ends; 0 = run to the horizon."
    )
    target_loss: float = Field(
        default=0.0, ge=0, description="Merged held-out loss at which the run ends; 0 = none."
    )


class EvaluateSettings(Section):
    """When and how the models are measured."""

    every_merges: int = Field(
        default=8, ge=1, description="Merges between two evaluations of the merged model."
    )
    batch_size: int = Field(default=32, ge=1, description="Blocks per forward pass.")
    # Off: for a model that fits into memory, reading it from disk again and again is slow.
    streamed: bool = Field(
        default=False,
        description="Read the merged model's experts from disk as tokens come to them, instead of holding "
        "the whole model on the server: the memory of the shared part and one expert.",
    )
    choices: int = Field(
        default=0,
        ge=0,
        description="Held-out examples of each cluster that are answered by choosing the likeliest of all "
        "responses in the data, before and after: accuracy; 0 = none.",
    )


class FedAvgSettings(Section):
    """The synchronous baseline, used with strategy = "fedavg"."""

    rounds: int = Field(default=4, ge=1, description="Rounds of synchronous averaging.")
    fraction: float = Field(default=1.0, gt=0, le=1, description="Share of the nodes asked each round.")
    proximal_mu: float = Field(
        default=0.0,
        ge=0,
        le=1e6,
        description="FedProx (arXiv 1812.06127): weight of half the squared distance from the round's start; "
        "0 = FedAvg.",
    )


class ReportSettings(Section):
    """What people see of a run beside its screen."""

    page: bool = Field(
        default=True, description="Write report.html into the run folder, anew at evaluations and at the end."
    )
    # Two a cluster cost the demo about a second at the end; a large model on a CPU, minutes.
    completions: int = Field(
        default=2,
        ge=0,
        le=20,
        description="Greedy completions of each cluster, before and after, in the report; 0 = none.",
    )
    trackers: str = Field(
        default="",
        pattern=r"^((wandb|mlflow)(,(wandb|mlflow))*)?$",
        description="Experiment trackers that get the curves too: wandb, mlflow or both with a comma; empty "
        "= none. Their packages are yours to install, where they write is told by their own variables.",
    )
