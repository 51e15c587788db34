"""Settings that are each allowed but cannot go together."""

from collections.abc import Iterator

from scenario.settings.config import RunConfig
from scenario.settings.rules import Fault
from scenario.settings.world import NO_TEXT, DataSettings
from sim.sites import MAX_DEFAULT_CLUSTERS


def cross_faults(config: RunConfig) -> Iterator[Fault]:
    """Yield the settings that are each allowed but cannot go together."""
    train, sky, data, population = config.train, config.sky, config.data, config.population
    if train.min_steps > train.max_steps:
        yield Fault(
            ("train.min-steps", "train.max-steps"),
            f"train.min-steps must be at most train.max-steps, got {train.min_steps} and {train.max_steps}; "
            "raise max-steps or lower min-steps",
        )
    if train.micro_batches > train.batch_size:
        yield Fault(
            ("train.micro-batches", "train.batch-size"),
            "train.micro-batches must be at most train.batch-size, got "
            f"{train.micro_batches} parts of {train.batch_size} blocks; lower it",
        )
    if train.lora_rslora and train.method == "full":
        yield Fault(
            ("train.lora-rslora", "train.method"),
            'train.lora-rslora needs a LoRA train.method, got true and "full", which has no adapter; '
            'turn it off, or choose the method "ffa"',
        )
    parts = tuple(name.strip() for name in train.parts.split(","))
    if train.method == "full" and set(parts) != {"experts"}:
        yield Fault(
            ("train.parts", "train.method"),
            f'train.parts = "{train.parts}" needs a LoRA train.method, got "full", which trains whole '
            'weights and is for experts alone; choose the method "ffa" or "lora", or the parts "experts"',
        )
    if "experts" not in parts and (config.strategy == "ems-fl" or train.router_rows):
        yield Fault(
            ("train.parts", "strategy", "train.router-rows"),
            f'train.parts must name experts with the strategy "ems-fl", which deals them out, and with '
            f'train.router-rows, got "{train.parts}", "{config.strategy}" and '
            f"{str(train.router_rows).lower()}; add them, or choose another strategy",
        )
    if config.model.hold == "file" and train.method == "full":
        yield Fault(
            ("model.hold", "train.method"),
            'model.hold = "file" needs a LoRA train.method, got "full", which trains the weights themselves; '
            'choose the method "ffa" or "lora", or hold them "dequantised"',
        )
    is_dealt = population.known == "beforehand"
    if is_dealt and population.devices < population.clusters:
        yield Fault(
            ("population.devices", "population.clusters"),
            f"population.devices must be at least population.clusters, got {population.devices} devices for "
            f"{population.clusters} clusters; a cluster without a device would have no data",
        )
    if is_dealt and not population.sites and population.clusters > MAX_DEFAULT_CLUSTERS:
        yield Fault(
            ("population.clusters", "population.sites"),
            f"population.clusters must be at most {MAX_DEFAULT_CLUSTERS} without population.sites, got "
            f"{population.clusters}; lower it, or name a CSV with more places",
        )
    if config.run.resume and config.strategy == "fedavg":
        yield Fault(
            ("run.resume", "strategy"),
            f'run.resume needs the strategy "ems-fl", got {config.run.resume!r} and "fedavg"; the '
            "baseline keeps no state between rounds, start it anew",
        )
    if config.merge.robust != "none" and config.strategy not in ("ems-fl", "fedbuff"):
        yield Fault(
            ("merge.robust", "strategy"),
            f'merge.robust must be "none" with the strategy "{config.strategy}", got '
            f'"{config.merge.robust}"; it is a rule of "ems-fl" and "fedbuff", choose one of them',
        )
    if config.merge.update_bits != 32 and config.strategy == "fedavg":
        yield Fault(
            ("merge.update-bits", "strategy"),
            f'merge.update-bits must be 32 with the strategy "fedavg", got {config.merge.update_bits}; '
            "Flower's own strategies average arrays as they come, choose another strategy",
        )
    if config.merge.min_updates and config.strategy != "ems-fl":
        yield Fault(
            ("merge.min-updates", "strategy"),
            f'merge.min-updates must be 0 with the strategy "{config.strategy}", got '
            f"{config.merge.min_updates}; it is for the passes of ems-fl, fedbuff has merge.buffer-size",
        )
    if config.merge.update_bits != 32 and config.privacy.epsilon:
        yield Fault(
            ("merge.update-bits", "privacy.epsilon"),
            f"merge.update-bits must be 32 with privacy.epsilon > 0, got {config.merge.update_bits} and "
            f"{config.privacy.epsilon}; noise is put on float32 numbers, leave one of them",
        )
    if config.model.delivery != "beforehand" and config.strategy == "fedavg":
        yield Fault(
            ("model.delivery", "strategy"),
            f'model.delivery must be "beforehand" with the strategy "fedavg", got "{config.model.delivery}"; '
            "Flower's own strategies send no pieces of a model, choose another strategy",
        )
    if config.model.delivery != "beforehand" and not sky.simulated and not config.uses_stand_ins:
        yield Fault(
            ("profile.method", "model.delivery"),
            f'profile.method must not be "exact" where experts are delivered to real nodes, got '
            f'"{config.model.delivery}": they have none to profile with; leave it "auto"',
        )
    if config.strategy == "fedasync" and config.merge.server_learning_rate > 1:
        yield Fault(
            ("merge.server-learning-rate", "strategy"),
            'merge.server-learning-rate must be at most 1 with strategy = "fedasync", got '
            f"{config.merge.server_learning_rate}; it is the part of the way to a device's model",
        )
    yield from _on_contact_faults(config)
    if is_dealt and data.source != NO_TEXT:
        yield from _data_faults(data)
    if config.evaluate.choices and not (data.response_column or data.messages_column):
        yield Fault(
            ("evaluate.choices", "data.response-column"),
            f"evaluate.choices needs data.response-column or data.messages-column, got "
            f"{config.evaluate.choices} without; name where the answers are",
        )
    if data.drift_hours and (not sky.simulated or data.drift_hours >= sky.hours or population.clusters < 2):
        yield Fault(
            ("data.drift-hours", "sky.hours"),
            "data.drift-hours must lie before the horizon of a simulated sky over two clusters or more, got "
            f"{data.drift_hours} of sky.hours = {sky.hours}, sky.simulated = {str(sky.simulated).lower()} "
            f"and {population.clusters} clusters; real data drifts by itself",
        )
    horizon_s = sky.hours * 3600
    if sky.simulated and config.profile.wait_hours > sky.hours:
        yield Fault(
            ("profile.wait-hours", "sky.hours"),
            f"profile.wait-hours must be at most sky.hours, got {config.profile.wait_hours} and {sky.hours}; "
            "the run would end before its experts are assigned",
        )
    if sky.simulated and sky.step_s > horizon_s:
        yield Fault(
            ("sky.step-s", "sky.hours"),
            f"sky.step-s must be at most the horizon, got {sky.step_s} s for {horizon_s} s (sky.hours = "
            f"{sky.hours}); lower step-s or raise hours",
        )
    if not sky.simulated and train.steps_wall_budget_s > horizon_s:
        yield Fault(
            ("train.steps-wall-budget-s", "sky.hours"),
            "train.steps-wall-budget-s must be at most the horizon when sky.simulated is false, got "
            f"{train.steps_wall_budget_s} s for {horizon_s} s (sky.hours = {sky.hours}); no visit would end",
        )


