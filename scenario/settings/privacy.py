"""The settings of what an update hides; as ``scenario/settings/learning.py``."""

from pydantic import Field

from scenario.settings.section import Section


class PrivacySettings(Section):
    """What an update hides of the data that made it."""

    # Off: what it costs is in docs/LOG.md.
    epsilon: float = Field(
        default=0.0,
        ge=0,
        le=1e9,
        description="Privacy budget of one update of a node: it is clipped and Gaussian noise put on it "
        "before it leaves (Flower's LocalDpMod); n updates spend n times as much. 0 = neither.",
    )
    delta: float = Field(
        default=1e-5, gt=0, lt=1, description="Probability with which that budget may be exceeded."
    )
    clip_norm: float = Field(
        default=1.0, gt=0, le=1e6, description="Euclidean norm that an update is clipped to first."
    )
