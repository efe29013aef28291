"""A private certificate authority for a first installation: `server init-tls DIR`.

Makes ca.pem, server.pem and one client certificate for each role, with their keys (mode 0600, ECDSA
P-256). The role sits in the certificate's URI name, where the guard reads it. Certificates have the
key identifiers and usages of RFC 5280, which strict clients such as Python 3.13 check.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from server.security.guard import TRUST_DOMAIN
from server.security.roles import ROLES

CA_DAYS = 3650
LEAF_DAYS = 397  # the most that public authorities may issue; reasonable for a private one too


@dataclass(frozen=True, slots=True)
class Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def make(directory: Path, hosts: list[str], now: dt.datetime) -> list[Path]:
    """Write everything into `directory`. Raises FileExistsError rather than overwrite a CA."""
    directory.mkdir(parents=True, exist_ok=True)
    if (directory / "ca.pem").exists():
        raise FileExistsError(f"{directory / 'ca.pem'} is there already; nothing was changed")
    authority = new_authority(now)
    written = [_write(directory, "ca", authority.certificate, authority.key)]
    names = [_host_name(host) for host in hosts]
    written.append(
        _leaf(directory, "server", names, ExtendedKeyUsageOID.SERVER_AUTH, authority, now)
    )
    for role in ROLES:
        uri: list[x509.GeneralName] = [
            x509.UniformResourceIdentifier(f"spiffe://{TRUST_DOMAIN}/{role}/{role}-1")
        ]
        written.append(make_leaf(directory, f"client-{role}", uri, authority, now))
    return written


def new_authority(now: dt.datetime) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name("Trefoil private CA")
    builder = _builder(name, name, key.public_key(), now, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def make_leaf(
    directory: Path,
    stem: str,
    names: list[x509.GeneralName],
    authority: Authority,
    now: dt.datetime,
) -> Path:
    """A client certificate with these alternative names, and its key."""
    return _leaf(directory, stem, names, ExtendedKeyUsageOID.CLIENT_AUTH, authority, now)


def _leaf(
    directory: Path,
    stem: str,
    names: list[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    authority: Authority,
    now: dt.datetime,
) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = authority.certificate.subject
    builder = _builder(_name(f"trefoil {stem}"), issuer, key.public_key(), now, LEAF_DAYS)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(
        x509.BasicConstraints(ca=False, path_length=None), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    known = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    builder = builder.add_extension(known, critical=False)
    return _write(directory, stem, builder.sign(authority.key, hashes.SHA256()), key)


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    """The key usage of a CA, which signs certificates, or of a leaf, which signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))  # other machines' clocks may differ
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write(
    directory: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey
) -> Path:
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    descriptor = os.open(directory / f"{stem}.key", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(secret)
    path = directory / f"{stem}.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return path
