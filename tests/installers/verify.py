"""Checks the installers as far as this machine can: python -m tests.installers.verify

A check that cannot run here is skipped with the reason. Exit codes: 0 no check failed,
1 otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tests.installers import files
from tests.installers.booted import starts_under_systemd
from tests.installers.contained import serves_read_only
from tests.installers.image import Workshop, same_twice
from tests.installers.tools import GPU_HOST, Failed, Skipped

Check = Callable[[], str]


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.installers.verify", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="only what starts nothing (seconds, without root)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="DIR",
        help="keep what is downloaded and built here, about 8 GB (default: removed at the end)",
    )
    return parser


def main(argv: Sequence[str] | None = None, gpu_host: Path = GPU_HOST) -> int:
    arguments = parser().parse_args(argv)
    checks: dict[str, Check] = {check.__name__: partial(check, gpu_host) for check in files.CHECKS}
    with _folder(arguments.work) as folder:
        if not arguments.quick:
            workshop = Workshop(folder)
            built = (same_twice, serves_read_only, starts_under_systemd)
            checks |= {check.__name__: partial(check, workshop) for check in built}
        ends = [_ending(name, check) for name, check in checks.items()]
    print(", ".join(f"{ends.count(end)} {end}" for end in ("passed", "failed", "skipped")))
    return 1 if "failed" in ends else 0


def _ending(name: str, check: Check) -> str:
    began = time.monotonic()
    try:
        end, evidence = "passed", check()
    except Skipped as reason:
        end, evidence = "skipped", str(reason)
    except Failed as error:
        end, evidence = "failed", str(error)
    mark = end if end == "passed" else end.upper()
    print(f"{mark:8} {time.monotonic() - began:6.1f} s  {name.replace('_', ' ')}: {evidence}")
    sys.stdout.flush()
    return end


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield kept.resolve()
        return
    with tempfile.TemporaryDirectory(prefix="trefoil-") as folder:
        yield Path(folder)


if __name__ == "__main__":
    sys.exit(main())
