"""The page: what it says, what it holds, and what it does with runs that are not whole."""

import base64
import gzip
import html
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pytest

from server.record.history import Evaluation
from server.report.charts.curves import loss_curves
from server.report.command import main
from server.report.html_page import build_page
from server.report.live import LivePage, attempt
from server.report.run_files import read_run
from server.report.summary import write_summary
from tests.report.made_up import EVENTS, SCENE, SUMMARY, make_run

MEGABYTE = 1_000_000


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "tiny-20260101T000000Z")


def page_of(*folders: Path) -> str:
    return build_page([read_run(folder) for folder in folders])


def charts_of(page: str) -> dict[str, Any]:
    packed = re.findall(r'id="figures">([^<]*)<', page)[0]
    return dict(json.loads(gzip.decompress(base64.b64decode(packed))))


def words_of(page: str) -> str:
    body = page.partition("<body")[2].partition('<script type="text/plain"')[0]
    return re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]*>", " ", body)))


def test_the_first_screen_says_what_was_tuned_and_whether_it_paid(run: Path) -> None:
    words = words_of(page_of(run))
    assert "Tiny-moe, tuned on 6 devices in 2 clusters that satellites pass over" in words
    assert "Each cluster tuned 1 of the 4 experts of every layer" in words
    # 4.5 -> 3.25 and 4.0 -> 3.5; exp(-1.25) - 1 = -71.3 %
    assert "4.50 → 3.25" in words and "perplexity −71.3 %" in words and "4.00 → 3.50" in words
    # (2000 + 8 * 1000) * 4 bytes against (2000 + 2 * 1000) * 4 bytes
    assert "2.50 × less 16.0 kB of weights at most; the whole model has 40.0 kB" in words
    # 120,000 / 8,730 bytes
    assert "13.7 × less 8.73 kB both ways; 120 kB" in words
    assert "Warning. The routing of west is near uniform" in words


def test_a_run_that_goes_on_shows_how_far_it_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "going", has_ended=False)
    words = words_of(page_of(folder))
    assert "EMS-FL ran for 2 h of simulated time and then stopped, or still goes on." in words
    # Own sub-models were measured once, so nothing is said of their change.
    assert "Own sub-models' loss – not measured" in words and "4.00 → 3.50" in words
    # 3 training messages of 40,000 bytes against 8,730 bytes
    assert "13.7 × less" in words
    assert f"ems-fl resume {folder.resolve()}" in words


def test_every_chart_is_there_and_plotly_takes_it(run: Path) -> None:
    page = page_of(run)
    charts = charts_of(page)
    assert set(charts) == {
        "globe", "map", "timeline", "loss-own", "loss-merged", "train-loss", "staleness", "discount",
        "windows", "capture", "moved", "relevance-0", "relevance-2",
    }  # fmt: skip
    for chart in charts.values():
        go.Figure(_without_roles(chart["figure"]))


def _without_roles(value: Any) -> Any:
    """Return a figure with the page's names of colours replaced by colours."""
    if isinstance(value, dict):
        return {
            key: "#000" if key == "color" and inner in ("text", "grey") else _without_roles(inner)
            for key, inner in value.items()
        }
    return [_without_roles(inner) for inner in value] if isinstance(value, list) else value


def test_the_page_asks_nobody_for_anything(run: Path) -> None:
    page = page_of(run)
    outside = page.partition("<body")[2].partition('<script type="text/plain"')[0]
    assert not re.search(r'(src|href)="(https?:)?//', outside)
    assert "@import" not in page and "url(" not in page
    assert len(page) < 5 * MEGABYTE


def test_names_from_data_are_text_not_markup(run: Path) -> None:
    page = page_of(run)
    assert "<b>seas" not in page.partition("</main>")[0]
    assert "rivers &amp; &lt;b&gt;seas&lt;/b&gt;" in page


