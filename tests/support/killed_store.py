"""A store of bundles whose process is killed at each of its durable steps in turn."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from server.deploy.bundle_store import BundleStore
from tests.support.patience import patience
from tests.support.running import ROOT

MOST_STEPS = 25
PROGRAM = """
import os, sys
from pathlib import Path
from server.deploy.bundle_store import BundleStore
left = int(sys.argv[3])
def step(name):
    global left
    left -= 1
    if left == 0:
        os._exit(9)
store, fresh = BundleStore(Path(sys.argv[1]), step), Path(sys.argv[2])
"""


def killed_stores(
    folder: Path, served: Sequence[Path], fresh: Path, work: str
) -> Iterator[BundleStore]:
    """The store as each kill left it: `served` were activated in this order, then `work`, lines of
    Python on `store` and the bundle `fresh`, was begun."""
    ended = []
    for kill_at in range(1, MOST_STEPS):
        root = folder / f"killed-at-{kill_at}"
        store = BundleStore(root)
        for source in served:
            store.activate(store.add(source))
        arguments = [sys.executable, "-S", "-c", PROGRAM + work, str(root), str(fresh)]
        ended.append(
            subprocess.run([*arguments, str(kill_at)], cwd=ROOT, timeout=patience(60)).returncode
        )
        yield BundleStore(root)
        if ended[-1] == 0:
            break
    assert ended[-1] == 0 and len(ended) > 8  # every step was tried, then it ran through
