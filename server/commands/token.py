"""`server token`: create a bearer token and add its digest to the file `server --tokens` reads."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from server.commands.connection import FAILED, OK
from server.commands.output.command_line import CommandLine
from server.security.roles import ROLES
from server.security.tokens import add
from server.values import count, expecting

DAY_S = 86_400


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server token",
        description="Create a bearer token. It is printed once; the file stores only its SHA-256.",
        epilog="To revoke a token, delete its line: a running server notices at once. "
        "exit codes: 0 created, 1 the file cannot be written, 2 wrong usage",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the file `server --tokens` reads")
    parser.add_argument("--name", required=True, help="name of its user")
    parser.add_argument("--role", required=True, choices=ROLES, help="role of its user")
    parser.add_argument(
        "--days",
        type=expecting(count),
        default=90,
        metavar="N",
        help="days it is valid; 0: no expiry (90)",
    )
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    expires = int(time.time()) + arguments.days * DAY_S if arguments.days else 0
    try:
        print(add(arguments.file, arguments.name, arguments.role, expires))
    except OSError as error:
        print(f"cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return FAILED
    return OK
