"""Certificates and keys: what they are good for, who may read them, when they are renewed."""

import datetime as dt
import shutil
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key

from server.keys.authority import RENEW_BEFORE_DAYS, SERVER_DAYS, ensure_authority, ensure_server
from server.keys.command import main

NOW = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
HOSTS = ["localhost", "127.0.0.1"]


def mode(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_the_command_makes_all_and_keeps_secrets_to_their_owner(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys"
    assert main([str(keys), "--host", "sky.example.org", "--node", "leh", "--node", "khatgal"]) == 0
    assert "wrote the key of node khatgal" in capsys.readouterr().out
    for secret in ("ca.key", "server.key", "nodes/leh", "nodes/khatgal"):
        assert mode(keys / secret) == 0o600, secret
    assert mode(keys) == mode(keys / "nodes") == 0o700
    private = load_ssh_private_key((keys / "nodes" / "leh").read_bytes(), None)
    public = load_ssh_public_key((keys / "nodes" / "leh.pub").read_bytes())
    assert private.public_key() == public
    before = {file: file.read_bytes() for file in keys.rglob("*") if file.is_file()}
    assert main([str(keys), "--host", "sky.example.org", "--node", "leh"]) == 0
    assert {file: file.read_bytes() for file in keys.rglob("*") if file.is_file()} == before
    assert "kept the SuperLink's certificate" in capsys.readouterr().out


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the command openssl, an independent reader"
)
def test_openssl_trusts_the_servers_certificate_by_the_authority_alone(tmp_path: Path) -> None:
    main([str(tmp_path), "--host", "sky.example.org"])
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    verify = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-verify_hostname"]
    files = ["-CAfile", str(tmp_path / "ca.crt"), str(tmp_path / "server.crt")]
    for host, is_good in (("sky.example.org", True), ("localhost", True), ("elsewhere.org", False)):
        done = subprocess.run([*verify, host, *files], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) is is_good, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("after_days", "hosts", "is_renewed"),
    [
        (SERVER_DAYS - RENEW_BEFORE_DAYS - 2, HOSTS, False),
        (SERVER_DAYS - RENEW_BEFORE_DAYS + 2, HOSTS, True),
        (0, [*HOSTS, "another.org"], True),
    ],
)
def test_a_certificate_is_renewed_before_it_ends_or_when_its_names_change(
    tmp_path: Path, after_days: int, hosts: list[str], is_renewed: bool
) -> None:
    authority = ensure_authority(tmp_path, NOW)
    assert ensure_server(tmp_path, authority, HOSTS, NOW)
    first = (tmp_path / "server.crt").read_bytes()
    later = NOW + dt.timedelta(days=after_days)
    assert ensure_server(tmp_path, authority, hosts, later) is is_renewed
    second = (tmp_path / "server.crt").read_bytes()
    assert (second != first) is is_renewed
    ends = x509.load_pem_x509_certificate(second).not_valid_after_utc
    assert ends > later + dt.timedelta(days=RENEW_BEFORE_DAYS)


def test_what_is_unsafe_or_half_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(tmp_path)
    main([folder, "--host", "a.org", "--node", "leh"])

    def refusal(*arguments: str) -> str:
        capsys.readouterr()
        assert main([folder, *arguments]) == 2
        return capsys.readouterr().err

    assert "digits, dots, dashes" in refusal("--node", "../leh")
    assert "--renew needs --host" in refusal("--renew")
    (tmp_path / "ca.key").chmod(0o640)
    assert "can be read by others (mode 640)" in refusal("--host", "a.org")
    (tmp_path / "ca.key").unlink()
    assert "ca.crt is there and ca.key is not" in refusal("--host", "a.org")
    (tmp_path / "nodes" / "leh.pub").unlink()
    assert "of the key of node 'leh' one file is missing" in refusal("--node", "leh")


def test_an_authority_that_ends_too_soon_signs_nothing(tmp_path: Path) -> None:
    ensure_authority(tmp_path, NOW)
    with pytest.raises(ValueError, match=r"ends on 2036-11-2\d, before a new server certificate would"):
        ensure_authority(tmp_path, NOW + dt.timedelta(days=3650 - SERVER_DAYS + 1))
