"""A certificate authority of one deployment, and the SuperLink's certificate.

X.509 by `cryptography`: ECDSA on P-384, as Flower's own keys. The authority signs nothing but this SuperLink.
"""

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.keys.files import read_private, write_private_pem, write_public

CA_DAYS = 3650
SERVER_DAYS = 397
"""What browsers and public authorities allow at most (CA/Browser Forum ballot SC31)."""
RENEW_BEFORE_DAYS = 30
_CLOCK_SKEW = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """The authority's certificate and key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def ensure_authority(folder: Path, now: dt.datetime) -> Authority:
    """Return the authority of a folder, made at the first call.

    Raises
    ------
    ValueError
        If only one of its two files is there, or it ends before a new server certificate would.
    """
    certificate_file, key_file = folder / "ca.crt", folder / "ca.key"
    if certificate_file.is_file() != key_file.is_file():
        there, missing = sorted((certificate_file, key_file), key=Path.is_file, reverse=True)
        raise ValueError(f"{there} is there and {missing.name} is not; put it back, or use an empty folder")
    if not certificate_file.is_file():
        key = ec.generate_private_key(ec.SECP384R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "EMS-FL deployment")])
        builder = _certificate(name, name, key.public_key(), now, CA_DAYS).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        certificate = builder.add_extension(_usage(signs_certificates=True), critical=True).sign(
            key, hashes.SHA384()
        )
        write_private_pem(key_file, key)
        write_public(certificate_file, _pem(certificate))
    authority = Authority(
        certificate=x509.load_pem_x509_certificate(certificate_file.read_bytes()), key=_key(key_file)
    )
    if authority.certificate.not_valid_after_utc < now + dt.timedelta(days=SERVER_DAYS):
        raise ValueError(
            f"the authority in {certificate_file} ends on {ends(certificate_file):%Y-%m-%d}, before a new "
            "server certificate would; make a new folder and give its ca.crt to every node"
        )
    return authority


def ensure_server(
    folder: Path, authority: Authority, hosts: Sequence[str], now: dt.datetime, *, renew: bool = False
) -> bool:
    """Write ``server.crt`` and ``server.key`` unless those that are there will do; say if written.

    They do while they are the authority's, name exactly these hosts and have `RENEW_BEFORE_DAYS` left.

    Parameters
    ----------
    hosts : sequence of str
        Names and addresses that nodes reach the SuperLink by.
    renew : bool
        Write them in any case.
    """
    file, names = folder / "server.crt", _alternative_names(hosts)
    if file.is_file() and (folder / "server.key").is_file() and not renew:
        there = x509.load_pem_x509_certificate(file.read_bytes())
        found = there.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        is_fresh = there.not_valid_after_utc - now > dt.timedelta(days=RENEW_BEFORE_DAYS)
        if is_fresh and list(found) == names and there.issuer == authority.certificate.subject:
            return False
    key = ec.generate_private_key(ec.SECP384R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    certificate = (
        _certificate(subject, authority.certificate.subject, key.public_key(), now, SERVER_DAYS)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(authority.key, hashes.SHA384())
    )
    write_private_pem(folder / "server.key", key)
    write_public(file, _pem(certificate))
    return True


def ends(certificate_file: Path) -> dt.datetime:
    """Return when a certificate stops being valid."""
    return x509.load_pem_x509_certificate(certificate_file.read_bytes()).not_valid_after_utc


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A node whose clock is a little behind must not find it not valid yet.
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _key(file: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(read_private(file), password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{file} holds no elliptic-curve key; put the authority's own back")
    return key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)
