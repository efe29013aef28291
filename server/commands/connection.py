"""What every command that calls a server shares: where it is, how to reach it, how to end."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import NoReturn

import grpc

from server.commands.client import Client, Failure
from server.config import ServerConfig

OK = 0
FAILED = 1
USAGE = 2
REFUSED_INPUT = 3
NOT_READY = 4
STAMP_MISMATCH = 5
INTERRUPTED = 130

EXIT_CODES = """exit codes: 0 answered, 2 wrong usage, 3 input refused, 4 server not reached, not
ready or not in time, 5 another stamp is served, 1 anything else"""


def add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the server")
    default = ServerConfig().listen
    group.add_argument(
        "--server", default=default, metavar="HOST:PORT", help=f"where it listens ({default})"
    )
    group.add_argument("--tls-ca", type=Path, metavar="PEM", help="call over TLS, trusting this CA")
    group.add_argument("--tls-cert", type=Path, metavar="PEM", help="show this certificate")
    group.add_argument("--tls-key", type=Path, metavar="PEM", help="and prove it with this key")
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="call as whoever this token names; needs TLS",
    )


def connect(arguments: argparse.Namespace) -> Client:
    """An open client; ends the program with a usage error when a TLS file cannot be read."""
    if arguments.tls_ca is None:
        if arguments.token_file is not None:
            _end("--token-file needs --tls-ca: a token is never sent in plaintext")
        if arguments.tls_cert is not None or arguments.tls_key is not None:
            _end("--tls-cert and --tls-key need --tls-ca: which servers to trust")
        return Client(arguments.server)
    try:
        _check(arguments)
        credentials = grpc.ssl_channel_credentials(
            arguments.tls_ca.read_bytes(),
            arguments.tls_key.read_bytes() if arguments.tls_key else None,
            arguments.tls_cert.read_bytes() if arguments.tls_cert else None,
        )
        if arguments.token_file is not None:
            token = grpc.access_token_call_credentials(arguments.token_file.read_text().strip())
            credentials = grpc.composite_channel_credentials(credentials, token)
    except OSError as error:
        _end(f"cannot read {error.filename}: {error.strerror}")
    return Client(arguments.server, credentials)


def _check(arguments: argparse.Namespace) -> None:
    """Ends the program for files that gRPC would abort it for, or blame on the server."""
    from server.security import pem  # late: most commands need no TLS

    certificate, key = arguments.tls_cert, arguments.tls_key
    if (certificate is None) != (key is None):
        _end("--tls-cert and --tls-key belong together")
    try:
        pem.certificates(arguments.tls_ca)
        if certificate is not None:
            pem.check_pair(certificate, key)
            if lapse := pem.lapse(certificate, dt.datetime.now(dt.UTC)):
                print(lapse, file=sys.stderr)
    except pem.BadPem as error:
        _end(str(error))


def _end(words: str) -> NoReturn:
    print(words, file=sys.stderr)
    raise SystemExit(USAGE)


def run_to_end(command: Coroutine[None, None, int], server: str) -> int:
    """The exit code of a command; a Failure is told on stderr."""
    try:
        return asyncio.run(command)
    except Failure as failure:
        print(told(failure, server), file=sys.stderr)
        return exit_code(failure)
    except KeyboardInterrupt:
        return INTERRUPTED


def told(failure: Failure, server: str) -> str:
    if failure.unreachable:
        # gRPC tells each address it tried; the last words say what became of them.
        why = failure.message.rpartition(": ")[2].rstrip("]") or "no answer"
        hint = "start one with `server`, or say where it listens by --server HOST:PORT"
        return f"no server at {server}: {why}; {refused(failure.message) or hint}"
    text = f"{server} answered {failure.code.name}: {failure.message}"
    if failure.retry_after_s:
        text += f" (come back in {failure.retry_after_s:g} s)"
    return text


def refused(message: str) -> str:
    """What a connection that broke means: gRPC tells the server's side of it only to the server."""
    if "Cancelling all calls" in message or "Stream removed" in message:
        return "it ended meanwhile"
    if "Socket closed" in message or "Connection reset" in message:
        return (
            "something listens there and hung up: it may want TLS (--tls-ca), or a certificate "
            "of a CA it trusts that has not expired (--tls-cert, --tls-key)"
        )
    if "Hostname Verification" in message:
        return "its certificate is for another name: call it by one that `init-tls --host` named"
    if "CERTIFICATE_VERIFY_FAILED" in message:
        return "its certificate is not of this CA (--tls-ca), or has expired"
    return ""


def exit_code(failure: Failure) -> int:
    code = failure.code
    if failure.reason == "STAMP_MISMATCH":
        return STAMP_MISMATCH
    # Without a reason of ours, gRPC itself found the message too large.
    too_large = code is grpc.StatusCode.RESOURCE_EXHAUSTED and not failure.reason
    if code is grpc.StatusCode.INVALID_ARGUMENT or too_large:
        return REFUSED_INPUT
    passing = (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.CANCELLED,
    )
    return NOT_READY if code in passing else FAILED
