"""Checks the TLS files and explains errors: gRPC aborts on a bad file, or reports only "socket
closed" at the other end."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization

SOON = dt.timedelta(days=14)


class BadPem(Exception):
    """Names the file, the error in it, and the remedy."""


def check_pair(certificate: Path, key: Path) -> None:
    """Raises BadPem unless this key belongs to this certificate; OSError when it cannot be read."""
    first = certificates(certificate)[0]
    try:
        secret = serialization.load_pem_private_key(key.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise BadPem(f"{key} is not a private key in PEM without a passphrase: {error}") from None
    if secret.public_key() != first.public_key():
        raise BadPem(f"{key} is not the key of {certificate}: give the two that were made together")


def certificates(file: Path) -> list[x509.Certificate]:
    """The certificates of a file. Raises BadPem, OSError."""
    content = file.read_bytes()
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as error:
        raise BadPem(f"{file} holds no certificate in PEM: {error}") from None


def lapse(certificate: Path, now: dt.datetime) -> str:
    """A warning that the certificate has expired, is not valid yet, or will expire soon; "" if it
    is valid for a while."""
    first = certificates(certificate)[0]
    end, begin = first.not_valid_after_utc, first.not_valid_before_utc
    if now > end:
        return f"{certificate} EXPIRED on {end:%Y-%m-%d %H:%M} UTC: replace it"
    if now < begin:
        return f"{certificate} is not valid before {begin:%Y-%m-%d %H:%M} UTC: look at the clock"
    if end - now < SOON:
        return f"{certificate} expires on {end:%Y-%m-%d %H:%M} UTC"
    return ""
