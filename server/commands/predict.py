"""`server predict`: one request from the command line, or the same request repeatedly as a load."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from proto import inference_pb2 as pb
from server.commands.client import CommandConnection
from server.commands.connection import (
    EXIT_CODES,
    OK,
    add_connection,
    connect,
    error_message,
    exit_code,
    run_to_end,
)
from server.commands.output import answer_text
from server.commands.output.command_line import CommandLine, utf8
from server.commands.repeat import Load, run_load
from server.request.modalities import MODALITIES
from server.values import above_zero, expecting
from trefoil.options import ON_TRUNCATION, PRIORITIES

STDIN = "-"
PART = re.compile(r"parts\[(?P<index>\d+)\](?:\.\w+)?")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
EXAMPLE = """example:
  server predict --text "knocking since the last shift" --image station.jpg --audio machine.wav"""


def parser() -> argparse.ArgumentParser:
    parser = CommandLine(
        prog="server predict",
        description="Send one request. Parts go in the order given, any number of each.",
        epilog=f"{EXAMPLE}\n\n{EXIT_CODES}",
    )
    parser.meant = _meant
    parts = parser.add_argument_group("parts, in the order given; - reads standard input")
    for kind, metavar, what in (
        ("text", "TEXT", "a text"),
        ("image", "FILE", "a picture: JPEG, PNG, WebP, GIF, BMP, TIFF"),
        ("audio", "FILE", "a sound: WAV, FLAC, Ogg, Opus, MP3, AIFF"),
    ):
        # One list for all three flags keeps the order in which they were given.
        parts.add_argument(
            f"--{kind}",
            dest="parts",
            action="append",
            metavar=metavar,
            type=partial(_tagged, kind),
            help=f"{what}, repeatable",
        )
    _add_asked(parser.add_argument_group("request"))
    load = parser.add_argument_group("load")
    load.add_argument("--repeat", type=int, default=1, metavar="N", help="send it N times")
    load.add_argument(
        "--concurrency", type=int, default=1, metavar="C", help="C requests at a time"
    )
    load.add_argument(
        "--unary", action="store_true", help="one call per request instead of one stream"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_connection(parser)
    return parser


def _add_asked(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    own = "one label of your own label set; repeatable"
    add("--label", dest="labels", action="append", default=[], metavar="L", type=utf8, help=own)
    add("--embed", action="store_true", help="return the embedding as well")
    add("--generate", action="store_true", help="generate a text instead of a label")
    add(
        "--max-new-tokens",
        type=int,
        default=0,
        metavar="N",
        help="most tokens to generate (default: the bundle's)",
    )
    stamp = "accept answers of this stamp only, 64 hex digits; repeatable"
    add(
        "--expected-stamp",
        dest="stamps",
        action="append",
        default=[],
        metavar="HEX",
        type=_stamp,
        help=stamp,
    )
    tag = "tag for monitoring, e.g. site=a; repeatable"
    add(
        "--slice",
        dest="slices",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        type=_slice,
        help=tag,
    )
    add(
        "--on-truncation",
        choices=ON_TRUNCATION,
        default="answer",
        help="when a part cannot be used whole: answer from what was used, or refuse the row "
        "(answer)",
    )
    session = "session id: its requests stay on one replica"
    add("--session", default="", metavar="ID", type=utf8, help=session)
    add("--priority", choices=PRIORITIES, default="normal", help="place in the queue (normal)")
    add(
        "--deadline-ms",
        type=expecting(above_zero),
        default=60_000.0,
        metavar="MS",
        help="deadline (60000)",
    )


def run(argv: Sequence[str]) -> int:
    command = parser()
    arguments = command.parse_args(argv)
    if not arguments.parts:
        command.error("give at least one of --text, --image and --audio")
    if arguments.generate and (arguments.labels or arguments.embed or arguments.repeat > 1):
        command.error("--generate goes without --label, --embed and --repeat")
    if arguments.repeat < 1 or arguments.concurrency < 1:
        command.error("--repeat and --concurrency are at least 1")
    if sum(value == STDIN for _, value in arguments.parts) > 1:
        command.error("standard input can be read for one part only")
    parts = [_part(command, kind, value) for kind, value in arguments.parts]
    named = partial(_with_files, arguments.parts)
    example = pb.Example(parts=parts, slices=dict(arguments.slices))
    if arguments.generate:
        return run_to_end(_generate(arguments, example), arguments.server, named)
    return run_to_end(_predict(arguments, example, named), arguments.server, named)


async def _predict(
    arguments: argparse.Namespace, example: pb.Example, named: Callable[[str], str]
) -> int:
    timeout_s = arguments.deadline_ms / 1000
    async with connect(arguments) as client:
        request = pb.PredictRequest(
            examples=[await client.upload(example, timeout_s)],
            labels=arguments.labels,
            want_embedding=arguments.embed,
            expected_stamps=arguments.stamps,
            priority=arguments.priority.upper(),
            session_id=arguments.session,
            on_truncation=arguments.on_truncation.upper(),
        )
        if arguments.repeat > 1:
            load = Load(arguments.repeat, arguments.concurrency, arguments.unary, timeout_s)
            return await _load(client, request, load, arguments, named)
        response = await client.unary(client.inference.Predict, request, timeout_s)
    found = answer_text.prediction_of(response)
    print(json.dumps(found) if arguments.json else answer_text.readable(found))
    return OK


async def _load(
    client: CommandConnection,
    request: pb.PredictRequest,
    load: Load,
    arguments: argparse.Namespace,
    named: Callable[[str], str],
) -> int:
    summary = await run_load(client, request, load, sys.stderr)
    if summary.first_error is not None:
        print(named(error_message(summary.first_error, arguments.server)), file=sys.stderr)
    print(json.dumps(summary.plain()) if arguments.json else summary.readable())
    return OK if summary.first_error is None else exit_code(summary.first_error)


async def _generate(arguments: argparse.Namespace, example: pb.Example) -> int:
    timeout_s = arguments.deadline_ms / 1000
    pieces: list[str] = []
    async with connect(arguments) as client:
        request = pb.GenerateRequest(
            example=await client.upload(example, timeout_s),
            max_new_tokens=arguments.max_new_tokens,
            expected_stamps=arguments.stamps,
            priority=arguments.priority.upper(),
            session_id=arguments.session,
            on_truncation=arguments.on_truncation.upper(),
        )
        async for event in client.stream(client.inference.Generate, request, timeout_s):
            if event.HasField("text"):
                pieces.append(event.text)
                if not arguments.json:
                    print(event.text, end="", flush=True)
            else:
                found = answer_text.generation_of(event, "".join(pieces))
    print(json.dumps(found) if arguments.json else f"\n\n{answer_text.readable_generation(found)}")
    return OK


def _part(command: argparse.ArgumentParser, kind: str, value: str) -> pb.Part:
    if kind == "text" and value != STDIN:
        return pb.Part(text=value, modality=pb.TEXT)
    try:
        data = _standard_input(command, kind) if value == STDIN else Path(value).read_bytes()
        if kind == "text":
            return pb.Part(text=data.decode(), modality=pb.TEXT)
    except OSError as error:
        command.error(f"--{kind} {value}: {error.strerror}")
    except UnicodeDecodeError as error:
        command.error(f"--{kind} {value}: byte {error.start} is not valid UTF-8")
    return pb.Part(data=data, modality=MODALITIES[kind], id=_name(value))


def _standard_input(command: argparse.ArgumentParser, kind: str) -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        command.error(f"--{kind} -: standard input is a terminal; give a file, or pipe one in")
    return sys.stdin.buffer.read()


def _meant(argument: str) -> str:
    """Which flag an argument without a flag was probably meant for."""
    ending = Path(argument).suffix.lower()
    kinds = {**dict.fromkeys(PICTURES, "image"), **dict.fromkeys(SOUNDS, "audio")}
    kind = kinds.get(ending, "text")
    return f"; did you mean --{kind} {shlex.quote(argument)}?"


def _with_files(parts: Sequence[tuple[str, str]], message: str) -> str:
    """The message with the file's name after each part that it names. A refusal of a file's content
    begins with its name already."""

    def named(found: re.Match[str]) -> str:
        index = int(found["index"])
        kind, value = parts[index] if index < len(parts) else ("text", "")
        name = _name(value)
        if (kind == "text" and value != STDIN) or message.startswith(f": {name}: ", found.end()):
            return found[0]
        return f"{found[0]} ({name})"

    return PART.sub(named, message)


def _name(value: str) -> str:
    """The name of a part in messages: its file's name, which need not be UTF-8."""
    if value == STDIN:
        return "standard input"
    return os.fsencode(Path(value).name).decode(errors="replace")


def _tagged(kind: str, value: str) -> tuple[str, str]:
    return kind, utf8(value) if kind == "text" else value


def _stamp(text: str) -> str:
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise argparse.ArgumentTypeError("a stamp is compared on all of its 64 hex digits")
    return text


def _slice(text: str) -> tuple[str, str]:
    name, equals, value = utf8(text).partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value
