"""The budget of one forward: its defaults, and which decoded rows make the next batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The front counts estimated tokens, which may be several times the exact ones: in the room it is
# given, tokens bound only what is far beyond an ordinary batch.
ESTIMATES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """Of one forward: rows, and padded tokens."""

    rows: int
    tokens: int

    @property
    def room(self) -> tuple[int, int]:
        """Rows and estimated tokens that the front may send ahead of the forward: one batch."""
        return self.rows, ESTIMATES_PER_TOKEN * self.tokens


# Used unless flags set the budget: a CPU gains little beyond a few rows, a GPU is filled only by
# many. Tokens bound the padded size of a forward, and with it its memory.
CPU_BUDGET = Budget(rows=8, tokens=8192)
CUDA_BUDGET = Budget(rows=32, tokens=32768)


def budget_for(device: str, rows: int, tokens: int) -> tuple[Budget, str]:
    """(budget, reason); 0 rows or tokens: the default of the device."""
    auto = CPU_BUDGET if device == "cpu" else CUDA_BUDGET
    budget = Budget(rows or auto.rows, tokens or auto.tokens)
    how = "as configured" if rows or tokens else f"usual on {device}"
    return budget, f"{budget.rows} rows or {budget.tokens} padded tokens a forward: {how}"


def compose(tokens: Sequence[int], budget: Budget) -> int:
    """How many of the leading rows make the next batch; their order is not changed.

    A batch is padded to its longest row, so it computes rows x longest tokens. A single row is
    always a batch, whatever its length: it was within the limits when it was admitted.
    """
    longest = 0
    for count, length in enumerate(tokens[: budget.rows], start=1):
        longest = max(longest, length)
        if count > 1 and count * longest > budget.tokens:
            return count - 1
    return min(len(tokens), budget.rows)
