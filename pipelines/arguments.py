"""The command line of `pipelines`: its commands and their flags."""

from __future__ import annotations

import argparse
from importlib import metadata
from pathlib import Path
from typing import Any, Final

EXIT_CODES: Final = (
    "exit codes: 0 done, 2 wrong usage, 78 the bundle was refused (stderr has the reason)"
)
A_BUNDLE: Final = "a bundle's directory"


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="pipelines",
        description="Build, verify, inspect, restamp, compare and sign bundles.",
        epilog=EXIT_CODES,
    )
    top.add_argument("--version", action="version", version=f"%(prog)s {_version()}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_build(commands)
    _add_verify(commands)
    _add_inspect(commands)
    _add_restamp(commands)
    _add_diff(commands)
    _add_sign(commands)
    return top


def _version() -> str:
    try:
        return metadata.version("trefoil-serve")
    except metadata.PackageNotFoundError:
        return "not installed"


def _add_build(commands: Any) -> None:
    p = _command(
        commands,
        "build",
        help="make a bundle from a local Qwen2.5-Omni or Gemma 4 checkpoint",
        description="Makes a bundle from a local checkpoint directory: Qwen2.5-Omni (thinker-only "
        "or full-Omni layout) or Gemma 4, single or sharded safetensors, tokenizer.json beside "
        "them. The golden answers are recorded by running the model.",
    )
    p.add_argument(
        "--from", dest="source", type=Path, required=True, metavar="DIR", help="the checkpoint"
    )
    p.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="FILE",
        help="one label a line (`name` or `name<TAB>text the model writes`), or labels.json",
    )
    p.add_argument("--name", required=True, help="e.g. triage-2026.11.23")
    p.add_argument("--out", type=Path, required=True, metavar="DIR", help="must not exist yet")
    for name, what in (
        ("preprocess", "sections to replace, as JSON (default: the family's)"),
        ("template", "prompts of each task, as JSON (default: the family's)"),
        ("objective", "value of decisions, as JSON (default: none)"),
        ("training", "facts about the training, as JSON (default: the source directory)"),
        ("reference", "reference profile, as JSON (default: learned while serving)"),
        ("card", "CARD.md, for people (default: a note that it is not measured)"),
    ):
        p.add_argument(f"--{name}", type=Path, metavar="FILE", help=what)
    p.add_argument(
        "--golden",
        type=Path,
        metavar="DIR",
        help="directory with a text, an image and a sound for golden answers (default: generated)",
    )
    p.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="pixels an image may keep; decides the cost most (default: the family's)",
    )
    _add_model_flags(p)
    _add_record_speed(p)


def _add_verify(commands: Any) -> None:
    p = _command(
        commands,
        "verify",
        help="run every check, golden answers included",
        description="Hashes every file, compares code and libraries, loads the model and runs the "
        "golden inputs. Remembered digests are not used.",
    )
    _add_bundle(p)
    p.add_argument(
        "--key",
        type=Path,
        action="append",
        default=[],
        metavar="PUBLIC",
        help="refuse a bundle not signed with one of these keys (PEM); may be repeated",
    )
    p.add_argument(
        "--openssf",
        action="store_true",
        help="check model.sig, the OpenSSF signature, instead of manifest.sig",
    )
    _add_model_flags(p)


def _add_inspect(commands: Any) -> None:
    p = _command(
        commands,
        "inspect",
        help="show what a bundle holds and whether it can serve here",
        description="Hashes every file and shows what the manifest lists: stamp, parts, labels, "
        "golden inputs, libraries, training. The model is not loaded.",
    )
    _add_bundle(p)
    p.add_argument("--json", action="store_true", help="one JSON object")


def _add_restamp(commands: Any) -> None:
    p = _command(
        commands,
        "restamp",
        help="stamp a bundle for the current code and libraries",
        description="Runs the golden inputs with the current code and libraries. If all answers "
        "agree with the recorded ones, writes a new manifest.",
    )
    _add_bundle(p)
    p.add_argument("--out", type=Path, metavar="DIR", help="write a new bundle (default: in place)")
    p.add_argument(
        "--accept-new-golden",
        action="store_true",
        help="record the new answers even where they differ; this replaces the old ones",
    )
    _add_model_flags(p)
    _add_record_speed(p)


def _add_diff(commands: Any) -> None:
    p = _command(
        commands,
        "diff",
        help="compare two bundles, or a bundle and the running code",
        description="Lists every difference, down to the parameter, module, library or tensor. "
        "Without B, compares A with the code and libraries here.",
    )
    p.add_argument("a", type=Path, metavar="A", help=A_BUNDLE)
    p.add_argument("b", type=Path, metavar="B", nargs="?", help="another bundle's directory")
    p.add_argument("--json", action="store_true", help="a JSON list of lines")


def _add_sign(commands: Any) -> None:
    p = _command(
        commands,
        "sign",
        help="sign a bundle with a private key",
        description="Hashes every file, then signs the manifest: Ed25519 or P-256, PEM. Check the "
        "signature with `pipelines verify --key PUBLIC` or "
        "`server --require-signature PUBLIC`.",
    )
    _add_bundle(p)
    p.add_argument("--key", type=Path, required=True, metavar="PRIVATE", help="private key, PEM")
    p.add_argument(
        "--openssf",
        action="store_true",
        help="write model.sig, an OpenSSF model signature (P-256), for other tools; a server "
        "does not check it",
    )


def _command(commands: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=help, description=description, epilog=EXIT_CODES
    )
    return parser


def _add_bundle(p: argparse.ArgumentParser) -> None:
    p.add_argument("bundle", type=Path, metavar="BUNDLE", help=A_BUNDLE)


def _add_model_flags(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="cpu", metavar="D", help="auto, cpu, cuda or cuda:N (cpu)")
    p.add_argument(
        "--dtype", default="auto", metavar="T", help="auto, float32, bfloat16 or float16 (auto)"
    )
    p.add_argument("--threads", default="auto", metavar="N", help="auto or a number (auto)")


def _add_record_speed(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--record-speed",
        action="store_true",
        help="time the golden inputs on this machine; the readiness limit is a multiple of it",
    )
