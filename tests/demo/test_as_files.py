"""The demo as files: nobody's text is anybody else's, and each cluster has a domain of its own."""

import json
from pathlib import Path

import pytest

from demo import as_files, corpus


@pytest.fixture(autouse=True)
def no_making(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in for the base model, whose making takes a minute: only its files are copied here."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "config.json").write_text("{}")
    (tmp_path / "base" / ".sealed").write_text("")
    monkeypatch.setattr(as_files, "ensure_base_model", lambda _: tmp_path / "base")


def rows(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_sites_and_server_hold_different_passages_of_their_domains(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    written = as_files.write(folder, clusters=2, sites=3)
    assert {path.name for path in written} == {path.name for path in folder.iterdir()}
    assert [path.name for path in (folder / "model").iterdir()] == ["config.json"]
    server = rows(folder / "server.jsonl")
    sites = [[row["text"] for row in rows(folder / f"site-{n}.jsonl")] for n in range(1, 7)]
    every = [row["text"] for row in server] + [text for site in sites for text in site]
    (first, second), domains = list(corpus.domains())[:2], corpus.domains()
    assert sorted(every) == sorted(domains[first] + domains[second])
    assert {row["domain"] for row in server} == {first, second}
    assert all(set(site) <= set(domains[first]) for site in sites[:3])
    assert all(set(site) <= set(domains[second]) for site in sites[3:])
    assert len(server) == pytest.approx(as_files.SERVER_SHARE * len(every), abs=2)


@pytest.mark.parametrize(("clusters", "sites"), [(0, 1), (99, 1), (2, 0)])
def test_what_there_is_no_text_for_is_refused(
    tmp_path: Path, clusters: int, sites: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert as_files.main([str(tmp_path / "out"), "--clusters", str(clusters), "--sites", str(sites)]) == 1
    assert f"of a site or more, got {clusters} of {sites}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_files.main([str(tmp_path)]) == 1
    assert "exists already" in capsys.readouterr().err
