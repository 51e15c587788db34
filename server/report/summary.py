"""What a run comes to, as values: the numbers behind the last screen and ``summary.json``."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from server.record.run_folder import is_run, write_atomically

SUMMARY_FILE = "summary.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSummary:
    """What one cluster did and what came of it.

    Parameters
    ----------
    name, domain : str
        The cluster, and what its text is about.
    experts_per_layer : tuple[int, ...]
        Experts assigned in each MoE layer, by layer; empty before the assignment.
    capture, random_capture : float or None
        Share of its routing mass on its experts, and the same for a random assignment; None without one.
    contacts : int
        Contact windows in which it exchanged at least one byte.
    bytes_down, bytes_up : int
        Over the link, in both cases whole messages.
    model_bytes_down : int
        Of ``bytes_down``, what brought pieces of the model.
    local_steps : int
        Steps of all its devices whose updates were used, or with a stock strategy came up.
    merges, failures : int or None
        Merges of its updates; replies that failed or were refused; None of a stock strategy, which tells
        of neither.
    own_loss_before, own_loss_after : float or None
        Held-out loss of the cluster's own sub-model, nats a token, on its own domain; None where the
        strategy has no sub-models or it was not measured. Where clusters are known on contact, what their
        nodes measured at their first and their last training, before it.
    merged_loss_before, merged_loss_after : float or None
        The same for the merged model under its full router.
    own_accuracy_before, own_accuracy_after, merged_accuracy_before, merged_accuracy_after : float or None
        Share of the cluster's held-out questions that are answered as the data does, by the same models; None
        where ``evaluate.choices`` is 0.
    """

    name: str
    domain: str
    experts_per_layer: tuple[int, ...] = ()
    capture: float | None = None
    random_capture: float | None = None
    contacts: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    model_bytes_down: int = 0
    local_steps: int = 0
    merges: int | None = 0
    failures: int | None = 0
    own_loss_before: float | None = None
    own_loss_after: float | None = None
    merged_loss_before: float | None = None
    merged_loss_after: float | None = None
    own_accuracy_before: float | None = None
    own_accuracy_after: float | None = None
    merged_accuracy_before: float | None = None
    merged_accuracy_after: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one way of tuning sends and trains.

    Parameters
    ----------
    bytes_down, bytes_up : int
        Over all links, in the whole run.
    trainable_parameters : int
        On one device, at most.
    """

    bytes_down: int
    bytes_up: int
    trainable_parameters: int


def cost_of_messages(
    *, messages_down: int, messages_up: int, parameters: int, bytes_per_parameter: int
) -> Cost:
    """Return what as many messages would have cost if each carried ``parameters`` values, all of them tuned.

    Examples
    --------
    >>> cost_of_messages(messages_down=3, messages_up=2, parameters=1000, bytes_per_parameter=4)
    Cost(bytes_down=12000, bytes_up=8000, trainable_parameters=1000)
    """
    size = parameters * bytes_per_parameter
    return Cost(bytes_down=messages_down * size, bytes_up=messages_up * size, trainable_parameters=parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSummary:
    """Everything the last screen says.

    Parameters
    ----------
    strategy : str
        ``"ems-fl"`` or ``"fedavg"``.
    clusters : tuple[ClusterSummary, ...]
        In the population's order.
    spent, full_adapter, full_model : Cost
        What the run cost, and what the same training messages would have cost with an adapter of every
        expert, or with the whole model.
    whole_model_bytes : int
        What the nodes that were sent pieces of the model would have been sent as a whole; 0 where none were.
    clock_s, wall_s : float
        Length of the run on its own clock (simulated unless ``is_simulated`` is false) and on the wall.
    is_simulated : bool
        Whether the sky was.
    stop_reason : str
        Why the run ended, such as ``"the horizon was reached"``.
    run_folder : str
        Where everything else is.
    server_loss_before, server_loss_after : float or None
        Held-out loss of the merged model on text of the server's own, nats a token, where clusters are known
        on contact and the server has text; else None.
    capture_kept : float or None
        Of the capture that an assignment by the experts' own routing of the held-out text would have, what
        the run's assignment has, where devices profiled without experts; None where they had them, and on
        real nodes.
    warnings : tuple[str, ...]
        What a person should know before believing the numbers.
    comparison : str
        What FedAvg came to in the same world (`server.report.rival`); empty where that is not known.
    """

    strategy: str
    clusters: tuple[ClusterSummary, ...]
    spent: Cost
    full_adapter: Cost
    full_model: Cost
    clock_s: float
    wall_s: float
    stop_reason: str
    run_folder: str
    is_simulated: bool = True
    whole_model_bytes: int = 0
    server_loss_before: float | None = None
    server_loss_after: float | None = None
    capture_kept: float | None = None
    warnings: tuple[str, ...] = ()
    comparison: str = ""


def write_summary(folder: Path, summary: RunSummary) -> Path:
    """Write ``summary.json`` into the run folder, atomically, and return its path.

    Raises
    ------
    ValueError
        If a number is NaN or infinite; a value that was not measured is None.
    """
    path = folder / SUMMARY_FILE
    write_atomically(path, json.dumps(asdict(summary), indent=2, sort_keys=True, allow_nan=False) + "\n")
    return path


def read_summary(folder: Path) -> RunSummary:
    """Return the summary of a finished run.

    Raises
    ------
    ValueError
        If the folder is no run's, the run has not ended, or another version wrote the file.
    """
    path = folder / SUMMARY_FILE
    if not path.is_file():
        if is_run(folder):
            raise ValueError(f"the run in {folder} has not ended; go on with it: ems-fl resume {folder}")
        raise ValueError(f"{folder} is not the folder of a run: it has no {SUMMARY_FILE}")
    try:
        return TypeAdapter(RunSummary).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise ValueError(
            f"{path} is damaged, or another version of EMS-FL wrote it ({where}: {first['msg']})"
        ) from error
