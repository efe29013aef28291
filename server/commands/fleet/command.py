"""`server fleet`: one bundle on many servers, switched on all of them or on none."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from tqdm import tqdm

from proto import admin_pb2 as pb
from server.commands.activate import add_canary
from server.commands.client import CommandConnection
from server.commands.connection import (
    FAILED,
    NOT_READY,
    OK,
    USAGE,
    access_of,
    add_access,
    add_reason,
    error_message,
    run_to_end,
)
from server.commands.fleet.members import SHORT, UNREACHABLE, Member, look_all, verdict
from server.commands.fleet.switch import Fleet, Switched
from server.commands.load import BUNDLE_HELP, source_of
from server.commands.output.command_line import CommandLine
from server.commands.output.progress_bar import OF_LOAD, Forward
from server.commands.output.status_report import table
from server.values import above_zero, expecting, whole
from trefoil import TrefoilError
from trefoil.discovery import resolve

MIXED = 6
HEAD = ("server", "address", "state", "stamp", "loaded", "standby", "note")


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server fleet",
        description="One bundle on many servers. `load` proves it on each of them, `activate` "
        "switches all of them or none: when one fails, those that switched go back, and the reason "
        "is in the deploy history of each.",
        epilog="exit codes: 0 done on every server, 1 refused and nothing changed, 2 wrong "
        "usage, 4 no server found, 6 check the servers whose names are printed",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    status = actions.add_parser("status", help="what each server serves and has loaded")
    load = actions.add_parser("load", help="load and prove a bundle on every server")
    load.add_argument("bundle", metavar="BUNDLE", help=BUNDLE_HELP)
    load.add_argument(
        "--parallel",
        type=expecting(whole),
        default=4,
        metavar="N",
        help="servers that load at the same time (4)",
    )
    activate = actions.add_parser("activate", help="switch every server to a loaded stamp, or none")
    activate.add_argument("stamp", metavar="STAMP", help="64 hex digits, or a prefix of them")
    add_canary(activate)
    back = actions.add_parser("rollback", help="switch all back to the previous bundle, or none")
    for switch in (activate, back):
        add_reason(switch)
        switch.add_argument(
            "--write-expected",
            type=Path,
            metavar="FILE",
            help="afterwards write the stamp to the file that servers read with --expect-stamp",
        )
    for action in (status, load, activate, back):
        action.add_argument(
            "--servers",
            nargs="+",
            required=True,
            metavar="TARGET",
            help="HOST:PORT of each, dns:///HOST:PORT for all behind a name, or file:PATH",
        )
        action.add_argument(
            "--timeout",
            type=expecting(above_zero),
            default=30.0,
            metavar="S",
            help="a server that has not answered a call after this has failed (30)",
        )
        add_access(action)
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    if arguments.action == "load":
        arguments.bundle = source_of(arguments.bundle)
    return run_to_end(_run(arguments), "the fleet")


async def _run(arguments: argparse.Namespace) -> int:
    try:
        addresses = await resolve(arguments.servers)
    except (OSError, ValueError) as error:
        print(f"--servers: {error}", file=sys.stderr)
        return USAGE if isinstance(error, ValueError) else NOT_READY
    if not addresses:
        print(f"--servers: {' '.join(arguments.servers)} names no server", file=sys.stderr)
        return NOT_READY
    access = access_of(arguments)
    async with AsyncExitStack() as open_clients:
        members = [
            Member(
                address, await open_clients.enter_async_context(CommandConnection(address, access))
            )
            for address in addresses
        ]
        if arguments.action == "status":
            return await _status(members, arguments.timeout)
        if arguments.action == "load":
            return await _load(members, arguments)
        fleet = Fleet(members, arguments.timeout, print)
        canary = 0.0
        if arguments.action == "activate":
            canary = arguments.canary
            done = await fleet.activate(
                arguments.stamp, canary, arguments.canary_minutes, arguments.reason
            )
        else:
            done = await fleet.roll_back(arguments.reason)
        if done.whole and arguments.write_expected is not None and not canary:
            stamp = members[0].stamp
            arguments.write_expected.write_text(f"{stamp}\n")
            print(f"{arguments.write_expected}: {stamp[:SHORT]}")
        return _ended(done)


def _ended(done: Switched) -> int:
    if done.whole:
        print(done.reason)
        return OK
    print(done.reason, file=sys.stderr)
    if done.same:
        print("nothing has changed", file=sys.stderr)
        return FAILED
    print(
        f"LEFT TO LOOK AT: {', '.join(done.left)}. Start them with --expect-stamp and the stamp of "
        "the others, or repeat the command when they are back",
        file=sys.stderr,
    )
    return MIXED


async def _status(members: Sequence[Member], timeout_s: float) -> int:
    await look_all(members, timeout_s)
    print(table(HEAD, [_row(member) for member in members]))
    good, sentence = verdict(members)
    print(f"\n{sentence}")
    if all(member.state == UNREACHABLE for member in members):
        return NOT_READY
    return OK if good else FAILED


def _row(member: Member) -> tuple[str, ...]:
    return (
        member.name or "-",
        member.address,
        member.state,
        member.stamp[:SHORT] or "-",
        member.having("loaded")[:SHORT] or "-",
        member.having("standby")[:SHORT] or "-",
        member.note,
    )


async def _load(members: Sequence[Member], arguments: argparse.Namespace) -> int:
    """Load on all servers, a few at a time. A refusal by one server does not stop the others: a
    bundle is often refused everywhere for the same reason, and all reasons are shown."""
    await look_all(members, arguments.timeout)
    absent = [member for member in members if member.state == UNREACHABLE]
    if absent:
        for member in absent:
            print(f"{member.address}: {member.note}", file=sys.stderr)
        print("nothing was loaded", file=sys.stderr)
        return FAILED
    places = asyncio.Semaphore(arguments.parallel)
    width = max(len(member.label) for member in members)

    async def one(number: int, member: Member) -> str:
        layout = f"{member.label:{width}}  {{percentage:3.0f}} %|{{bar:24}}| {{postfix}}"
        shown = sys.stderr.isatty()
        step, last, forward = "", pb.Progress(), Forward(OF_LOAD)
        async with places:
            with tqdm(total=1.0, position=number, bar_format=layout, disable=not shown) as bar:
                async for progress in member.load(arguments.bundle):
                    bar.set_postfix_str(f"{progress.step} {progress.detail}"[:60])
                    bar.update(forward.moved(progress.step, progress.fraction))
                    if not shown and progress.step != step:
                        print(f"{member.label}: {progress.step}", file=sys.stderr)
                    step, last = progress.step, progress
                return str(last.stamp.hex)

    async def tried(number: int, member: Member) -> tuple[str, str]:
        try:
            return await one(number, member), ""
        except TrefoilError as error:
            return "", error_message(error, member.label)

    found = await asyncio.gather(*(tried(n, member) for n, member in enumerate(members)))
    for member, (stamp, error) in zip(members, found, strict=True):
        print(f"{member.label}: {error or f'ready  {stamp}'}")
    stamps = {stamp for stamp, _ in found}
    if "" in stamps or len(stamps) > 1:
        print("not every server has it: none can be switched together", file=sys.stderr)
        return FAILED
    targets = " ".join(arguments.servers)
    print(f"next: server fleet activate {stamps.pop()[:SHORT]} --servers {targets}")
    return OK
