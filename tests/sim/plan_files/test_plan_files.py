"""Plans on disk: round trips that lose nothing, files of other tools, and faults by line."""

import datetime as dt
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sim.plan_files.files import read_plan, write_plan
from sim.plan_files.ion import plan_from_ion
from sim.plan_files.stk import read_stk, write_stk
from sim.plans.plan import Contact, ContactPlan
from tests.sim.grid.skies import flat
from tests.sim.plans.test_plan import ramp

UTC_2021 = dt.datetime(2021, 1, 30, tzinfo=dt.UTC)
PLAN = ContactPlan(
    horizon_s=86_400.0,
    contacts={
        "Ny-Alesund": (
            ramp(0.1, 500.7, [0.0, 1 / 3 * 1e6, 1e6, 0.1], delay_s=0.00271),
            flat(1e4, 1.1e4, 7.0, 0.0),
        ),
        "nowhere": (),
        "Ulan,Bator": (flat(3e3, 4e3, 1e5, 2e5),),
    },
)  # fmt: skip


@st.composite
def plans(draw: st.DrawFn) -> ContactPlan:
    contacts = {}
    for cluster in draw(st.lists(st.sampled_from(["A", "b c", 'q"x', "ü"]), unique=True, max_size=3)):
        its, end_s = [], 0.0
        for _ in range(draw(st.integers(0, 3))):
            rise_s = end_s + draw(st.floats(0.0, 1e4))
            time_s = rise_s + np.cumsum(
                [0.0, *draw(st.lists(st.floats(1e-3, 400.0), min_size=1, max_size=4))]
            )
            rates = [draw(st.floats(0.0, 1e9)) for _ in range(2 * len(time_s))]
            its.append(
                Contact(
                    rise_s=float(time_s[0]),
                    set_s=float(time_s[-1]),
                    satellites=tuple(
                        draw(st.lists(st.sampled_from(["SAT-1", "ISS (ZARYA)", "ü,"]), max_size=2))
                    ),
                    time_s=time_s,
                    down_bytes_per_s=np.array(rates[: len(time_s)]) + 1e-3,
                    up_bytes_per_s=np.array(rates[len(time_s) :]),
                    delay_s=draw(st.floats(0.0, 0.3)),
                )
            )
            end_s = its[-1].set_s
        contacts[cluster] = tuple(its)
    last_s = max((its[-1].set_s for its in contacts.values() if its), default=1.0)
    return ContactPlan(horizon_s=last_s + draw(st.floats(0.0, 1e5)), contacts=contacts)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".ion"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans())
def test_a_round_trip_loses_nothing(tmp_path: Path, suffix: str, plan: ContactPlan) -> None:
    path = tmp_path / f"plan{suffix}"
    write_plan(plan, path)
    assert read_plan(path) == plan
    assert [path] == list(tmp_path.iterdir())  # nothing half-written is left


def test_the_csv_is_a_table_a_person_can_read(tmp_path: Path) -> None:
    write_plan(PLAN, tmp_path / "plan.csv")
    lines = (tmp_path / "plan.csv").read_text().splitlines()
    assert lines[0] == (
        '# {"ems-fl-contact-plan": 1, "horizon_s": 86400.0,'
        ' "clusters": ["Ny-Alesund", "nowhere", "Ulan,Bator"]}'
    )
    assert lines[1] == "cluster,rise_s,set_s,satellites,delay_s,time_s,down_bytes_per_s,up_bytes_per_s"
    assert lines[2] == "Ny-Alesund,0.1,500.7,SAT-1,0.00271,0.1,0.0,0.0"
    assert lines[-1] == '"Ulan,Bator",3000.0,4000.0,SAT-1,0.0,4000.0,100000.0,200000.0'


def edit(tmp_path: Path, old: str, new: str, suffix: str = ".csv") -> Path:
    """Write a small plan, replace a text in it, and return the path."""
    path = tmp_path / f"plan{suffix}"
    write_plan(
        ContactPlan(
            horizon_s=1000.0, contacts={"A": (flat(10.0, 20.0, 5.0, 6.0), flat(30.0, 40.0, 5.0, 6.0))}
        ),
        path,
    )
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("10.0,5.0,6.0", "10.0,five,6.0", r"plan.csv, line 3: down_bytes_per_s must be .* got 'five'"),
        ("10.0,5.0,6.0", "10.0,nan,6.0", r"line 3: down_bytes_per_s must be a finite number"),
        ("10.0,5.0,6.0", "10.0,-5.0,6.0", r"line 3: contact .*down_bytes_per_s must be finite and >= 0"),
        ("A,30.0,40.0", "B,30.0,40.0", r"line 5: unknown cluster 'B'; the header names: A"),
        ("30.0", "15.0", r"line 5: .* rises at 15.0 s, before the one of line 3 sets at 20.0 s"),
        ("30.0", "50.0", r"line 5: .*rise_s < set_s"),
        ("40.0", "4000.0", r"line 5: .*sets at 4000.0 s, past the horizon, 1000.0 s"),
        ("20.0,5.0,6.0", "20.0,5.0", r"line 4: .*number, got None"),
        ("delay_s", "lag_s", r"line 2: lacks the columns delay_s"),
        ('"horizon_s"', '"horizon"', r"not a contact plan of ours"),
        ("plan\": 1", "plan\": 2", r"version 2, this program reads version 1"),
    ],
)  # fmt: skip
def test_faults_of_a_csv_are_named_with_their_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_plan(edit(tmp_path, old, new))


