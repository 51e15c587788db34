"""The run configuration: what is read, what is refused, and that every copy of the defaults is current."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import pytest
from flwr.common.config import flatten_dict, parse_config_args
from hypothesis import given, settings
from hypothesis import strategies as st

from scenario.derive import population_from
from scenario.settings.as_text import commented_toml, configuration_page, toml_text, toml_value
from scenario.settings.config import RunConfig, config_fields, flat_config
from scenario.settings.reading import read_config
from sim.plans.link import PRESETS
from tests.rooms import ROOT

CONF_FILES = sorted((ROOT / "conf").glob("*.toml"))


def refusal(settings: dict[str, bool | int | float | str]) -> str:
    with pytest.raises(ValueError) as caught:
        read_config(settings)
    return str(caught.value)


def pyproject_defaults() -> dict[str, bool | int | float | str]:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return flatten_dict(pyproject["tool"]["flwr"]["app"]["config"])


def test_an_empty_configuration_is_the_demo() -> None:
    config = read_config({})
    assert config == RunConfig()
    assert (config.strategy, config.model.name, config.data.source) == ("ems-fl", "demo", "embedded")


def test_pyproject_holds_every_setting_with_its_default() -> None:
    assert pyproject_defaults() == flat_config(RunConfig())


def test_pyproject_holds_the_comments_that_the_command_prints() -> None:
    assert commented_toml() in (ROOT / "pyproject.toml").read_text()


def test_the_documentation_page_is_what_the_command_prints() -> None:
    command = [sys.executable, "-m", "server.config"]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert printed == configuration_page()
    assert (ROOT / "docs" / "configuration.md").read_text() == printed, (
        "run: python -m server.config > docs/configuration.md"
    )


@pytest.mark.parametrize("path", CONF_FILES, ids=lambda path: path.stem)
def test_every_named_experiment_is_accepted_over_the_defaults(path: Path) -> None:
    # parse_config_args is what `flwr run --run-config FILE` reads the file with.
    overrides = parse_config_args([str(path)])
    assert set(overrides) <= set(config_fields())
    config = read_config(pyproject_defaults() | overrides)
    assert config.run.name == path.stem


def test_the_named_experiments_are_the_promised_ones() -> None:
    assert {path.stem for path in CONF_FILES} >= {"demo", "smoke", "fedavg", "deployment", "dataset"}


def test_the_demo_file_says_what_the_defaults_say() -> None:
    assert read_config(parse_config_args([str(ROOT / "conf" / "demo.toml")])) == RunConfig()


def test_parsing_the_settings_imports_neither_torch_nor_flower() -> None:
    script = (
        "import sys, scenario.settings.reading as c; c.read_config({}); "
        "print({'torch', 'flwr'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", script]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == "set()\n"


def test_whole_numbers_are_taken_where_a_number_is_meant() -> None:
    hours = read_config({"sky.hours": 48}).sky.hours
    assert hours == 48.0 and isinstance(hours, float)


def test_all_faults_are_named_at_once_one_line_each() -> None:
    message = refusal(
        {
            "sky.elevation-mask-deg": 95.0,
            "train.max-stps": 3,
            "population.devices": 0,
            "strategy": "fed-avg",
            "train.min-steps": 50,
        }
    )
    head, *lines = message.splitlines()
    assert head == "5 settings of the run configuration cannot be used:"
    assert [line.split()[0] for line in lines] == [
        "train.max-stps",
        "strategy",
        "sky.elevation-mask-deg",
        "population.devices",
        "train.min-steps",
    ]


def test_a_range_fault_names_key_range_value_and_default() -> None:
    message = refusal({"sky.elevation-mask-deg": 95.0})
    assert "sky.elevation-mask-deg must be a number in [0, 90), got 95.0; change it (default 20.0)" in message


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("train.max-stps", "train.max-steps"),
        ("train.max_steps", "train.max-steps"),
        ("max-steps", "train.max-steps"),
        ("server-learning-rate", "merge.server-learning-rate"),
    ],
)
def test_an_unknown_key_is_answered_with_the_one_that_was_meant(typed: str, meant: str) -> None:
    assert f"{typed} is not a setting; did you mean {meant}?" in refusal({typed: 1})


def test_a_key_like_no_other_points_to_the_documentation() -> None:
    assert "docs/configuration.md lists every setting" in refusal({"xyzzy": 1})


def test_a_misspelt_choice_is_answered_with_the_one_that_was_meant() -> None:
    told = refusal({"strategy": "fed-avg"})
    assert 'one of "ems-fl", "fedavg", "fedbuff", "fedasync", got \'fed-avg\'; did you mean "fedavg"?' in told


@pytest.mark.parametrize(
    "settings",
    [
        {"train.max-steps": True},
        {"train.max-steps": 2.5},
        {"train.max-steps": "8"},
        {"sky.simulated": 1},
        {"sky.hours": "24"},
        {"sky.hours": True},
        {"run.name": 7},
        {"seed": -1},
        {"data.heldout-share": 1.0},
        {"fedavg.fraction": 0.0},
        {"sky.hours": 0.0},
        {"sky.inclination-deg": 180.1},
        {"run.name": "a b"},
        {"run.name": "../up"},
        {"model.name": ""},
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_or_range_is_refused(settings: dict[str, bool | int | float | str]) -> None:
    (key,) = settings
    assert f"  {key} must be " in refusal(settings)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")], ids=str)
def test_no_number_may_be_nan_or_infinite(number: float) -> None:
    numbers = [key for key, field in config_fields().items() if field.annotation is float]
    message = refusal(dict.fromkeys(numbers, number))
    assert message.startswith(f"{len(numbers)} settings")
    assert len(numbers) > 20


@pytest.mark.parametrize(
    "key", ["run.dir", "run.resume", "sky.plan-file", "population.sites", "data.source", "model.name"]
)
def test_a_relative_path_is_refused(key: str) -> None:
    message = refusal({key: "./some/file.csv", "data.partitioner": "iid"})
    assert f"{key} must be empty or an absolute path" in message
    assert "realpath" in message
    read_config({key: "/some/file.csv", "data.partitioner": "iid"})


@pytest.mark.parametrize("elements", ["walker-delta:24/3/1", "walker-star:6/6/0", "tle:/data/sats.tle"])
def test_element_sets_that_can_be_read_are_accepted(elements: str) -> None:
    assert read_config({"sky.elements": elements}).sky.elements == elements


@pytest.mark.parametrize(
    "elements",
    [
        "",
        "walker",
        "walker-delta:",
        "walker-delta:6/3",
        "walker-delta:6/4/1",
        "walker-delta:6/3/3",
        "walker-delta:0/1/0",
        "walker-delta:6/0/0",
        "walker-delta:6/3/-1",
        "walker-rose:6/3/1",
        "tle:sats.tle",
        "tle:",
    ],
)
def test_element_sets_that_make_no_constellation_are_refused(elements: str) -> None:
    assert "  sky.elements must " in refusal({"sky.elements": elements})


@pytest.mark.parametrize("start", ["2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00+02:00", "now"])
def test_a_start_that_is_not_an_instant_in_utc_is_refused(start: str) -> None:
    assert "sky.start-utc must be empty or an ISO 8601 instant in UTC" in refusal({"sky.start-utc": start})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"train.micro-batches": 9, "train.batch-size": 8},
            "train.micro-batches must be at most train.batch-size, got 9 parts of 8 blocks",
        ),
        (
            {"train.lora-rslora": True, "train.method": "full"},
            'train.lora-rslora needs a LoRA train.method, got true and "full"',
        ),
        (
            {"train.min-steps": 9, "train.max-steps": 8},
            "train.min-steps must be at most train.max-steps, got 9 and 8; raise max-steps",
        ),
        (
            {"train.parts": "experts, attention", "train.method": "full"},
            'train.parts = "experts, attention" needs a LoRA train.method, got "full"',
        ),
        (
            {"train.parts": "attention"},
            'train.parts must name experts with the strategy "ems-fl", which deals them out',
        ),
        (
            {"train.parts": "attention", "strategy": "fedavg", "train.router-rows": True},
            'got "attention", "fedavg" and true; add them',
        ),
        ({"population.devices": 7}, "population.devices must be at least population.clusters, got 7"),
        ({"sky.hours": 6.0}, "profile.wait-hours must be at most sky.hours, got 12.0 and 6.0"),
        (
            {"sky.hours": 0.01, "profile.wait-hours": 0.01},
            "sky.step-s must be at most the horizon, got 60.0 s",
        ),
        (
            {"sky.simulated": False, "sky.hours": 0.01},
            "train.steps-wall-budget-s must be at most the horizon",
        ),
        ({"run.resume": "/runs/x", "strategy": "fedavg"}, 'run.resume needs the strategy "ems-fl"'),
        ({"data.source": "/a.csv"}, "data.domain-column must name a column"),
        ({"data.source": "/a.csv", "data.partitioner": "dirichlet"}, "data.label-column or data.domain-col"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_that_cannot_go_together_are_refused(
    settings: dict[str, bool | int | float | str], words: str
) -> None:
    message = refusal(settings)
    assert message.startswith("1 setting of the run configuration cannot be used:")
    assert words in message


def test_a_pair_is_not_judged_while_one_of_it_cannot_be_read() -> None:
    assert refusal({"train.min-steps": 99, "train.max-steps": 0}).startswith("1 setting ")


def test_the_link_presets_are_those_that_the_sky_knows() -> None:
    (rule,) = (field.annotation for key, field in config_fields().items() if key == "link.preset")
    assert set(get_args(rule)) == {*PRESETS, "fixed"}


def test_equal_minimum_and_maximum_steps_fix_the_number_of_steps() -> None:
    assert read_config({"train.min-steps": 8, "train.max-steps": 8}).train.min_steps == 8


def test_the_settings_cannot_be_changed_after_reading() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_config({}).train.max_steps = 3


def test_every_setting_is_described() -> None:
    for key, field in config_fields().items():
        assert field.description and field.description.endswith((".", ")")), key


def test_the_toml_of_a_configuration_reads_back_as_the_same_configuration(tmp_path: Path) -> None:
    config = read_config({"seed": 7, "sky.hours": 36.5, "run.dir": '/tmp/a "b" \\ü', "run.name": "x"})
    (tmp_path / "config.toml").write_text(toml_text(flat_config(config)))
    assert read_config(parse_config_args([str(tmp_path / "config.toml")])) == config


@settings(deadline=None)  # the machine is shared: no time limit
@given(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_every_scalar_survives_toml(value: str | bool | int | float) -> None:
    read = tomllib.loads(f"key = {toml_value(value)}\n")["key"]
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("name", ["demo", "smoke"])
def test_the_named_skies_serve_every_cluster_again_and_again(name: str) -> None:
    config = read_config(parse_config_args([str(ROOT / "conf" / f"{name}.toml")]))
    # The rooms behind it are only needed here.
    from scenario.contact_plan import plan_from

    notices: list[str] = []
    plan = plan_from(config, population_from(config), notices.append)
    # Profile, dispatch and upload take three visits; fewer would end the run before its first merge.
    assert min(len(contacts) for contacts in plan.contacts.values()) >= 3
    assert not notices


def test_a_natural_partition_needs_rows_and_its_column() -> None:
    assert 'data.partitioner = "cluster" needs a data.source of rows' in refusal(
        {"data.partitioner": "cluster"}
    )
    told = refusal({"data.partitioner": "cluster", "data.source": "/data/rows.csv"})
    assert 'data.cluster-column must name a column exactly when data.partitioner is "cluster"' in told
    assert "data.device-column needs a data.source of rows" in refusal({"data.device-column": "user"})


def test_choices_need_to_know_where_the_answers_are() -> None:
    assert "evaluate.choices needs data.response-column or data.messages-column, got 4" in refusal(
        {"evaluate.choices": 4}
    )
