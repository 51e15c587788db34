"""What is saved is what is loaded, and damage is named."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from moe.experts import ExpertId, ParameterKey
from server.record.state import STATE_FILE, load_state, save_state
from strategy.assignment import Assignment
from strategy.flights import Flights, InFlight
from strategy.messages import ExpertUpdate, Profile
from strategy.state import Arrival, EmsFlState
from tests.full_disk import files_at_most


def full_state(seed: int) -> EmsFlState:
    """Return a state in which every field holds something."""
    rng = np.random.default_rng(seed)
    key = ParameterKey(2, int(rng.integers(9)), "fc_in.lora_B")
    array = rng.normal(size=(3, 2)).astype(np.float32)
    profile = Profile(
        cluster="sea",
        devices=(1, 2),
        mass=(rng.random(4), rng.random(4)),
        num_examples=9,
        memory_bytes=10**10,
        fingerprint="f",
        held=(ExpertId(0, 2),),
    )
    update = ExpertUpdate(
        arrays={key: array + 1},
        num_examples=3,
        train_loss=0.1 + rng.random(),
        local_steps=2,
        heldout_loss=2.5,
    )
    return EmsFlState(
        values={key: array},
        versions={key.expert: 3},
        profiles={7: profile},
        refused={8: "another base"},
        assignment=Assignment(
            experts={"sea": (key.expert,), "ice": ()},
            groups=(("sea", "bay"), ("ice",)),
            capture={"sea": 1 / 3},
            random_capture={"sea": 0.25},
        ),
        provisional={"sea": (ExpertId(0, 1),), "ice": ()},
        in_flight=Flights(
            {
                "m1": InFlight(node_id=7, cluster="sea", versions={key.expert: 2}),
                "m2": InFlight(node_id=9, cluster="", versions={}),
                "m3": InFlight(node_id=7, cluster="", versions={}, pieces=("0.1/0", "0.1/1")),
            }
        ),
        arrivals={"sea": [Arrival(node_id=7, versions={key.expert: 1}, update=update, arrived_s=12.75)]},
        dispatches={7: 2},
        failures={9: 1},
        held={7: {"0.1/0", "0.2"}},
        lost={7: {3: {key.expert: 2}}},
        left_out={"bay", "cape"},
        merges=5,
        evaluated_at=4,
    )


def assert_equal(one: object, other: object) -> None:
    """Compare deeply, arrays bit by bit."""
    if isinstance(one, np.ndarray):
        assert isinstance(other, np.ndarray) and one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    elif isinstance(one, dict):
        assert isinstance(other, dict) and list(one) == list(other)
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, Flights):
        assert isinstance(other, Flights) and one.nodes == other.nodes
        assert list(one.training("sea")) == list(other.training("sea"))
        assert_equal(dict(one), dict(other))
    elif isinstance(one, list | tuple):
        assert type(one) is type(other) and len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_equal(a, b)
    elif hasattr(one, "__dataclass_fields__"):
        assert type(one) is type(other)
        for name in one.__dataclass_fields__:
            assert_equal(getattr(one, name), getattr(other, name))
    else:
        assert one == other


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(min_size=1, max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 1000), st.dictionaries(st.text(max_size=3), json_values, max_size=3))
def test_everything_that_is_saved_comes_back(tmp_path: Path, seed: int, sky: dict[str, object]) -> None:
    state = full_state(seed)
    save_state(tmp_path, state, sky=sky, extra={"log_offset": 17})
    loaded, loaded_sky, extra = load_state(tmp_path)
    assert_equal(loaded, state)
    assert loaded_sky == sky
    assert extra == {"log_offset": 17}
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]


def test_a_missing_or_damaged_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="was never saved"):
        load_state(tmp_path)
    save_state(tmp_path, full_state(1), sky={}, extra={})
    whole = (tmp_path / STATE_FILE).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"nonsense" * 9):
        (tmp_path / STATE_FILE).write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged"):
            load_state(tmp_path)


def test_an_empty_state_survives_too(tmp_path: Path) -> None:
    save_state(tmp_path, EmsFlState(values={}), sky={}, extra={})
    assert_equal(load_state(tmp_path)[0], EmsFlState(values={}))


@pytest.mark.parametrize("num_bytes", [0, 100, 1000])
def test_a_write_that_the_disk_refuses_leaves_the_old_state_and_nothing_else(
    tmp_path: Path, num_bytes: int
) -> None:
    save_state(tmp_path, full_state(1), sky={}, extra={})
    file = tmp_path / STATE_FILE
    says = (
        rf"the state of the run cannot be written to {file} .*File too large.* are free there.*another disk"
    )
    for _ in range(2):
        with files_at_most(num_bytes), pytest.raises(OSError, match=says):
            save_state(tmp_path, full_state(2), sky={}, extra={})
        assert_equal(load_state(tmp_path)[0], full_state(1))
        assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
    save_state(tmp_path, full_state(2), sky={}, extra={})
    assert_equal(load_state(tmp_path)[0], full_state(2))


def test_a_disk_that_refuses_only_when_it_is_made_sure_leaves_the_old_state_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_state(tmp_path, full_state(1), sky={}, extra={})

    def refuse(_: int) -> None:
        raise OSError("quota exceeded")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(OSError, match=r"the state of the run cannot be written .*quota exceeded"):
        save_state(tmp_path, full_state(2), sky={}, extra={})
    assert_equal(load_state(tmp_path)[0], full_state(1))
    assert [path.name for path in tmp_path.iterdir()] == [STATE_FILE]
