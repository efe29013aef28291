"""`server feedback`: send the true outcome of predictions."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from proto import inference_pb2 as pb
from server.commands.client import CommandConnection
from server.commands.connection import OK, REFUSED_INPUT, add_connection, connect, run_to_end
from server.commands.output.command_line import CommandLine
from server.commands.output.plain_values import plain

AT_ONCE = 1000
TIMEOUT_S = 30.0
TAKEN = ("joined", "corrected", "duplicate")
FIELDS = tuple(field.name for field in pb.FeedbackItem.DESCRIPTOR.fields)
ABOUT = """examples:
  server feedback 0199c0d2e8b37a0c9f1e5d7b3a8c4f21 stop --source inspection
  server feedback --file labels.jsonl

Each line of the file is one object with prediction_id and at least one of label, outcome and value;
source, observed_unix_ms and idempotency_key are optional. Repeating an item changes nothing; an
item observed later corrects an earlier one.

exit codes: 0 all accepted, 2 wrong usage, 3 some refused, unknown or expired, 4 server not reached,
1 anything else"""


class BadLine(Exception):
    """A line of the file that is not a feedback item."""


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server feedback",
        description="Send the true outcome of predictions to the server that made them.",
        epilog=ABOUT,
    )
    parser.add_argument("id", nargs="?", default="", metavar="ID", help="prediction id")
    parser.add_argument("label", nargs="?", default="", metavar="LABEL", help="the true label")
    parser.add_argument(
        "--value", type=float, metavar="V", help="realised value, in the unit of the objective"
    )
    parser.add_argument("--outcome", default="", metavar="TEXT", help="what happened, as free text")
    parser.add_argument("--source", default="", metavar="S", help="where this is known from")
    parser.add_argument(
        "--file", type=Path, metavar="JSONL", help="many items, one per line; - is standard input"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per result")
    add_connection(parser)
    return parser


def run(argv: Sequence[str]) -> int:
    command = parser()
    arguments = command.parse_args(argv)
    if arguments.file is not None:
        if arguments.id:
            command.error("give an ID or --file, not both")
        try:
            with _opened(arguments.file) as lines:
                items = list(items_of(lines))  # all lines are read before the first item is sent
        except (OSError, BadLine) as error:
            command.error(f"--file {arguments.file}: {getattr(error, 'strerror', None) or error}")
        return run_to_end(_send(arguments, iter(items)), arguments.server)
    given = arguments.label or arguments.outcome or arguments.value is not None
    if not arguments.id or not given:
        command.error("give an ID and LABEL, --value or --outcome")
    item = pb.FeedbackItem(
        prediction_id=arguments.id,
        label=arguments.label,
        outcome=arguments.outcome,
        value=arguments.value,
        source=arguments.source,
    )
    return run_to_end(_send(arguments, iter([item])), arguments.server)


def _opened(path: Path) -> Any:
    return open(sys.stdin.fileno(), closefd=False) if str(path) == "-" else path.open()


def items_of(lines: Iterable[str]) -> Iterator[pb.FeedbackItem]:
    """Raises BadLine at the first line that is not a feedback item."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _item(number, line)


def _item(number: int, line: str) -> pb.FeedbackItem:
    try:
        content = json.loads(line)
        if not isinstance(content, dict):
            raise TypeError("not an object")
        unknown = set(content) - set(FIELDS)
        if unknown:
            raise ValueError(
                f"unknown field {sorted(unknown)[0]!r}; fields are {', '.join(FIELDS)}"
            )
        return pb.FeedbackItem(**content)
    except (TypeError, ValueError) as error:
        raise BadLine(f"line {number}: {error}") from None


async def _send(arguments: argparse.Namespace, items: Iterator[pb.FeedbackItem]) -> int:
    counts: Counter[str] = Counter()
    async with connect(arguments) as client:
        while some := list(islice(items, AT_ONCE)):
            for result in await _results(client, some):
                counts[result.status] += 1
                if arguments.json:
                    print(json.dumps(plain(result)))
                elif result.status not in TAKEN:
                    why = f": {result.fault.message}" if result.fault.message else ""
                    print(f"{result.prediction_id} {result.status}{why}", file=sys.stderr)
    if not arguments.json:
        print(", ".join(f"{count} {status}" for status, count in counts.most_common()) or "nothing")
    return OK if all(status in TAKEN for status in counts) else REFUSED_INPUT


async def _results(
    client: CommandConnection, items: Sequence[pb.FeedbackItem]
) -> Sequence[pb.FeedbackResult]:
    request = pb.FeedbackRequest(items=items)
    response = await client.unary(client.inference.Feedback, request, TIMEOUT_S)
    return response.results  # type: ignore[no-any-return]
