"""`pipelines`: build, verify, inspect, restamp, compare and sign bundles.

Exit codes: 0 done, 2 wrong usage, 78 a bundle (or what should become one) was refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from pipelines import report
from pipelines.bars import Bars
from pipelines.contents import read_contents
from pipelines.diff import differences, running_differences
from pipelines.errors import BundleRefused

OK: Final = 0
USAGE: Final = 2
REFUSED: Final = 78  # EX_CONFIG: starting again will not help


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    command: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return command(arguments)
    except BundleRefused as error:
        print(f"pipelines: {error}", file=sys.stderr)
        return REFUSED
    except (OSError, ValueError) as error:  # a path that is not there, a device that cannot be
        print(f"pipelines: {error}", file=sys.stderr)
        return USAGE


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="pipelines",
        description="Build, verify, inspect, restamp, compare and sign bundles.",
        epilog="Exit codes: 0 done, 2 wrong usage, 78 the bundle was refused (and why, on stderr).",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_build(commands)
    _add_verify(commands)
    _add_inspect(commands)
    _add_restamp(commands)
    _add_diff(commands)
    _add_sign(commands)
    return top


def _add_build(commands: Any) -> None:
    p = commands.add_parser(
        "build",
        help="make a bundle from a local Qwen2.5-Omni or Gemma 4 checkpoint",
        description="Makes a bundle from a local checkpoint directory: Qwen2.5-Omni (thinker-only "
        "or full-Omni layout) or Gemma 4, single or sharded safetensors, tokenizer.json beside "
        "them. The golden answers are recorded by running it.",
    )
    p.add_argument("--from", dest="source", type=Path, required=True, metavar="DIR")
    p.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="FILE",
        help="one label a line (`name` or `name<TAB>what the model says`), or labels.json",
    )
    p.add_argument("--name", required=True, help="e.g. triage-2026.11.23")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="must not exist yet")
    p.add_argument("--preprocess", type=Path, metavar="FILE", help="sections to replace, as JSON")
    p.add_argument("--template", type=Path, metavar="FILE", help="prompts of each task, as JSON")
    p.add_argument("--objective", type=Path, metavar="FILE", help="value of decisions, as JSON")
    p.add_argument("--training", type=Path, metavar="FILE", help="training facts, as JSON")
    p.add_argument("--reference", type=Path, metavar="FILE", help="reference profile, as JSON")
    p.add_argument("--card", type=Path, metavar="FILE", help="CARD.md")
    p.add_argument(
        "--golden",
        type=Path,
        metavar="DIR",
        help="a text, a picture and a sound file to record golden answers for (default: drawn)",
    )
    p.add_argument("--max-pixels", type=int, metavar="N", help="image budget; the main cost dial")
    _add_model_flags(p)
    _add_record_speed(p)
    p.set_defaults(run=_build)


def _add_verify(commands: Any) -> None:
    p = commands.add_parser(
        "verify",
        help="every check there is, golden answers included",
        description="Hashes every file, compares code and libraries, loads the model and asks the "
        "golden inputs. Remembered digests are not used.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument(
        "--key",
        type=Path,
        action="append",
        default=[],
        metavar="PUBLIC",
        help="refuse a bundle that none of these keys (PEM) signed; may be repeated",
    )
    p.add_argument(
        "--openssf",
        action="store_true",
        help="the keys are of model.sig, the OpenSSF signature, and not of manifest.sig",
    )
    _add_model_flags(p)
    p.set_defaults(run=_verify)


def _add_inspect(commands: Any) -> None:
    p = commands.add_parser("inspect", help="what a bundle holds, and whether it can serve here")
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--json", action="store_true", help="one JSON object")
    p.set_defaults(run=_inspect)


def _add_restamp(commands: Any) -> None:
    p = commands.add_parser(
        "restamp",
        help="a new stamp for the code and libraries as they are now",
        description="Asks the golden inputs under the code and libraries as they are now and, if "
        "all answers agree with the recorded ones, writes a new manifest.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--out", type=Path, metavar="DIR", help="write a new bundle (default: in place)")
    p.add_argument(
        "--accept-new-golden",
        action="store_true",
        help="record the new answers even where they differ: the old ones are gone then",
    )
    _add_model_flags(p)
    _add_record_speed(p)
    p.set_defaults(run=_restamp)


def _add_diff(commands: Any) -> None:
    p = commands.add_parser(
        "diff",
        help="what differs between two bundles, or a bundle and the running code",
        description="Says in words what differs, down to the parameter, module, library or tensor. "
        "Without B, compares with the code and libraries as they are here.",
    )
    p.add_argument("a", type=Path, metavar="A")
    p.add_argument("b", type=Path, metavar="B", nargs="?")
    p.add_argument("--json", action="store_true", help="a JSON list of lines")
    p.set_defaults(run=_diff)


def _add_sign(commands: Any) -> None:
    p = commands.add_parser(
        "sign",
        help="vouch for a bundle with a private key",
        description="Hashes every file, then signs the manifest: Ed25519 or P-256, PEM. Whoever "
        "has the public key can ask for it with `pipelines verify --key PUBLIC` or "
        "`server --require-signature PUBLIC`.",
    )
    p.add_argument("bundle", type=Path, metavar="BUNDLE")
    p.add_argument("--key", type=Path, required=True, metavar="PRIVATE", help="private key, PEM")
    p.add_argument(
        "--openssf",
        action="store_true",
        help="write model.sig, an OpenSSF model signature (P-256), for other people's tools; a "
        "server does not ask for it",
    )
    p.set_defaults(run=_sign)


def _add_model_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="cpu", help="auto, cpu, cuda, cuda:N (default: cpu)")
    p.add_argument("--dtype", default="auto", help="auto, float32, bfloat16, float16")
    p.add_argument("--threads", default="auto", help="auto or a number")


def _model(arguments: argparse.Namespace) -> tuple[str, str, str]:
    return arguments.device, arguments.dtype, arguments.threads


def _add_record_speed(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--record-speed",
        action="store_true",
        help="time the golden inputs on this machine: the readiness limit is a multiple of that",
    )


def _build(arguments: argparse.Namespace) -> int:
    # Late: `pipelines --help` and `inspect` need no model library.
    from pipelines import adopt, build, checkpoint

    given = adopt.Given(
        name=arguments.name,
        labels=adopt.labels(arguments.labels),
        preprocess=_object(arguments.preprocess),
        template=_object(arguments.template),
        objective=_object(arguments.objective),
        training=_object(arguments.training),
        reference=_object(arguments.reference),
        card=arguments.card and arguments.card.read_text(encoding="utf-8"),
        golden=arguments.golden,
        max_pixels=arguments.max_pixels,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    with Bars() as bars:
        stamp = build.write_bundle(
            adopt.spec(checkpoint.read(arguments.source), given),
            arguments.out,
            build.loader(*_model(arguments)),
            bars.bytes_done,
            arguments.record_speed,
        )
    print(f"{arguments.out}\n{stamp.name}\n{stamp.hex}")
    return OK


def _verify(arguments: argparse.Namespace) -> int:
    from pipelines import golden
    from pipelines.bundle import Bundle
    from pipelines.pipeline import Pipeline
    from pipelines.signature import read_public

    signed_by = _openssf(arguments) if arguments.openssf else ""
    trusted = [] if arguments.openssf else [read_public(path) for path in arguments.key]
    with Bars() as bars:
        bundle = Bundle.open(arguments.bundle, progress=bars.fraction_done, trusted=trusted)
    signed_by = signed_by or bundle.signed_by
    pipeline = Pipeline.of(bundle, *_model(arguments))
    results = golden.check(pipeline)
    for result in results:
        print(report.golden_line(result))
    golden.refuse_wrong(results)
    print(f"verified: {len(pipeline.bundle.files)} files, {len(results)} golden answers")
    if signed_by:
        print(f"signed by {signed_by}")
    print(f"{pipeline.stamp.name}\n{pipeline.stamp.hex}")
    return OK


def _openssf(arguments: argparse.Namespace) -> str:
    """The id of the key that made model.sig."""
    from pipelines import openssf

    if not arguments.key:
        raise ValueError("--openssf needs --key PUBLIC: whose signature should it be?")
    with Bars() as bars:
        contents = read_contents(arguments.bundle, bars.fraction_done)
    return openssf.check(contents, arguments.key)


def _inspect(arguments: argparse.Namespace) -> int:
    with Bars() as bars:
        contents = read_contents(arguments.bundle, bars.fraction_done)
    facts = report.facts(contents)
    print(json.dumps(facts, indent=1) if arguments.json else report.words(facts))
    return OK


def _restamp(arguments: argparse.Namespace) -> int:
    from pipelines import build
    from pipelines.restamp import restamp

    done = restamp(
        arguments.bundle,
        arguments.out,
        arguments.accept_new_golden,
        arguments.record_speed,
        build.loader(*_model(arguments)),
    )
    for result in done.results:
        print(report.golden_line(result))
    if done.new_golden:
        print(
            "pipelines: THE GOLDEN ANSWERS WERE REPLACED by today's; nothing vouches for the old "
            "ones any more",
            file=sys.stderr,
        )
    same = " (unchanged)" if done.stamp.hex == done.before else f" (was {done.before[:12]})"
    print(f"{arguments.out or arguments.bundle}\n{done.stamp.name}{same}\n{done.stamp.hex}")
    return OK


def _diff(arguments: argparse.Namespace) -> int:
    with Bars() as bars:
        a = read_contents(arguments.a, bars.fraction_done)
        b = read_contents(arguments.b, bars.fraction_done) if arguments.b else None
    lines = differences(a, b) if b else running_differences(a.manifest)
    if arguments.json:
        print(json.dumps(lines, indent=1))
    else:
        print("\n".join(lines) if lines else "no difference: the stamp is the same")
    return OK


def _sign(arguments: argparse.Namespace) -> int:
    from pipelines import openssf
    from pipelines.signature import sign

    with Bars() as bars:
        contents = read_contents(arguments.bundle, bars.fraction_done)
    if arguments.openssf:
        openssf.sign(contents, arguments.key)
        print(f"{contents.manifest.stamp().name} signed: model.sig")
        return OK
    key = sign(contents, arguments.key)
    print(f"{contents.manifest.stamp().name} signed with key {key}")
    return OK


def _object(path: Path | None) -> dict[str, Any] | None:
    from pipelines.formats import parse_json

    return None if path is None else parse_json(str(path), path.read_bytes())


if __name__ == "__main__":
    sys.exit(main())
