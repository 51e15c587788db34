"""The last screen: numbers as they are, nothing invented, readable at 100 columns without colour."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.report.screen import (
    WIDTH,
    count,
    duration,
    experts_text,
    near_uniform_warning,
    percent,
    render_assignment,
    render_summary,
    size,
)
from server.report.summary import ClusterSummary, Cost, RunSummary, cost_of_messages, write_summary

NAIROBI = ClusterSummary(
    name="nairobi",
    domain="python source",
    experts_per_layer=(1, 1, 2),
    capture=0.384,
    random_capture=0.125,
    contacts=12,
    bytes_down=12_345_678,
    bytes_up=934_000,
    local_steps=1234,
    merges=11,
    failures=2,
    own_loss_before=4.576,
    own_loss_after=4.419,
    merged_loss_before=4.69,
    merged_loss_after=4.661,
)
MAWSON = replace(
    NAIROBI,
    name="mawson",
    domain="licences",
    own_loss_before=5.0,
    own_loss_after=5.25,
    failures=0,
    contacts=8,
)
SUMMARY = RunSummary(
    strategy="ems-fl",
    clusters=(NAIROBI, MAWSON),
    spent=Cost(bytes_down=24_691_356, bytes_up=1_868_000, trainable_parameters=36_864),
    full_adapter=Cost(bytes_down=200_000_000, bytes_up=15_000_000, trainable_parameters=294_912),
    full_model=Cost(bytes_down=2_000_000_000, bytes_up=2_000_000_000, trainable_parameters=1_200_000),
    clock_s=86_400.0,
    wall_s=243.2,
    stop_reason="the horizon was reached",
    run_folder="/home/someone/.local/share/ems-fl/runs/demo-20260101T000000Z",
)


def row(text: str, start: str, table: int = 0) -> list[str]:
    """Return the cells of the ``table``-th line that starts with ``start``; cells are two blanks apart."""
    line = [line for line in text.splitlines() if line.startswith(start)][table]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_losses_stand_before_after_and_as_their_difference() -> None:
    text = render_summary(SUMMARY)
    assert row(text, "nairobi") == [
        "nairobi", "python source", "4.576", "4.419", "-0.157", "4.690", "4.661", "-0.029",
    ]  # fmt: skip
    # A loss that rose is shown as risen.
    assert row(text, "mawson")[4] == "+0.250"


def test_the_mean_is_over_clusters() -> None:
    # (4.576 + 5.0) / 2 = 4.788 and (4.419 + 5.25) / 2 = 4.8345
    assert row(render_summary(SUMMARY), "mean")[1:4] == ["4.788", "4.835", "+0.046"]


def test_traffic_adds_up_in_the_last_row() -> None:
    text = render_summary(SUMMARY)
    assert row(text, "nairobi", 1) == [
        "nairobi", "1-2", "38.4%", "12.5%", "12", "12.3 MB", "934 kB", "1234", "11", "2",
    ]  # fmt: skip
    assert row(text, "all") == ["all", "38.4%", "12.5%", "20", "24.7 MB", "1.87 MB", "2468", "22", "2"]


def test_the_cost_stands_beside_that_of_the_full_adapter_and_the_full_model() -> None:
    text = render_summary(SUMMARY)
    assert row(text, "bytes down") == ["bytes down", "24.7 MB", "200 MB", "8.1x", "2.00 GB", "81.0x"]
    assert row(text, "tuned parameters/device")[1:] == ["36.9 k", "295 k", "8.0x", "1.20 M", "32.6x"]


def test_a_run_without_sub_models_shows_no_metric_for_them() -> None:
    fedavg = replace(
        NAIROBI,
        experts_per_layer=(),
        capture=None,
        random_capture=None,
        own_loss_before=None,
        own_loss_after=None,
        merges=None,
        failures=None,
    )
    text = render_summary(replace(SUMMARY, strategy="fedavg", clusters=(fedavg,)))
    assert [line.split()[-2:] for line in text.splitlines() if line.startswith("all ")] == [["-", "-"]]
    assert row(text, "nairobi")[2:5] == ["-", "-", "-"]
    assert row(text, "mean") == ["mean", "-", "-", "-", "4.690", "4.661", "-0.029"]
    assert row(text, "nairobi", 1)[1:4] == ["-", "-", "-"]


def test_a_mean_over_some_of_the_clusters_is_not_shown() -> None:
    text = render_summary(replace(SUMMARY, clusters=(NAIROBI, replace(MAWSON, own_loss_after=None))))
    assert row(text, "mean")[1:4] == ["4.788", "-", "-"]


def test_the_end_says_why_how_long_and_where() -> None:
    text = render_summary(SUMMARY)
    assert "ems-fl ended: the horizon was reached\n" in text
    assert "simulated 1 00:00 (d hh:mm), wall 4 min 03 s\n" in text
    assert text.endswith("run folder: /home/someone/.local/share/ems-fl/runs/demo-20260101T000000Z\n")
    assert "elapsed 1 00:00" in render_summary(replace(SUMMARY, is_simulated=False))


names = st.text(st.characters(max_codepoint=0x2FF), min_size=1, max_size=60)
losses = st.none() | st.floats(0, 99.9)
captures = st.none() | st.floats(0, 1)
clusters = st.builds(
    ClusterSummary,
    name=names,
    domain=names,
    experts_per_layer=st.lists(st.integers(1, 256), max_size=4).map(tuple),
    capture=captures,
    random_capture=captures,
    contacts=st.integers(0, 9999),
    bytes_down=st.integers(0, 10**14),
    bytes_up=st.integers(0, 10**14),
    local_steps=st.integers(0, 10**6),
    merges=st.integers(0, 10**5),
    failures=st.integers(0, 10**5),
    own_loss_before=losses,
    own_loss_after=losses,
    merged_loss_before=losses,
    merged_loss_after=losses,
)


@settings(deadline=None, max_examples=50)  # the machine is shared: no time limit
@given(st.lists(clusters, max_size=5))
def test_no_table_is_wider_than_the_screen_or_coloured(listed: list[ClusterSummary]) -> None:
    text = render_summary(replace(SUMMARY, clusters=tuple(listed))) + render_assignment(listed, {})
    lines = text.split("\n")
    assert all(len(line) <= WIDTH for line in lines)
    assert not any(line.endswith(" ") for line in lines)
    assert "\x1b" not in text


def test_names_are_shown_as_they_are_and_not_read_as_markup() -> None:
    text = render_summary(replace(SUMMARY, clusters=(replace(NAIROBI, domain="[b]:key:"),)))
    assert row(text, "nairobi")[1] == "[b]:key:"


def test_the_assignment_shows_captures_beside_random_and_warns_near_uniform() -> None:
    text = render_assignment([NAIROBI, MAWSON], {"mawson": 1.02})
    assert row(text, "nairobi") == ["nairobi", "python source", "1-2", "38.4%", "12.5%", "3.1x"]
    assert "warning: the routing of mawson is near uniform" in text
    assert "warning" not in render_assignment([NAIROBI], {})
    assert near_uniform_warning({}) == ""


def test_many_near_uniform_clusters_are_counted_and_the_worst_three_named() -> None:
    gains = {f"site-{number}": 1.0 + number / 1000 for number in range(20, 0, -1)}
    assert near_uniform_warning(gains).startswith(
        "the routing of 20 clusters (the worst: site-1, site-2, site-3) is near uniform"
    )
    three = {name: gains[name] for name in ("site-3", "site-1", "site-2")}
    assert near_uniform_warning(three).startswith("the routing of site-1, site-2, site-3 is near uniform")


@pytest.mark.parametrize(
    ("num_bytes", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (41_000_000_000, "41.0 GB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes_have_three_digits(num_bytes: int, shown: str) -> None:
    assert size(num_bytes) == shown


def test_counts_shares_and_durations_read_well() -> None:
    assert (count(512), count(36_864)) == ("512", "36.9 k")
    assert (percent(0.3841), percent(None)) == ("38.4%", "-")
    assert (duration(7.46), duration(59.97), duration(243.2)) == ("7.5 s", "1 min 00 s", "4 min 03 s")
    assert (experts_text(()), experts_text((2, 2)), experts_text((3, 1))) == ("-", "2", "1-3")


def test_the_cost_of_other_messages_is_their_number_times_their_size() -> None:
    cost = cost_of_messages(messages_down=10, messages_up=8, parameters=1_000_000, bytes_per_parameter=2)
    assert cost == Cost(bytes_down=20_000_000, bytes_up=16_000_000, trainable_parameters=1_000_000)


def test_the_summary_file_holds_every_number_and_null_for_none(tmp_path: Path) -> None:
    written = replace(SUMMARY, clusters=(replace(NAIROBI, own_loss_after=None), MAWSON))
    path = write_summary(tmp_path, written)
    read = json.loads(path.read_text())
    assert path.name == "summary.json"
    assert read["clusters"][0]["own_loss_after"] is None
    assert read["clusters"][0]["bytes_down"] == 12_345_678
    assert read["full_model"]["trainable_parameters"] == 1_200_000
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_with_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError):
        write_summary(tmp_path, replace(SUMMARY, wall_s=float("nan")))
    assert list(tmp_path.iterdir()) == []


def test_accuracies_have_a_table_only_where_they_were_measured() -> None:
    assert "Held-out accuracy" not in render_summary(SUMMARY)
    nairobi = replace(
        NAIROBI, own_accuracy_before=0.25, own_accuracy_after=0.75, merged_accuracy_before=0.5,
        merged_accuracy_after=0.625,
    )  # fmt: skip
    mawson = replace(MAWSON, merged_accuracy_before=0.5, merged_accuracy_after=0.375)
    text = render_summary(replace(SUMMARY, clusters=(nairobi, mawson)))
    table = text[text.index("Held-out accuracy") :]
    assert row(table, "nairobi")[-4:] == ["25.0%", "75.0%", "50.0%", "62.5%"]
    # A mean over some would not compare.
    assert row(table, "mean")[-4:] == ["-", "-", "50.0%", "50.0%"]
