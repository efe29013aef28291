"""`server init-tls`: a private CA, a server certificate and one client certificate per role."""

from __future__ import annotations

import argparse
import datetime as dt
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from server.commands.connection import FAILED, OK
from server.commands.output.command_line import CommandLine
from server.security import authority


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server init-tls",
        description="Make a private CA and certificates for a first installation. Keep ca.key off "
        "the servers: it can sign any certificate.",
        epilog="exit codes: 0 made, 1 the files exist already or cannot be written, 2 wrong usage",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="output directory")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name or address that clients use; repeatable (this host, localhost, 127.0.0.1)",
    )
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    directory = arguments.directory
    hosts = arguments.host or [socket.gethostname(), "localhost", "127.0.0.1"]
    try:
        written = authority.make(directory, hosts, dt.datetime.now(dt.UTC))
    except OSError as error:
        why = f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"server init-tls: {why}", file=sys.stderr)
        return FAILED
    for path in written:
        print(f"{path} and {path.with_suffix('.key').name}")
    print(
        "Serve with:\n"
        f"  server --tls-cert {directory}/server.pem --tls-key {directory}/server.key "
        f"--tls-client-ca {directory}/ca.pem --listen 0.0.0.0:8433\n"
        "Call with:\n"
        f"  server predict --tls-ca {directory}/ca.pem --tls-cert {directory}/client-predict.pem "
        f"--tls-key {directory}/client-predict.key --text ...\n"
        "Watch with:\n"
        f"  console --ca {directory}/ca.pem --cert {directory}/client-observe.pem "
        f"--key {directory}/client-observe.key HOST:8433"
    )
    return OK
