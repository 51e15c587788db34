"""The report of a real run: its events are documented, its page opens in a browser, its frames hold it."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from scenario.settings.reading import read_config
from server.app import run
from server.record.scene import read_findings, read_scene
from server.report.frames import read_frames
from server.report.summary import read_summary
from tests.fake_grid import FakeGrid
from tests.report.browser import CHROMIUM, Browser
from tests.report.documented import documented, events_of, undocumented
from tests.rooms import ROOT
from tests.runs.conftest import Settings, tiny_settings

MEGABYTE = 1_000_000
HEADINGS = (
    "Globe", "Map", "Contacts, training, bytes and merges", "Loss of each cluster's own sub-model",
    "Loss of the merged model under its full router", "Training loss behind each merge",
    "Staleness of updates", "What stale updates counted", "Bytes against window capacity",
    "Routing that the assigned experts capture", "How far each expert has moved",
    "Layer 0: who uses which expert", "Layer 1: who uses which expert",
)  # fmt: skip

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on the PATH: apt-get install chromium, or a browser like it"
)


def test_every_event_of_a_run_is_documented(whole_run: Path) -> None:
    assert undocumented(events_of(whole_run)) == set()
    # And the page can be wrong: a field that nobody documents is found.
    assert undocumented([{"event": "merged", "time_s": 0.0, "colour": "blue"}]) == {("merged", "colour")}


def test_every_event_of_a_baseline_is_documented(
    tiny_run: Settings, clients: Callable[..., FakeGrid]
) -> None:
    settings = tiny_run | {"strategy": "fedavg", "fedavg.rounds": 1}
    folder = run(clients(settings), read_config(settings))
    events = events_of(folder)
    assert undocumented(events) == set()
    assert (folder / "report.html").is_file()
    # FedAvg has no sub-models: the words come from the whole model.
    assert {c.cluster for c in read_findings(folder).completions} == {
        c.name for c in read_scene(folder).clusters
    }


def test_the_page_documents_no_event_that_nobody_writes() -> None:
    sources = [
        path.read_text() for room in ("strategy", "sim", "server") for path in (ROOT / room).rglob("*.py")
    ]
    kinds = set(documented()) - {"In every event", "Beside the log"}
    assert {kind for kind in kinds if not any(f'"{kind}"' in source for source in sources)} == set()
    assert len(kinds) == 17


def test_frames_hold_what_the_summary_says(whole_run: Path) -> None:
    frames, summary = read_frames(whole_run), read_summary(whole_run)
    by_way = frames.transfers.groupby("way")["bytes"].sum()
    assert round(by_way["down"]) == summary.spent.bytes_down
    assert round(by_way["up"]) == summary.spent.bytes_up
    merges = frames.updates.groupby("cluster")["merges"].nunique().to_dict()
    assert merges == {c.name: c.merges for c in summary.clusters if c.merges}
    last = frames.losses[frames.losses["measure"] == "merged"].groupby("cluster")["loss"].last().to_dict()
    assert last == pytest.approx({c.name: c.merged_loss_after for c in summary.clusters})
    assert frames.is_whole and len(frames.passes) == sum(
        len(c.passes) for c in read_scene(whole_run).clusters
    )


def test_frames_of_a_cut_log_hold_what_is_before_the_cut(whole_run: Path, tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_bytes((whole_run / "events.jsonl").read_bytes()[:-20])
    frames = read_frames(tmp_path)
    assert not frames.is_whole and len(frames.events) == len(events_of(whole_run)) - 1
    assert frames.passes.empty and frames.clusters.empty


def test_findings_say_who_uses_what_and_what_moved(whole_run: Path) -> None:
    findings, scene = read_findings(whole_run), read_scene(whole_run)
    for layers in findings.relevance.values():
        assert [sum(layer) for layer in layers] == pytest.approx([1.0, 1.0])
    merged = {
        name for event in events_of(whole_run) if event["event"] == "merged" for name in event["versions"]
    }
    moved = {
        f"{layer}.{index}"
        for layer, row in zip(scene.model.layers, findings.moved, strict=True)
        for index, norm in enumerate(row)
        if norm > 0
    }
    assert moved == merged
    assert Counter(c.cluster for c in findings.completions) == {c.name: 2 for c in scene.clusters}


def test_no_completions_and_no_page_where_none_are_wanted(
    tiny_run: Settings, clients: Callable[..., FakeGrid]
) -> None:
    settings = tiny_run | {"report.page": False, "report.completions": 0, "merge.max-merges": 1}
    folder = run(clients(settings), read_config(settings))
    assert not (folder / "report.html").exists() and (folder / "scene.json").is_file()
    assert read_findings(folder).completions == ()


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    checkpoint: Path,
    texts: Path,
    tmp_path: Path,
    clients: Callable[..., FakeGrid],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    settings = tiny_settings(checkpoint, texts, tmp_path / "runs") | {"report.trackers": "mlflow"}
    with pytest.raises(ValueError, match=r"asks for mlflow, and there is no such package here; install"):
        run(clients(settings), read_config(settings))
    assert not (tmp_path / "runs").exists()


@needs_chromium
@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, True)])
def test_a_browser_shows_every_chart_and_asks_for_nothing(whole_run: Path, width: int, dark: bool) -> None:
    page = whole_run / "report.html"
    assert page.stat().st_size < 5 * MEGABYTE
    with Browser(width, 900, dark=dark) as browser:
        browser.open(page)
        shown = browser.value(
            "[...document.querySelectorAll('figure')].map(f => [f.querySelector('h3').textContent,"
            " f.querySelectorAll('.main-svg').length,"
            " f.querySelector('.chart').getBoundingClientRect().right])"
        )
        assert [title for title, _, _ in shown] == list(HEADINGS)
        assert all(drawn > 0 and right <= width for _, drawn, right in shown)
        # Nothing sticks out at the side, no text of a chart is tiny, and nothing was drawn as "NaN".
        assert browser.value("document.documentElement.scrollWidth") == width
        sizes = browser.value(
            "[...document.querySelectorAll('.chart text')].filter(t => t.textContent.trim())"
            ".map(t => parseFloat(getComputedStyle(t).fontSize))"
        )
        assert min(sizes) >= 11
        assert "NaN" not in browser.value("document.body.innerText")
        assert browser.errors == []
        assert browser.requests == [page.resolve().as_uri()]


@needs_chromium
def test_the_slider_moves_the_satellites_and_says_who_trains(whole_run: Path) -> None:
    scene = read_scene(whole_run)
    trained = [
        event for event in events_of(whole_run) if event["event"] == "trained" and event["type"] == "train"
    ]
    time_s = trained[0]["time_s"] - 20.0
    with Browser(1440, 900) as browser:
        browser.open(whole_run / "report.html")
        places = "JSON.stringify(document.getElementById('chart-globe').data[4].lon)"
        before = browser.value(places)
        # Input events, as a hand at the slider makes them.
        browser.value(
            "(() => { const s = document.getElementById('slider'); "
            f"s.value = Math.round({time_s} / 10); s.dispatchEvent(new Event('input')); }})()"
        )
        browser.wait(f"{places} !== {json.dumps(before)}")
        said = browser.value("document.getElementById('now').textContent")
        assert f"{trained[0]['cluster']} " in said.partition("Training:")[2].partition("Crossing")[0]
        # Where the slider stands, the globe shows the satellite: 20 s off a sample at most 1.3 degrees.
        shown = browser.value("document.getElementById('chart-globe').data[4].lat")
        at = round(round(time_s / 10) * 10 / scene.track_step_s)
        assert shown == pytest.approx([track.latitude_deg[at] for track in scene.tracks], abs=2.5)
        assert browser.errors == []


@needs_chromium
def test_a_curve_is_drawn_against_what_is_picked(whole_run: Path) -> None:
    with Browser(1440, 900) as browser:
        browser.open(whole_run / "report.html")
        browser.value("document.querySelector('button[data-chart=loss-merged][data-choice=bytes]').click()")
        browser.wait(
            "document.getElementById('chart-loss-merged').layout.xaxis.title.text"
            " === 'bytes crossed both ways'"
        )
        first = browser.value("document.getElementById('chart-loss-merged').data[0].x")
        assert first[0] == 0.0 and first[-1] > 1000
        browser.value(
            "(() => { const s = document.getElementById('pass'); s.value = '0'; "
            "s.dispatchEvent(new Event('change')); })()"
        )
        browser.wait("document.getElementById('pass-words').textContent.includes('in contact')")
        start, end = browser.value("document.getElementById('chart-timeline').layout.xaxis.range")
        assert start[:10] == end[:10] and start != end
        assert browser.errors == []


@needs_chromium
def test_the_page_prints_with_its_charts_on_paper(whole_run: Path) -> None:
    with Browser(1440, 900, dark=True) as browser:
        browser.open(whole_run / "report.html")
        paper = browser.pdf()
        assert paper.startswith(b"%PDF") and len(paper) > 50_000
        assert browser.errors == []
        # On paper the map stands for the globe, and everything fits the sheet's width.
        browser.call("Emulation.setEmulatedMedia", media="print")
        assert browser.value("document.getElementById('chart-globe').offsetParent === null")
        assert browser.value("document.getElementById('chart-map').offsetParent !== null")
