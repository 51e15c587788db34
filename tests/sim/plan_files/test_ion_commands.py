"""Contact plans in the forms of ION's own manual and tutorials (ionrc(5), ION 4.1)."""

import pytest

from sim.plan_files.ion import plan_from_ion
from sim.plans.plan import ContactPlan

TUTORIAL = """## begin ionadmin
# own node
1 1 ''
s
m horizon +0
a contact +1 +3600 1 1 100000
a contact +1 +3600 1 2 100000
a contact +1 +3600 2 1 50000
a contact +1 +3600 2 2 100000
a range +1 +3600 1 1 0
a range +1 +3600 1 2 1
m production 1000000
## end ionadmin
## begin bpadmin
1
a scheme ipn 'ipnfw' 'ipnadminep'
a endpoint ipn:1.0 q
a protocol ltp 1400 100
a outduct ltp 2 ltpclo
r 'ipnadmin host1.ipnrc'
w 1
s
## end bpadmin
"""


def read(text: str) -> ContactPlan:
    return plan_from_ion(text, file="x.rc")


def spans(text: str, cluster: str = "2") -> list[tuple[float, float]]:
    """Return rises and sets of a cluster."""
    return [(contact.rise_s, contact.set_s) for contact in read(text).contacts[cluster]]


def test_a_tutorials_file_is_read_without_its_loopbacks_and_other_programs() -> None:
    plan = read(TUTORIAL)
    assert list(plan.contacts) == ["2"]
    (contact,) = plan.contacts["2"]
    assert (contact.rise_s, contact.set_s, contact.delay_s, plan.horizon_s) == (1.0, 3600.0, 1.0, 3600.0)
    assert contact.down_bytes_per_s.tolist() == [100_000.0, 100_000.0]
    assert contact.up_bytes_per_s.tolist() == [50_000.0, 50_000.0]


def test_a_file_of_loopbacks_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="no 'a contact' line between two different nodes"):
        read("a contact +1 +3600 1 1 100000\na range +1 +3600 1 1 1\n")


def test_relative_times_count_from_the_last_reference_time() -> None:
    assert spans(
        "@ 2026/01/01-00:00:00\na contact +0 +3600 1 2 9\n"
        "@ 2026/01/01-06:00:00\na contact +7200 +9000 1 2 9\n"
        "@ +3600\na contact +7200 +9000 1 2 9\n"
    ) == [(0.0, 3600.0), (28_800.0, 30_600.0), (32_400.0, 34_200.0)]


def test_a_relative_reference_time_moves_relative_times() -> None:
    assert spans(
        "a contact +0 +10 1 2 9\n@ +100\na contact +0 +10 1 2 9\n@ +100\na contact +0 +10 1 2 9\n"
    ) == [
        (0.0, 10.0),
        (100.0, 110.0),
        (200.0, 210.0),
    ]


def test_at_zero_is_when_ionadmin_runs() -> None:
    assert spans("@ +100\na contact +0 +10 1 2 9\n@ 0\na contact +0 +10 1 2 9\n") == [
        (0.0, 10.0),
        (100.0, 110.0),
    ]


def test_absolute_times_count_from_the_first_reference_or_the_earliest_contact() -> None:
    lines = (
        "a contact 2026/01/01-02:00:00 2026/01/01-02:10:00 1 2 9\n"
        "a contact 2026/01/02-00:00:00 +86460 1 2 9\n"
    )
    assert spans("@ 2026/01/01-00:00:00\n" + lines) == [(7200.0, 7800.0), (86_400.0, 86_460.0)]
    absolute = lines.replace("+86460", "2026/01/02-00:01:00")
    assert spans(absolute) == [(0.0, 600.0), (79_200.0, 79_260.0)]


def test_relative_times_before_any_reference_cannot_stand_beside_absolute_ones() -> None:
    with pytest.raises(
        ValueError, match=r"x.rc, line 2: counts from when ionadmin is started.*begin the file with '@"
    ):
        read("a contact 2026/01/01-02:00:00 2026/01/01-02:10:00 1 2 9\na contact +0 +5 1 2 9\n")


def test_a_contact_before_the_first_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="line 2: must start at 0 or later, not 60 s before the scenario"):
        read("@ 2026/01/01-00:01:00\na contact 2026/01/01-00:00:00 +100 1 2 9\n")


@pytest.mark.parametrize("order", ["before", "after"])
def test_ranges_count_wherever_they_stand(order: str) -> None:
    contact, ranges = (
        "a contact +0 +100 1 2 9\n",
        "a range +0 +50 1 2 2\na range +50 +100 1 2 4\na range +0 +9 1 3 7\n",
    )
    (seen,) = read(ranges + contact if order == "before" else contact + ranges).contacts["2"]
    assert seen.delay_s == 3.0


def test_a_contact_that_is_changed_or_deleted_is_so() -> None:
    text = "a contact +0 +10 1 2 9\na contact +20 +30 1 2 9\na contact +40 +50 1 2 9\na range +0 +50 1 2 5\n"
    plan = read(text + "c contact +20 1 2 7 1.0\nd contact +40 1 2\nd range +0 1 2\n")
    assert [(c.rise_s, c.down_bytes_per_s[0], c.delay_s) for c in plan.contacts["2"]] == [
        (0.0, 9, 0),
        (20.0, 7, 0),
    ]
    assert spans(text + "a contact +60 +70 1 3 9\nd contact * 1 2\n", "3") == [(60.0, 70.0)]


def test_registrations_and_hypothetical_contacts_carry_nothing() -> None:
    assert spans("a contact -1 -1 1 1 0\na contact 0 0 1 2 0\na contact +5 +9 1 2 9\nd contact 0 1 2\n") == [
        (5.0, 9.0)
    ]


def test_a_line_that_comes_twice_counts_once() -> None:
    # As in the files of two hosts put together.
    assert spans("a contact +5 +9 1 2 9\na contact +5 +9 1 2 9\n") == [(5.0, 9.0)]


def test_a_scheduled_contact_is_read_and_an_imputed_one_refused() -> None:
    assert spans("a contact +5 +9 1 2 9 1.0\n") == [(5.0, 9.0)]
    with pytest.raises(
        ValueError, match=r"line 1: a contact of confidence 0.6 is imputed .* delete the line, or write"
    ):
        read("a contact +5 +9 1 2 9 0.6\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("@ noon", "line 2: the reference time must be seconds after .* or yyyy/mm/dd-hh:mm:ss, got 'noon'"),
        ("@", "line 2: '@' needs one time"),
        ("@ 2026/02/30-00:00:00", "line 2: the reference time must be"),
        (
            "a contact ++5 +9 1 2 9",
            "line 2: the start must be seconds after the reference time, as .60, .* got '..5'",
        ),
        ("a contact 5 +9 1 2 9", "line 2: the start must be seconds after the reference time"),
        ("a contact +5 +inf 1 2 9", "line 2: the stop must be"),
        ("a contact +5 +9 1 2 9 1 1", "line 2: 'a contact' needs start, stop, two nodes and a value"),
        ("a contacts +5 +9 1 2 9", r"line 2: unknown command 'a contacts', did you mean contact\?"),
        ("d contact +99 1 2", "line 2: no contact before it has this start and nodes"),
        ("c contact +99 1 2 9", "line 2: no contact before it has this start and nodes"),
        ("c contact +0 1 2 0", "line 2: a rate must be > 0"),
    ],
)
def test_a_command_that_cannot_be_carried_out_is_named(line: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"x.rc, {message}"):
        read(f"a contact +0 +5 1 2 9\n{line}\n")
