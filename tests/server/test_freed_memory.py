"""Memory between blocks in use is returned to the system, and the check for it delays no call."""

from __future__ import annotations

from server import host
from server.ops.freed_memory import (
    EVERY_S,
    KEPT_BYTES,
    LONGEST_S,
    MUCH_BYTES,
    FreedMemory,
    trimmer,
)
from server.values import MIB


def finished(memory: FreedMemory) -> None:
    """A thread may be alive when it is listed no more, and while one is, no other is started."""
    if memory.trying is not None:
        memory.trying.join()


def test_what_a_flood_left_between_blocks_in_use_is_given_back() -> None:
    assert trimmer() is not None, "this test needs the GNU C library"
    memory = FreedMemory()
    memory.look()
    before = host.rss_bytes()
    blocks = [bytes(8192) for _ in range(8 * KEPT_BYTES // 8192)]
    kept = blocks[::64]
    del blocks
    assert host.rss_bytes() > before + 6 * KEPT_BYTES, "the C library kept it"
    memory.look()
    finished(memory)
    assert host.rss_bytes() < before + 2 * KEPT_BYTES
    assert kept and memory.tries == 1


class Machine:
    """A process of some size, whose allocator gives back what is spare."""

    def __init__(self) -> None:
        self.now, self.size, self.spare, self.trims = 0.0, 80 * MIB, 0, 0
        self.memory = FreedMemory(self.trim, lambda: self.size, lambda: self.now)
        self.memory.look()

    def trim(self, _pad: int) -> int:
        self.size -= self.spare
        self.spare, self.trims = 0, self.trims + 1
        return 1

    def looked(self, seconds: float) -> int:
        """Look once a second; returns how often the allocator was walked meanwhile."""
        before = self.trims
        for _ in range(int(seconds)):
            self.now += 1.0
            self.memory.look()
            finished(self.memory)
        return self.trims - before


def test_a_process_that_has_not_grown_is_never_walked() -> None:
    machine = Machine()
    machine.size += KEPT_BYTES
    assert machine.looked(600) == 0


def test_memory_in_use_is_walked_ever_more_rarely_and_freed_memory_soon() -> None:
    machine = Machine()
    machine.size += 10 * KEPT_BYTES
    assert machine.looked(EVERY_S) == 1
    assert machine.looked(10 * LONGEST_S) <= 14, "5, 10, 20, 40 and then 60 s apart"
    machine.size += KEPT_BYTES
    machine.spare = 11 * KEPT_BYTES
    assert machine.looked(EVERY_S) == 1, "another size is a reason to try again soon"
    assert machine.looked(600) == 0


def test_while_much_is_freed_it_is_freed_at_every_look() -> None:
    machine = Machine()
    for _ in range(10):
        machine.size += MUCH_BYTES + 2 * MIB
        machine.spare = MUCH_BYTES + 2 * MIB
        assert machine.looked(1) == 1