def test_rates_of_zero_are_refused_when_read_and_when_written(tmp_path: Path) -> None:
    path = edit(tmp_path, ",5.0,6.0", ",0.0,0.0")
    with pytest.raises(ValueError, match=r"line 3: .*carries nothing(.|\n)*line 5: .*carries nothing"):
        read_plan(path)
    with pytest.raises(ValueError, match=r"'A' at 0\.0 s carries nothing"):
        write_plan(
            ContactPlan(horizon_s=1.0, contacts={"A": (flat(0.0, 1.0, 0.0, 0.0),)}), tmp_path / "x.csv"
        )
    assert not (tmp_path / "x.csv").exists()


def test_unknown_suffixes_and_files_that_are_no_plans_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix must be \.csv, \.parquet"):
        write_plan(PLAN, tmp_path / "plan.xlsx")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "b.csv").write_text("time,place\n1,2\n")
    (tmp_path / "c.parquet").write_text("no")
    (tmp_path / "d.csv").write_text('\n"Start Time (UTCG)","Stop Time (UTCG)"\n')
    for name, message in (
        ("a.csv", "not a text file"),
        ("b.csv", "begins with a"),
        ("c.parquet", "not a parquet file"),
        ("d.csv", "read_stk"),
    ):
        with pytest.raises(ValueError, match=f"{name}: .*{message}"):
            read_plan(tmp_path / name)


def test_a_parquet_of_something_else_is_refused(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="not a contact plan of ours"):
        read_plan(tmp_path / "x.parquet")


ION = """
# a lander, two orbiters (from a tutorial's shape)
1 60 ''
a contact +0 +100 1 10 1000
a contact +0 +100 10 1 500
a contact +60 +150 2 10 3000
a contact +200 +260 1 10 1000
a range +0 +300 1 10 2
a range +0 +300 2 10 4
m production 1000
"""


def test_an_ion_plan_of_others_joins_satellites_at_the_best_rate() -> None:
    plan = plan_from_ion(ION, file="x.ion", clusters={"10": "mars"})
    assert plan.horizon_s == 260.0
    first, second = plan.contacts["mars"]
    assert (first.rise_s, first.set_s, first.satellites) == (0.0, 150.0, ("1", "2"))
    assert first.time_s.tolist() == [0.0, 60.0, 60.0, 100.0, 100.0, 150.0]
    assert first.down_bytes_per_s.tolist() == [1000.0, 1000.0, 3000.0, 3000.0, 3000.0, 3000.0]
    assert first.up_bytes_per_s.tolist() == [500.0, 500.0, 500.0, 500.0, 0.0, 0.0]
    assert first.capacity_bytes("down") == 60 * 1000 + 90 * 3000
    assert first.delay_s == 3.0
    assert (second.rise_s, second.satellites) == (200.0, ("1",))


