"""`server rehearse`: compare the answers of a bundle with those of the active one."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from proto import admin_pb2 as pb
from server.commands.connection import (
    FAILED,
    OK,
    add_connection,
    add_reason,
    connect,
    run_to_end,
)
from server.commands.output.command_line import CommandLine
from server.commands.output.plain_values import plain
from server.commands.output.progress_bar import OF_REHEARSAL, Forward
from server.commands.output.status_report import table
from server.values import expecting, share

HOLD = 6
CODES = {"promote": OK, "hold": HOLD, "refuse": FAILED}
STAMP = re.compile(r"[0-9a-f]{6,64}")
ABOUT = """Stored payloads, weighted by the inverse of their sampling probability, are replayed
through the bundle while the active one keeps serving. With --shadow a share of live traffic is
replayed too, and those answers are discarded. docs/serving.md lists what is compared, and every
bound with its source. A BUNDLE that was loaded for this is unloaded again when it is refused or the
command is interrupted.

exit codes: 0 promote, 6 hold, 1 refuse, 2 wrong usage, 4 not reached"""


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server rehearse",
        description="Replay stored payloads through a bundle that does not serve yet, and judge "
        "it: promote, hold or refuse.",
        epilog=ABOUT,
    )
    add = parser.add_argument
    add(
        "what",
        metavar="STAMP|BUNDLE",
        help="a stamp that is loaded or stored, or a bundle directory to load first",
    )
    add(
        "--payloads",
        type=_count,
        default=500,
        metavar="N",
        help="replay at most the latest N payloads (500)",
    )
    add(
        "--shadow",
        type=expecting(share),
        default=0.0,
        metavar="P",
        help="also replay this share of live traffic",
    )
    add("--seconds", type=_seconds, default=60.0, metavar="S", help="duration of --shadow (60)")
    add("--json", action="store_true", help="print one JSON object")
    add_reason(parser)
    add_connection(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    arguments = parser().parse_args(argv)
    if not STAMP.fullmatch(arguments.what) or Path(arguments.what).is_dir():
        arguments.what = str(Path(arguments.what).resolve())
    return run_to_end(_rehearse(arguments), arguments.server)


async def _rehearse(arguments: argparse.Namespace) -> int:
    request = pb.RehearseRequest(
        payloads=arguments.payloads,
        shadow_share=arguments.shadow,
        seconds=arguments.seconds,
        reason=arguments.reason,
    )
    if STAMP.fullmatch(arguments.what):
        request.stamp = arguments.what
    else:
        request.path = arguments.what
    event, forward = pb.RehearseEvent(), Forward(OF_REHEARSAL)
    async with connect(arguments) as client:
        layout = "{desc:10} {percentage:3.0f} %|{bar:30}| {postfix}"
        with tqdm(total=1.0, bar_format=layout, disable=not sys.stderr.isatty()) as bar:
            async for event in client.stream(client.admin.Rehearse, request):
                progress = event.progress
                bar.set_description(progress.step)
                bar.set_postfix_str(progress.detail[:60])
                bar.update(forward.moved(progress.step, progress.fraction))
    print(json.dumps(plain(event)) if arguments.json else readable(event))
    return CODES.get(event.verdict, FAILED)


def readable(event: pb.RehearseEvent) -> str:
    found = event.figures
    live = f", {found['live']:.0f} of them live" if found["live"] else ""
    dropped = f" ({found['live_dropped']:.0f} more dropped)" if found["live_dropped"] else ""
    lines = [
        f"rehearsed  {event.progress.stamp.name}  beside  {event.active.name}",
        f"{found['payloads']:.0f} payloads{live}{dropped}, worth {found['effective']:.0f} drawn "
        f"evenly; {found['labelled']:.0f} of known truth",
        "",
        table(["", "active", "candidate", "difference", "95 %"], list(_rows(event))),
        "",
    ]
    lines += [f"  {message}" for message in event.messages]
    lines += [""] if event.messages else []
    return "\n".join([*lines, f"{event.verdict}: {event.reason}"])


def _rows(event: pb.RehearseEvent) -> list[list[str]]:
    found, unit = event.figures, event.value_unit
    rows = [
        ["answers changed", "", "", *_share_of(found, "changed")],
        ["not answered any more", "", "", *_share_of(found, "lost")],
    ]
    if found["near_tie_rows"]:
        rows.insert(1, ["near ties", "", "", f"{found['near_tie_rows']:.0f} payloads", ""])
    for title, name, digits in (
        ("confidence", "confidence", 3),
        ("accuracy", "accuracy", 3),
        (f"{unit} per 1,000", "value_per_1000", 0),
        (f"{unit} per 1,000, estimated", "estimated_value_per_1000", 0),
    ):
        if f"{name}_before" in found:
            rows.append([title, *_both(found, name, digits)])
    if "work_ratio_high" in found:  # a small number of pairs has no upper end
        before, now = found["work_ms_before"], found["work_ms_now"]
        low, high = found["work_ratio_low"], found["work_ratio_high"]
        ratio = f"x {found['work_ratio']:.2f}"
        rows.append(
            ["work, ms a payload", f"{before:.1f}", f"{now:.1f}", ratio, f"{low:.2f} to {high:.2f}"]
        )
    return rows


def _share_of(found: pb.RehearseEvent.FiguresEntry, name: str) -> list[str]:
    if name not in found:
        return ["", ""]
    low, high = 100 * found[f"{name}_low"], 100 * found[f"{name}_high"]
    return [f"{100 * found[name]:.1f} %", f"{low:.1f} to {high:.1f}"]


def _both(found: pb.RehearseEvent.FiguresEntry, name: str, digits: int) -> list[str]:
    key = f"{name}_difference"
    low, high = (found.get(f"{key}_{end}", math.nan) for end in ("low", "high"))
    known = f"{low:+,.{digits}f} to {high:+,.{digits}f}" if math.isfinite(low + high) else "unknown"
    values = [f"{found[f'{name}_{when}']:,.{digits}f}" for when in ("before", "now")]
    return [*values, f"{found[key]:+,.{digits}f}", known]


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: 1 to 1000 payloads can be replayed")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text}: up to 3600 seconds")
    return seconds