def test_a_run_that_was_allowed_a_checkpoints_own_code_says_so_in_red(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain")
    allowed = make_run(
        tmp_path / "allowed", settings={"model.trust-remote-code": True, "model.name": "them/<b>theirs"}
    )
    red = '<p class="alarm" role="alert">'
    assert red not in page_of(plain)
    for text in (page_of(allowed), page_of(plain, allowed)):
        assert text.count(red) == 1 and "them/&lt;b&gt;theirs (model.trust-remote-code)" in text


def test_accuracy_and_the_rival_are_shown_where_they_were_measured(run: Path) -> None:
    assert "answered as the data does" not in words_of(page_of(run))
    clusters = tuple(
        replace(cluster, merged_accuracy_before=0.125, merged_accuracy_after=0.5, own_accuracy_after=0.75)
        for cluster in SUMMARY.clusters
    )
    write_summary(run, replace(SUMMARY, clusters=clusters, comparison="FedAvg ended at 3.900"))
    words = words_of(page_of(run))
    assert "Held-out questions answered as the data does" in words and "FedAvg ended at 3.900." in words
    assert "east – 75.0 % 12.5 % 50.0 %" in words


def test_own_losses_begin_where_the_run_began(run: Path) -> None:
    chart = charts_of(page_of(run))["loss-own"]
    line = chart["figure"]["data"][0]
    assert (line["x"], line["y"]) == ([0.0, 3400 / 60], [0.0, -1.25])
    assert chart["choices"]["show"]["loss"]["y"][0] == [4.5, 3.25]


def test_curves_are_drawn_against_what_was_spent(run: Path) -> None:
    choices = charts_of(page_of(run))["loss-merged"]["choices"]["against"]
    assert choices["bytes"]["x"][0] == [0.0, 8730.0]
    assert choices["device steps"]["x"][0] == [0.0, 10.0]
    # 10 tokens * 4 * (2000 shared + 1 expert of 1000 in each of 2 layers) a step
    assert choices["FLOPs"]["x"][0] == [0.0, 10 * 10 * 4 * 4000]


def test_many_clusters_are_drawn_as_their_mean_and_range() -> None:
    losses = {f"site-{at}": float(at) for at in range(21)}
    points = [
        Evaluation(time_s=0.0, merges=0, merged=losses, own={}, num_bytes=0.0, steps={}),
        Evaluation(
            time_s=60.0, merges=1, merged={name: loss - 1 for name, loss in losses.items()}, own={},
            num_bytes=10.0, steps={},
        ),
    ]  # fmt: skip
    (chart,) = loss_curves(points, tuple(losses), {}, clock="simulated")
    shown = {trace["name"]: at for at, trace in enumerate(chart.figure["data"])}
    assert set(shown) == {"lowest", "a tenth below", "a tenth above", "highest", "mean"}
    values = chart.choices["show"]["loss"]["y"]
    assert values[shown["lowest"]] == [0.0, -1.0] and values[shown["highest"]] == [20.0, 19.0]
    assert values[shown["a tenth below"]] == [2.0, 1.0] and values[shown["mean"]] == [10.0, 9.0]
    assert "21 clusters: their mean and range are drawn" in chart.note


def test_the_timeline_says_what_filled_a_pass_and_what_did_not_fit(run: Path) -> None:
    passes = charts_of(page_of(run))["timeline"]["more"]["passes"]
    lane, start, end, words = passes[0]
    assert (lane, start, end) == ("east", "2026-01-01T00:01:40.0", "2026-01-01T00:11:40.0")
    assert "up: 4.70 kB of 5.00 kB that the window carries (94.0 %), 1 messages; 1 did not fit" in words


def test_a_folder_that_is_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "scene.json",
            None,
            "places, contacts and sizes, and so the maps and the windows: there is no scene.json",
        ),
        ("findings.json", None, "relevance, movement of the experts and words: there is no findings.json"),
        ("summary.json", None, "the last losses and the costs: there is no summary.json"),
        ("scene.json", '{"clusters": 3}', "places, contacts and sizes: "),
        ("findings.json", "", "relevance, movement of the experts and words: "),
        ("summary.json", "{}", "the last losses and the costs: "),
        ("config.toml", "seed = = 1", "its settings: "),
        ("events.jsonl", None, "its events: "),
        ("events.jsonl", "", ""),
        ("events.jsonl", '{"event": "merged", "time_s": 1.0}\n', "another version wrote them"),
        ("events.jsonl", '{"event": "merged", "ti', "what came after line 0 of events.jsonl"),
    ],
)
def test_a_page_of_what_there_is_says_what_is_missing(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, content: str | None, said: str
) -> None:
    (run / name).unlink()
    if content is not None:
        (run / name).write_text(content)
    assert main([str(run)]) == 0
    page = (run / "report.html").read_text()
    assert said in words_of(page)
    assert said in capsys.readouterr().out


