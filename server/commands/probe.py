"""`server probe`: exit 0 when the server is ready, for scripts and orchestrators."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from proto import observe_pb2 as pb
from server.commands.connection import FAILED, OK, add_connection, connect, error_message
from server.commands.output.command_line import CommandLine
from server.values import above_zero, expecting
from trefoil import TrefoilError

UNREACHED = "unreachable"
TAKES_TRAFFIC = (pb.READY, pb.DEGRADED)
QUESTIONS = ("ready", "started", "live")  # as trefoil.ready, .startup and .live of health


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server probe",
        description="Exit 0 only when the server is ready: its answers are right and fast enough "
        "for every mix of modalities.",
        epilog="One word is printed: the state of the server, or unreachable. Exit codes: 0 "
        "ready or degraded (with --for: it is so), 1 otherwise or not reached (the reason is on "
        "stderr), 2 wrong usage",
    )
    parser.add_argument(
        "--timeout",
        type=expecting(above_zero),
        default=5.0,
        metavar="S",
        help="give up after this (5)",
    )
    parser.add_argument(
        "--for",
        dest="question",
        choices=QUESTIONS,
        default="ready",
        help="ready: takes traffic; started: its start has ended, successfully or not; live: it "
        "answers (ready)",
    )
    add_connection(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    try:
        state, reason = asyncio.run(_state(arguments))
    except TrefoilError as error:
        state, reason = UNREACHED, error_message(error, arguments.server)
    print(state)
    if reason:
        print(reason, file=sys.stderr)
    return FAILED if reason else OK


async def _state(arguments: argparse.Namespace) -> tuple[str, str]:
    """The state in one word, and why the server takes no traffic, "" when it does."""
    async with connect(arguments) as client:
        snapshot = (await client.state(arguments.timeout)).snapshot
    word = pb.ServerState.Name(snapshot.state).lower().replace("_", "-")
    if _holds(arguments.question, snapshot.state):
        return word, ""
    return word, f"{snapshot.server} is {word}: {snapshot.reason or 'no reason given'}"


def _holds(question: str, state: int) -> bool:
    if question == "ready":
        return state in TAKES_TRAFFIC
    return question == "live" or state != pb.STARTING
