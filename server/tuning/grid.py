"""The settings that `server tune` tries, the most likely ones first."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from server.commands.flags import flags

BATCH_ROWS_CPU = (4, 16, 32)
BATCH_ROWS_GPU = (8, 64, 128)


@dataclass(frozen=True, slots=True)
class Setting:
    """Fields of ServerConfig; 0 means automatic, as there."""

    warm_pool: int = 1
    threads: int = 0
    decode_threads: int = 0
    max_batch_rows: int = 0

    def by_flag(self) -> dict[str, int]:
        """The values by flag: --warm-pool and so on."""
        return {_flag_names()[one.name]: getattr(self, one.name) for one in fields(self)}

    def __str__(self) -> str:
        return " ".join(f"{flag} {value}" for flag, value in self.by_flag().items())


DEFAULT = Setting()


def _flag_names() -> dict[str, str]:
    return {field: name for name, field, _, _ in flags()}


def grid(cores: int, on_gpu: bool) -> list[Setting]:
    """The default first, then pools that divide the cores, then variations of those in one value.
    About a dozen settings for 2 cores, three dozen for 64."""
    rows = BATCH_ROWS_GPU if on_gpu else BATCH_ROWS_CPU
    pools = [1 << power for power in range(cores.bit_length()) if 1 << power <= cores]
    pools = [pool for pool in pools if not on_gpu or pool <= 4]
    found = [DEFAULT]
    found += [Setting(warm_pool=pool) for pool in reversed(pools)]
    for pool in reversed(pools):
        each = max(1, cores // pool)
        changes: list[dict[str, Any]] = [{"decode_threads": count} for count in {2, 2 * each}]
        changes += [{"max_batch_rows": count} for count in rows]
        changes += [{"threads": 1}] if each > 1 and not on_gpu else []
        found += [Setting(warm_pool=pool, **change) for change in changes]
    return list(dict.fromkeys(found))
