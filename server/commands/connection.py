"""What all commands that call a server share: address, TLS and token flags, and exit codes."""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import NoReturn

from server.commands.client import CommandConnection
from server.config import ServerConfig
from server.values import expecting, seconds
from trefoil import (
    Access,
    DeadlineExceeded,
    InputRefused,
    Overloaded,
    StampMismatch,
    TrefoilError,
    Unavailable,
)

OK = 0
FAILED = 1
USAGE = 2
REFUSED_INPUT = 3
NOT_READY = 4
STAMP_MISMATCH = 5
INTERRUPTED = 130

EXIT_CODES = """exit codes: 0 answered, 2 wrong usage, 3 input refused, 4 server not reached, not
ready or not in time, 5 another stamp is served, 1 anything else"""


def add_reason(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--reason", default="", metavar="TEXT", help="stored in the deploy history")


def add_grace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grace",
        type=expecting(seconds),
        default=0.0,
        metavar="S",
        help="wait at most this long for accepted work (default: the server's --grace)",
    )


def add_connection(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("the server")
    default = ServerConfig().listen
    group.add_argument(
        "--server", default=default, metavar="HOST:PORT", help=f"address of the server ({default})"
    )
    _add_access(group)


def add_access(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a command that calls several servers with one credential."""
    _add_access(parser.add_argument_group("access"))


def _add_access(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tls-ca", type=Path, metavar="PEM", help="call over TLS, trusting this CA")
    group.add_argument("--tls-cert", type=Path, metavar="PEM", help="client certificate")
    group.add_argument("--tls-key", type=Path, metavar="PEM", help="private key of --tls-cert")
    group.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="call with the token in this file; needs TLS",
    )


def connect(arguments: argparse.Namespace) -> CommandConnection:
    """An open client; ends the program with a usage error when a TLS file cannot be read."""
    try:
        return CommandConnection(arguments.server, access_of(arguments))
    except OSError as error:
        _end(f"cannot read {error.filename}: {error.strerror}")


def access_of(arguments: argparse.Namespace) -> Access | None:
    if arguments.tls_ca is None:
        if arguments.token_file is not None:
            _end("--token-file needs --tls-ca: a token is never sent in plaintext")
        if arguments.tls_cert is not None or arguments.tls_key is not None:
            _end("--tls-cert and --tls-key need --tls-ca: which servers to trust")
        return None
    _check(arguments)
    file = arguments.token_file
    token = file.read_text().strip() if file is not None else ""
    return Access(arguments.tls_ca, arguments.tls_cert, arguments.tls_key, token)


def _check(arguments: argparse.Namespace) -> None:
    """End the program for files with which gRPC would abort it, or blame the server."""
    from server.security import pem  # imported late: most commands need no TLS

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


def _end(message: str) -> NoReturn:
    print(message, file=sys.stderr)
    raise SystemExit(USAGE)


def run_to_end(
    command: Coroutine[None, None, int], server: str, reword: Callable[[str], str] = str
) -> int:
    """The exit code of a command; it reports a TrefoilError on stderr, reworded by `reword`."""
    try:
        return asyncio.run(command)
    except TrefoilError as error:
        print(reword(error_message(error, server)), file=sys.stderr)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def error_message(error: TrefoilError, server: str) -> str:
    if error.unreachable:
        why = reason_of(error)
        hint = "start one with `server`, or give its address with --server HOST:PORT"
        return f"no server at {server}: {why}; {connection_hint(error.message) or hint}"
    text = f"{server} answered {error.code}: {error.message}"
    if error.retry_after_s:
        text += f" (come back in {error.retry_after_s:g} s)"
    return text


def reason_of(error: TrefoilError) -> str:
    """The last part of gRPC's message: gRPC lists each address it tried, and the end concerns the
    last one."""
    return error.message.rpartition(": ")[2].rstrip("]") or "no answer"


def connection_hint(message: str) -> str:
    """What a broken connection may mean, as gRPC reports the server's reason only to the server."""
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


def exit_code(error: TrefoilError) -> int:
    if isinstance(error, StampMismatch):
        return STAMP_MISMATCH
    if isinstance(error, InputRefused):
        return REFUSED_INPUT
    passing = isinstance(error, (Unavailable, DeadlineExceeded, Overloaded))
    return NOT_READY if passing or error.code == "CANCELLED" else FAILED