def test_runs_side_by_side_show_what_differs(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make_run(tmp_path / "other", settings={"seed": 7, "train.max-steps": 3})
    monkeypatch.chdir(tmp_path)
    assert main([str(run), str(other)]) == 0
    page = (tmp_path / "runs.html").read_text()
    words = words_of(page)
    assert "2 runs side by side" in words
    assert "seed 1 7" in words and "train.max-steps 20 3" in words and "population.devices" not in words
    assert "own sub-models' loss after 3.250 3.250 0.000" in words
    charts = charts_of(page)
    assert {"curve-own", "curve-merged", "staleness", "fill", "capture", "moved"} <= set(charts)
    assert [trace["name"] for trace in charts["curve-merged"]["figure"]["data"]] == [run.name, "other"]


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    words = words_of(page_of(make_run(tmp_path / "a" / "same"), make_run(tmp_path / "b" / "same")))
    assert "a/same" in words and "b/same" in words


def test_a_live_page_follows_the_run_and_costs_little(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "live", has_ended=False)
    (folder / "events.jsonl").write_text("")
    live = LivePage(folder, SCENE)
    for event in EVENTS[:5]:
        live.note(event)
    assert live.refresh()
    assert 'data-state="going"' in (folder / "report.html").read_text()
    # Just written: the next page waits until this one has paid for itself.
    assert not live.refresh()
    assert not list(folder.glob(".report*"))


def test_a_resumed_run_goes_on_with_the_events_that_are_there(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "resumed", has_ended=False)
    live = LivePage(folder, SCENE)
    assert live.refresh()
    assert len(charts_of((folder / "report.html").read_text())["loss-merged"]["figure"]["data"][0]["y"]) == 2


def test_a_chart_that_fails_is_said_and_ends_nothing_but_a_full_disk_does() -> None:
    def fail(error: Exception) -> None:
        raise error

    assert attempt(lambda: None) == ""
    assert "ZeroDivisionError: no merges" in attempt(lambda: fail(ZeroDivisionError("no merges")))
    with pytest.raises(OSError, match="disk"):
        attempt(lambda: fail(OSError("disk")))


def many_events() -> Iterator[dict[str, Any]]:
    """Yield half a million events of one cluster: far more than a page may hold."""
    for at in range(60_000):
        time_s = at / 10
        yield {"event": "delivered", "time_s": time_s, "node": 1, "cluster": "east", "message": f"t{at}",
               "type": "train", "bytes": 10, "crossed": [[100.0, 10]], "steps": 1}  # fmt: skip
        yield {"event": "trained", "time_s": time_s + 3, "node": 1, "cluster": "east", "message": f"t{at}",
               "type": "train", "bytes": 10, "steps": 1}  # fmt: skip


def test_a_long_log_makes_no_long_page(run: Path) -> None:
    with (run / "events.jsonl").open("a") as log:
        log.writelines(json.dumps(event) + "\n" for event in many_events())
    found = charts_of(page_of(run))
    assert len(found["globe"]["more"]["clusters"][0]["training"]) <= 801
    assert len(page_of(run)) < 3 * MEGABYTE
