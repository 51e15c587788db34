"""The methods of the tables: what each is, as settings over those of the world, and how it was tuned."""

from dataclasses import dataclass, field
from typing import Literal

from scenario.settings.config import Scalar

Settings = dict[str, Scalar]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One row of a table.

    Parameters
    ----------
    name : str
        In the table and in the files.
    settings : dict
        Over those of the world.
    how : {"sky", "own-alone", "whole-alone", "central"}
        ``sky``: a run of the app. The others never send anything (`benchmarks.paper.alone`).
    absent : str
        What becomes of the experts that a device does not train.
    candidates : tuple of dict
        What was tried beside ``settings``, on a seed that is in no table (``--tune``); none: trained as
        EMS-FL, of which it is a variant.
    """

    name: str
    settings: Settings = field(default_factory=dict)
    how: Literal["sky", "own-alone", "whole-alone", "central"] = "sky"
    absent: str = "none is absent: every device holds all experts"
    candidates: tuple[Settings, ...] = ()


KEPT_BY_OWNERS = "the server keeps what their owners merged; a device does not hold them"
EVERY, LOCAL_RATE = "evaluate.every-merges", "train.learning-rate"
SERVER_RATE = "merge.server-learning-rate"


def _rates(key: str, *values: float) -> tuple[Settings, ...]:
    return tuple({key: value} for value in values)


def _at_server_rate_1(*local_rates: float) -> tuple[Settings, ...]:
    return tuple({SERVER_RATE: 1.0, LOCAL_RATE: rate} for rate in local_rates)


EMS_FL = Method(
    name="EMS-FL",
    absent=KEPT_BY_OWNERS,
    candidates=(*_rates(LOCAL_RATE, 0.003, 0.03), *_rates(SERVER_RATE, 2.0)),
)
# At a server rate of 4 it diverges on sharp.
SYNCHRONOUS: Settings = {"strategy": "fedavg", "fedavg.rounds": 1000, SERVER_RATE: 2.0}
FEDAVG = Method(
    name="FedAvg",
    settings=SYNCHRONOUS,
    candidates=(*_at_server_rate_1(0.003, 0.01, 0.03), *_rates(SERVER_RATE, 0.5, 4.0)),
)
MAIN = (
    EMS_FL,
    FEDAVG,
    # As most know it: the server takes the mean.
    Method(name="FedAvg, server rate 1", settings={"strategy": "fedavg", "fedavg.rounds": 1000}),
    Method(
        name="FedProx",
        settings={**SYNCHRONOUS, "fedavg.proximal-mu": 0.01},
        candidates=(*_rates("fedavg.proximal-mu", 0.1, 1.0), *_rates(SERVER_RATE, 1.0)),
    ),
    Method(
        name="FedBuff",
        settings={"strategy": "fedbuff", LOCAL_RATE: 0.003},
        candidates=(
            {LOCAL_RATE: 0.01},
            {LOCAL_RATE: 0.01, SERVER_RATE: 0.3},
        ),
    ),
    Method(
        name="FedAsync",
        settings={
            **{"strategy": "fedasync", SERVER_RATE: 0.6, LOCAL_RATE: 0.003},
            EVERY: 24,
        },
        candidates=(
            {LOCAL_RATE: 0.01},
            {LOCAL_RATE: 0.01, SERVER_RATE: 0.2},
        ),
    ),
    Method(
        name="attention alone (FedAvg)",
        settings={**SYNCHRONOUS, "train.parts": "attention"},
        candidates=_at_server_rate_1(0.003, 0.01, 0.03),
    ),
    Method(
        name="random deal",
        settings={"assign.method": "random"},
        absent=KEPT_BY_OWNERS,
    ),
    Method(
        name="alone, own experts",
        how="own-alone",
        absent="never merged; a device does not hold them",
    ),
    Method(
        name="alone, all experts",
        how="whole-alone",
        candidates=_rates(LOCAL_RATE, 0.003, 0.03),
    ),
    Method(
        name="central",
        settings={LOCAL_RATE: 0.003},
        how="central",
        candidates=_rates(LOCAL_RATE, 0.01, 0.03),
    ),
)

LOCAL_CHOICE = Method(
    name="local choice (overlap)",
    settings={"assign.method": "overlap"},
    absent="the server keeps the mean of those who hold them; a device does not hold them",
)

ABLATIONS = (
    EMS_FL,
    Method(name="first visit counts", settings={"assign.provisional": True}, absent=KEPT_BY_OWNERS),
    Method(name="discount constant", settings={"merge.discount": "constant"}, absent=KEPT_BY_OWNERS),
    # The mean weight that the default gives on a crowded sky: is it age that matters, or the step alone?
    Method(
        name="discount constant, half steps",
        settings={"merge.discount": "constant", SERVER_RATE: 0.5},
        absent=KEPT_BY_OWNERS,
    ),
    Method(name="discount hinge", settings={"merge.discount": "hinge"}, absent=KEPT_BY_OWNERS),
    Method(name="both factors (lora)", settings={"train.method": "lora"}, absent=KEPT_BY_OWNERS),
    Method(name="router rows too", settings={"train.router-rows": True}, absent=KEPT_BY_OWNERS),
    Method(name="attention too", settings={"train.parts": "experts, attention"}, absent=KEPT_BY_OWNERS),
    Method(name="absent: restrict", settings={"model.absent": "restrict"}, absent=KEPT_BY_OWNERS),
    Method(name="absent: renormalise", settings={"model.absent": "renormalise"}, absent=KEPT_BY_OWNERS),
    Method(name="absent: mask", settings={"model.absent": "mask"}, absent=KEPT_BY_OWNERS),
    Method(name="12 steps a visit", settings={"train.max-steps": 12}, absent=KEPT_BY_OWNERS),
    Method(name="96 steps a visit", settings={"train.max-steps": 96}, absent=KEPT_BY_OWNERS),
    Method(name="merged: whole change", settings={"merge.take": "whole"}, absent=KEPT_BY_OWNERS),
    Method(
        name="random deal, whole change",
        settings={"assign.method": "random", "merge.take": "whole"},
        absent=KEPT_BY_OWNERS,
    ),
    Method(name="merged: share", settings={"merge.take": "share"}, absent=KEPT_BY_OWNERS),
    Method(name="silent devices count", settings={"merge.count": "cluster"}, absent=KEPT_BY_OWNERS),
)

TABLES: dict[str, tuple[Method, ...]] = {
    "main": MAIN,
    "ablations": ABLATIONS,
    # What a sky of many clusters asks: does it matter how a late update is weighed?
    "staleness": (ABLATIONS[0], *(method for method in ABLATIONS if method.name.startswith("discount"))),
    # Does training before everybody was heard pay, and for the rivals?
    "first": (
        EMS_FL,
        FEDAVG,
        ABLATIONS[1],
        Method(name="FedBuff, first visit counts", settings={**MAIN[3].settings, "assign.provisional": True}),
    ),
    # What a user asks of a base: split, or not?
    "split": (EMS_FL, FEDAVG, LOCAL_CHOICE),
}