def _on_contact_faults(config: RunConfig) -> Iterator[Fault]:
    data, known = config.data, config.population.known
    if known == "on-contact" and config.sky.simulated:
        yield Fault(
            ("population.known", "sky.simulated"),
            'population.known must be "beforehand" under a simulated sky, whose devices nobody else makes, '
            'got "on-contact"; set sky.simulated = false, or leave it',
        )
    if data.source != NO_TEXT:
        return
    if known == "beforehand":
        yield Fault(
            ("data.source", "population.known"),
            'data.source = "none" needs population.known = "on-contact", got "beforehand": the devices would '
            "have no text; name a file or a dataset",
        )
    if config.merge.target_loss:
        yield Fault(
            ("merge.target-loss", "data.source"),
            f'merge.target-loss must be 0 with data.source = "none", got {config.merge.target_loss}: the '
            "server has no text to measure on; name some, or limit merge.max-merges",
        )
    if config.evaluate.choices:
        yield Fault(
            ("evaluate.choices", "data.source"),
            f'evaluate.choices must be 0 with data.source = "none", got {config.evaluate.choices}: the '
            "server has no questions; name some",
        )


def _data_faults(data: DataSettings) -> Iterator[Fault]:
    named = {
        "data.prompt-column": data.prompt_column,
        "data.response-column": data.response_column,
        "data.messages-column": data.messages_column,
    }
    given = tuple(key for key, column in named.items() if column)
    if given and given not in (("data.prompt-column", "data.response-column"), ("data.messages-column",)):
        yield Fault(
            given,
            f"examples are data.prompt-column with data.response-column, or data.messages-column, got "
            f"{' and '.join(given)}; name both of the former, or the latter alone",
        )
    if given and data.source == "embedded":
        yield Fault(
            ("data.source", *given),
            f'{" and ".join(given)} needs a data.source of rows, got "embedded"; name a file or a dataset',
        )
    naming = {"data.cluster-column": data.cluster_column, "data.device-column": data.device_column}
    if data.source == "embedded":
        for key, column in naming.items():
            if column:
                yield Fault(
                    (key, "data.source"),
                    f'{key} needs a data.source of rows, got "embedded"; name a file or a dataset',
                )
        if data.partitioner == "cluster":
            yield Fault(
                ("data.partitioner", "data.source"),
                'data.partitioner = "cluster" needs a data.source of rows, got "embedded"; name a file or a '
                "dataset",
            )
        return
    if (data.partitioner == "cluster") != bool(data.cluster_column):
        yield Fault(
            ("data.partitioner", "data.cluster-column"),
            'data.cluster-column must name a column exactly when data.partitioner is "cluster", got '
            f'"{data.cluster_column}" and "{data.partitioner}"',
        )
    if data.partitioner == "domain" and not data.domain_column:
        yield Fault(
            ("data.partitioner", "data.domain-column"),
            'data.domain-column must name a column when data.partitioner is "domain" and data.source is '
            f'{data.source!r}, got ""; name it, or choose the partitioner "iid"',
        )
    if data.partitioner == "dirichlet" and not (data.label_column or data.domain_column):
        yield Fault(
            ("data.partitioner", "data.label-column"),
            'data.label-column or data.domain-column must name a column when data.partitioner is "dirichlet" '
            f'and data.source is {data.source!r}, got "" for both; name one, or choose the partitioner "iid"',
        )
