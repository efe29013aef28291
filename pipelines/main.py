"""`pipelines`: build, verify, inspect, restamp, compare and sign bundles.

Exit codes: 0 done, 2 wrong usage, 78 a bundle or checkpoint was refused, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from pipelines.arguments import parser
from pipelines.bundle import report
from pipelines.bundle.contents import read_contents
from pipelines.bundle.diff import differences, running_differences
from pipelines.errors import BundleRefused

OK: Final = 0
USAGE: Final = 2
INTERRUPTED: Final = 130
REFUSED: Final = 78  # EX_CONFIG: a restart will not help


class ProgressBars:
    """Progress bars on a terminal's stderr; silent anywhere else."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._what = ""

    def __enter__(self) -> ProgressBars:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def bytes_done(self, what: str, done: int, total: int) -> None:
        self._show(what, done, total, unit="B", unit_scale=True)

    def fraction_done(self, step: str, fraction: float) -> None:
        form = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}"
        self._show(step, round(fraction * 1000), 1000, bar_format=form)

    def _show(self, what: str, done: int, total: int, **form: Any) -> None:
        if what != self._what:
            self.__exit__()
            self._what = what
            self._bar = tqdm(total=total, desc=what, disable=None, leave=False, **form)
        self._bar.update(done - self._bar.n)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(argv)
    try:
        return COMMANDS[arguments.command](arguments)
    except BundleRefused as error:
        print(f"pipelines: {error}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        return INTERRUPTED
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"pipelines: {message}", file=sys.stderr)
        return USAGE
    except ValueError as error:  # an impossible device or key
        print(f"pipelines: {error}", file=sys.stderr)
        return USAGE


def _model(arguments: argparse.Namespace) -> tuple[str, str, str]:
    return arguments.device, arguments.dtype, arguments.threads


def _build(arguments: argparse.Namespace) -> int:
    # Imported late: `pipelines --help` and `inspect` need no model library.
    from pipelines.build import build, checkpoint, from_checkpoint

    given = from_checkpoint.BuildOptions(
        name=arguments.name,
        labels=from_checkpoint.labels(arguments.labels),
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
    with ProgressBars() as progress:
        stamp = build.write_bundle(
            from_checkpoint.spec(checkpoint.read(arguments.source), given),
            arguments.out,
            build.loader(*_model(arguments)),
            progress.bytes_done,
            arguments.record_speed,
        )
    print(f"{arguments.out}\n{stamp.name}\n{stamp.hex}")
    # Not to standard output, because scripts read the stamp there.
    print(f"next: server --bundle {shlex.quote(str(arguments.out))}", file=sys.stderr)
    return OK


def _verify(arguments: argparse.Namespace) -> int:
    from pipelines.bundle import golden, openssf
    from pipelines.bundle.bundle import Bundle
    from pipelines.bundle.signature import read_public
    from pipelines.pipeline import Pipeline

    if arguments.openssf and not arguments.key:
        raise ValueError("--openssf needs --key PUBLIC, the key that must have signed")
    trusted = [] if arguments.openssf else [read_public(path) for path in arguments.key]
    with ProgressBars() as progress:
        contents = read_contents(arguments.bundle, progress.fraction_done, trusted=trusted)
        signed_by = contents.signed_by
        if arguments.openssf:
            signed_by = openssf.check(contents, arguments.key)
        bundle = Bundle.of(contents, progress=progress.fraction_done)
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


def _inspect(arguments: argparse.Namespace) -> int:
    with ProgressBars() as progress:
        contents = read_contents(arguments.bundle, progress.fraction_done)
    facts = report.facts(contents)
    print(json.dumps(facts, indent=1) if arguments.json else report.as_text(facts))
    return OK


def _restamp(arguments: argparse.Namespace) -> int:
    from pipelines.build import build
    from pipelines.build.restamp import restamp

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
            "pipelines: THE GOLDEN ANSWERS WERE REPLACED by the current ones; the old ones are no "
            "longer checked",
            file=sys.stderr,
        )
    same = " (unchanged)" if done.stamp.hex == done.before else f" (was {done.before[:12]})"
    print(f"{arguments.out or arguments.bundle}\n{done.stamp.name}{same}\n{done.stamp.hex}")
    return OK


def _diff(arguments: argparse.Namespace) -> int:
    with ProgressBars() as progress:
        a = read_contents(arguments.a, progress.fraction_done)
        b = read_contents(arguments.b, progress.fraction_done) if arguments.b else None
    lines = differences(a, b) if b else running_differences(a.manifest)
    if arguments.json:
        print(json.dumps(lines, indent=1))
    else:
        print("\n".join(lines) if lines else "no difference: the stamp is the same")
    return OK


def _sign(arguments: argparse.Namespace) -> int:
    from pipelines.bundle import openssf
    from pipelines.bundle.signature import sign

    with ProgressBars() as progress:
        contents = read_contents(arguments.bundle, progress.fraction_done)
    if arguments.openssf:
        openssf.sign(contents, arguments.key)
        print(f"{contents.manifest.stamp().name} signed: model.sig")
        return OK
    key = sign(contents.path, contents.manifest.to_bytes(), arguments.key)
    print(f"{contents.manifest.stamp().name} signed with key {key}")
    return OK


def _object(path: Path | None) -> dict[str, Any] | None:
    from pipelines.bundle.formats import parse_json

    return None if path is None else parse_json(str(path), path.read_bytes())


COMMANDS: Final[dict[str, Callable[[argparse.Namespace], int]]] = {
    "build": _build,
    "verify": _verify,
    "inspect": _inspect,
    "restamp": _restamp,
    "diff": _diff,
    "sign": _sign,
}


if __name__ == "__main__":
    import trefoil_serve

    sys.exit(trefoil_serve.pipelines())
