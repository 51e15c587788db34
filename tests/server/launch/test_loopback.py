"""Loopback never goes through a proxy, whoever asks and whatever the user has set."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
import requests

from server.launch.command import environment
from server.machine.environment import install
from server.machine.loopback import socks_faults, without_proxy

NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
LOOPBACK = "localhost,127.0.0.1,::1"
CASES = [
    ({}, {}),
    ({"no_proxy": "corp.example"}, {}),
    ({"http_proxy": ""}, {}),
    ({"http_proxy": NOWHERE}, {"no_proxy": LOOPBACK, "NO_PROXY": LOOPBACK}),
    (
        {"ALL_PROXY": NOWHERE, "NO_PROXY": "corp.example, 10.0.0.0/8", "no_proxy": "127.0.0.1"},
        dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,corp.example,10.0.0.0/8,localhost,::1"),
    ),
    ({"https_proxy": NOWHERE, "no_proxy": "*"}, {"no_proxy": "*", "NO_PROXY": "*"}),
    (
        {"grpc_proxy": NOWHERE, "no_grpc_proxy": "a"},
        {"no_proxy": LOOPBACK, "NO_PROXY": LOOPBACK, "no_grpc_proxy": f"a,{LOOPBACK}"},
    ),
]


@pytest.mark.parametrize(("given", "added"), CASES)
def test_loopback_is_excepted_and_the_users_own_exceptions_stay(
    given: dict[str, str], added: dict[str, str]
) -> None:
    assert without_proxy(given) == added


def test_the_virtual_environment_excepts_loopback_as_the_launcher_does(tmp_path: Path) -> None:
    pth, *_ = install(tmp_path, tmp_path, tmp_path)
    program = f"import os; exec(open({str(pth)!r}).read()); print(os.environ.get('no_proxy', '-'))"
    for given, added in CASES[2:5]:
        # -S: this Python's own .pth file, where `make` has written one, must not answer instead.
        said = subprocess.run(
            [sys.executable, "-S", "-c", program],
            env={"PATH": os.environ["PATH"], **given},
            capture_output=True,
            text=True,
            check=True,
        )
        assert said.stdout.strip() == added.get("no_proxy", "-")


@pytest.fixture
def server() -> Iterator[str]:
    class Hello(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Hello) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()


def test_http_clients_reach_this_machine_beside_a_proxy_that_is_dead(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, NOWHERE)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(httpx.ConnectError):
        httpx.get(server)
    for name, value in environment(tmp_path, 1, "tag").items():
        if name.lower().endswith("no_proxy"):
            monkeypatch.setenv(name, value)
    assert httpx.get(server).text == requests.get(server, timeout=5).text == "hello"


def test_a_socks_proxy_that_nothing_here_can_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    (fault,) = socks_faults({"all_proxy": "socks5h://x:1", "http_proxy": NOWHERE, "no_proxy": "socks5"})
    assert "all_proxy" in fault and "env -u all_proxy" in fault