def test_the_one_node_of_every_ion_contact_is_the_server() -> None:
    plan = plan_from_ion("a contact +0 +9 7 1 5\na contact +3 +9 1 12 5\n", file="x.ion")
    assert list(plan.contacts) == ["7", "12"]
    with pytest.raises(ValueError, match="cannot tell satellites from clusters"):
        plan_from_ion(ION + "a contact +0 +9 5 6 7\n", file="x.ion")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a contact +10 +5 1 2 9", "line 1: must start at 0 or later and stop later"),
        ("a contact +1 +5 1 2 0", "line 1: a rate must be > 0"),
        ("a contact +1 +5 1 2 fast", "line 1: the value must be a finite number, got 'fast'"),
        ("a contact 2021/13/30-10:00:00 +5 1 2 9", "line 1: the start must be seconds after"),
        ("a contact +1 +5 1 2", "line 1: 'a contact' needs start, stop, two nodes and a value"),
        (
            "a contact +1 +5 1 2 9\na contact +4 +8 1 2 9",
            "line 2: begins at 4.0 s, before the window of line 1",
        ),
        ("a range +1 +5 1 2 9", "no 'a contact' line"),
        ("hello", "no 'a contact' line"),
    ],
)
def test_faults_of_an_ion_plan_are_named_with_their_line(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan_from_ion(line, file="x.ion")


def test_nodes_that_are_no_clusters_are_refused_with_their_line() -> None:
    with pytest.raises(ValueError, match="line 1: neither node is a cluster, 1 and 2"):
        plan_from_ion("a contact +1 +5 1 2 9", file="x.ion", clusters={"3": "mars"})


def test_what_ion_sees_of_our_plan_never_promises_more_than_the_link_carries(tmp_path: Path) -> None:
    path = tmp_path / "plan.ion"
    write_plan(PLAN, path)
    plain = "\n".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
    assert all(word.lstrip("+").isdigit() for line in plain.splitlines() for word in line.split()[2:6])
    seen = plan_from_ion(plain, file="x.ion", clusters={"2": "Ny-Alesund", "3": "nowhere", "4": "Ulan,Bator"})
    for cluster, contacts in seen.contacts.items():
        exact = sum(contact.capacity_bytes("down") for contact in PLAN.contacts[cluster])
        assert 0.97 * exact <= sum(contact.capacity_bytes("down") for contact in contacts) <= exact


def test_an_ion_plan_edited_by_hand_is_not_read_from_its_comments(tmp_path: Path) -> None:
    path = edit(tmp_path, "a contact +10 +20 1 2 5", "a contact +10 +20 1 2 9", ".ion")
    with pytest.raises(ValueError, match="line 4: differs from the comment before it; delete the '# ems-fl'"):
        read_plan(path)


STK = """
"Start Time (UTCG)","Stop Time (UTCG)","Duration (sec)","From Object","To Object"
30 Jan 2021 00:01:40.000,30 Jan 2021 00:03:20.500,100.500,SAT-1,Site-1
30 Jan 2021 00:03:00.000,30 Jan 2021 00:05:00.000,120.000,SAT-2,Site-1
30 Jan 2021 01:00:00.000,30 Jan 2021 01:01:00.000,60.000,SAT-1,Site-2
"""


def stk(path: Path, text: str = STK, **options: object) -> ContactPlan:
    path.write_text(text)
    rates = {"down_bytes_per_s": 1000.0, "up_bytes_per_s": 10.0, "start": UTC_2021}
    return read_stk(path, **{**rates, **options})  # type: ignore[arg-type]


def test_an_stk_access_report_gives_windows(tmp_path: Path) -> None:
    plan = stk(tmp_path / "access.csv", delay_s=0.003)
    (first,) = plan.contacts["Site-1"]
    assert (first.rise_s, first.set_s, first.satellites) == (100.0, 300.0, ("SAT-1", "SAT-2"))
    assert (first.capacity_bytes("down"), first.capacity_bytes("up"), first.delay_s) == (2e5, 2e3, 0.003)
    assert plan.contacts["Site-2"][0].rise_s == 3600.0
    assert plan.horizon_s == 3660.0


def test_an_stk_report_that_was_read_is_written_and_read_back_equal(tmp_path: Path) -> None:
    plan = stk(tmp_path / "access.csv", STK.replace("40.000,", "40.123,").replace("100.500", "100.377"))
    write_stk(plan, tmp_path / "again.csv", start=UTC_2021)
    again = stk(tmp_path / "again.csv", (tmp_path / "again.csv").read_text())
    assert again.contacts["Site-1"][0].satellites == ("SAT-1;SAT-2",)
    assert {name: [(c.rise_s, c.set_s) for c in its] for name, its in again.contacts.items()} == {
        name: [(c.rise_s, c.set_s) for c in its] for name, its in plan.contacts.items()
    }


@pytest.mark.parametrize(
    ("old", "new", "options", "message"),
    [
        ("30 Jan 2021 00:01:40.000", "2021-01-30", {}, "line 3: Start Time .* must look like"),
        ("00:03:20.500", "00:01:20.500", {}, "line 3: must start at or after .* and stop later"),
        ("100.500", "99.0", {}, r"line 3: Duration \(sec\) is '99.0', stop less start is 100.500"),
        ("SAT-2,Site-1", "SAT-1,Site-1", {}, "line 4: begins at 180.0 s, before the window of line 3"),
        ("From Object", "From", {}, "line 3: not an STK access report"),
        (",SAT-1,Site-2", "", {}, "line 5: 3 fields"),
        ("Site-2", "Site-3", {"clusters": {"Site-1": "A", "Site-2": "B"}}, "line 5: unknown object 'Site-3'"),
        ("SAT", "SAT", {"horizon_s": 1000.0}, "line 5: stops at 3660.0 s, past the horizon, 1000.0 s"),
        ("SAT", "SAT", {"start": dt.datetime(2021, 1, 30)}, "must have a time zone"),
        ("SAT", "SAT", {"down_bytes_per_s": 0.0, "up_bytes_per_s": 0.0}, "both 0"),
    ],
)
def test_faults_of_an_stk_report_are_named_with_their_line(
    tmp_path: Path, old: str, new: str, options: dict[str, object], message: str
) -> None:
    assert old in STK
    with pytest.raises(ValueError, match=message):
        stk(tmp_path / "access.csv", STK.replace(old, new), **options)
