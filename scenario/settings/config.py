"""Every setting of a run in one frozen value; `scenario.settings.reading` makes and checks it."""

from typing import Literal

from pydantic import Field
from pydantic.fields import FieldInfo

from scenario.settings import learning, world
from scenario.settings.model import ModelSettings
from scenario.settings.privacy import PrivacySettings
from scenario.settings.section import Section, kebab

Scalar = bool | int | float | str


class RunConfig(Section):
    """Every setting of a run, as ``cfg.section.field``; make it with `read_config`."""

    seed: int = Field(default=1, ge=0, le=2**31 - 1, description="Seed of everything random in the run.")
    strategy: Literal["ems-fl", "fedavg", "fedbuff", "fedasync"] = Field(
        default="ems-fl",
        description="Expert splitting over passes; or, with every expert to everybody, averaging in rounds "
        "(fedavg), asynchronously in buffers (fedbuff), or update by update (fedasync).",
    )
    run: learning.RunSettings = learning.RunSettings()
    model: ModelSettings = ModelSettings()
    data: world.DataSettings = world.DataSettings()
    sky: world.SkySettings = world.SkySettings()
    link: world.LinkSettings = world.LinkSettings()
    population: world.PopulationSettings = world.PopulationSettings()
    profile: learning.ProfileSettings = learning.ProfileSettings()
    assign: learning.AssignSettings = learning.AssignSettings()
    train: learning.TrainSettings = learning.TrainSettings()
    privacy: PrivacySettings = PrivacySettings()
    merge: learning.MergeSettings = learning.MergeSettings()
    evaluate: learning.EvaluateSettings = learning.EvaluateSettings()
    fedavg: learning.FedAvgSettings = learning.FedAvgSettings()
    report: learning.ReportSettings = learning.ReportSettings()

    @property
    def uses_stand_ins(self) -> bool:
        """Whether devices profile without experts: if they are told to, or have none before they profile."""
        if self.profile.method == "auto":
            return self.model.delivery != "beforehand"
        return self.profile.method == "stand-in"


def config_fields() -> dict[str, FieldInfo]:
    """Return every setting by its dotted key, in the order of the model."""
    fields: dict[str, FieldInfo] = {}
    for name, field in RunConfig.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            for inner, setting in field.annotation.model_fields.items():
                fields[f"{name}.{kebab(inner)}"] = setting
        else:
            fields[kebab(name)] = field
    return fields


def flat_config(config: RunConfig) -> dict[str, Scalar]:
    """Return ``config`` as Flower's flat mapping: ``read_config(flat_config(cfg)) == cfg``."""
    flat: dict[str, Scalar] = {}
    for name, value in config.model_dump(by_alias=True).items():
        if isinstance(value, dict):
            flat |= {f"{name}.{inner}": setting for inner, setting in value.items()}
        else:
            flat[name] = value
    return flat
