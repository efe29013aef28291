"""How long tests wait for an event that is certain to come, on this machine under its current load.

A limit such as `timeout=20` is written for a quiet machine of two cores. `patience(20)` stretches
it by how much slower a fixed piece of work ran when the tests started, and by how many processes
share a core now. It never shortens a limit, and is not for durations that a test is about.
"""

from __future__ import annotations

import functools
import os
import time

# Processor seconds of `_work` on the machine that the limits were written for: two shared x86-64
# cores, Python 3.11 (the fastest of 20 runs took 0.027).
REFERENCE_S = 0.03
LONGEST = 20.0  # beyond this factor a limit would hide what hangs
VARIABLE = "TREFOIL_TEST_PATIENCE"  # a factor that is taken as it is, here and in child processes


def patience(seconds: float) -> float:
    """The limit in seconds that stands for `seconds` of a quiet machine; never shorter."""
    return seconds * factor()


def patience_ms(seconds: float) -> int:
    """The same limit in whole milliseconds, as Qt takes it."""
    return round(1000 * patience(seconds))


def factor() -> float:
    """Between 1 and LONGEST. Load is read at each call: it may rise after the tests started."""
    slower = slowness()
    given = os.environ.get(VARIABLE)
    return float(given) if given else min(LONGEST, max(1.0, slower * crowding()))


def crowding() -> float:
    """Processes that want to run for each core this process may use, over the last minute."""
    return max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0)))


@functools.cache
def slowness() -> float:
    """How much longer than on the reference machine the work takes; measured once a process.

    The fastest of three runs in processor seconds: what other processes take is `crowding`.
    """
    return max(1.0, min(_timed() for _ in range(3)) / REFERENCE_S)


def _timed() -> float:
    began = time.thread_time()
    _work()
    return time.thread_time() - began


def _work() -> int:
    """What tests do most while a limit runs: small objects, dictionaries and text."""
    found: dict[str, int] = {}
    for number in range(150_000):
        key = f"{number % 997:x}"
        found[key] = found.get(key, 0) + number
    return len(found)
