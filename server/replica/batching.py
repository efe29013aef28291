"""The budget of one forward: its defaults, and which decoded rows form the next batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

# The front counts estimated tokens, which may be several times the exact number. In the room for
# the front, tokens only limit what is far beyond an ordinary batch.
ESTIMATES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Budget:
    """The limits of one forward: rows, and padded tokens."""

    rows: int
    tokens: int

    @property
    def room(self) -> tuple[int, int]:
        """Rows and estimated tokens that the front may send ahead of the forward: one batch."""
        return self.rows, ESTIMATES_PER_TOKEN * self.tokens


# Used unless flags set the budget: a CPU gains little beyond a few rows, a GPU needs many. Tokens
# limit the padded size of a forward, and so its memory.
CPU_BUDGET = Budget(rows=8, tokens=8192)
CUDA_BUDGET = Budget(rows=32, tokens=32768)
# Doubling the rows of a forward must raise throughput by this factor: below it, rows only wait.
WORTH_GAIN = 1.05


def budget_for(device: str, rows: int, tokens: int) -> tuple[Budget, str]:
    """(budget, reason); 0 rows or tokens select the default of the device."""
    auto = CPU_BUDGET if device == "cpu" else CUDA_BUDGET
    budget = Budget(rows or auto.rows, tokens or auto.tokens)
    how = "as configured" if rows or tokens else f"usual on {device}"
    return budget, f"{budget.rows} rows or {budget.tokens} padded tokens a forward: {how}"


def swept(
    measure: Callable[[int], float | None], row_tokens: int, usual: Budget, most_rows: int = 512
) -> tuple[Budget, str]:
    """(budget, reason) from a sweep: rows double until their throughput gains less than WORTH_GAIN,
    or memory is exhausted.

    `measure(rows)` returns the seconds of a forward of `rows` rows of `row_tokens` tokens each,
    None where memory is exhausted. A batch of shorter rows may have more rows, up to the measured
    or the default number of tokens, whichever is larger. Raises MemoryError when not even one row
    fits.
    """
    rows, best, ended = 0, 0.0, ""
    while (tried := 2 * rows or 1) <= most_rows:
        took = measure(tried)
        if took is None:
            ended = f"memory ends before {tried} rows"
            break
        if rows and tried / took < WORTH_GAIN * best:
            ended = f"{tried} rows gain less than {WORTH_GAIN - 1:.0%}"
            break
        rows, best = tried, max(best, tried / took)
    if not rows:
        raise MemoryError(f"no memory for a forward of one row of {row_tokens} tokens")
    short = ended.startswith("memory")
    tokens = rows * row_tokens if short else max(rows * row_tokens, usual.tokens)
    why = f"measured: {best:.0f} rows/s at {rows} rows of {row_tokens} tokens"
    budget = Budget(rows if short else max(rows, usual.rows), tokens)
    return budget, (
        f"{budget.rows} rows or {budget.tokens} padded tokens a forward: "
        f"{why}; {ended or f'{most_rows} rows are the most'}"
    )


def fitting(
    measure: Callable[[int], float | None], row_tokens: int, budget: Budget, why: str
) -> tuple[Budget, str]:
    """(budget, reason): runs the largest batch that the budget allows, so that its memory is known
    to be available; if it is not, the budget is halved. `measure` as in `swept`.

    Raises MemoryError when not even one row fits.
    """
    rows = max(1, min(budget.rows, budget.tokens // row_tokens))
    if measure(rows) is not None:
        return budget, why
    tried = rows
    while rows > 1:
        rows //= 2
        if measure(rows) is not None:
            smaller = Budget(rows, rows * row_tokens)
            return smaller, (
                f"{rows} rows or {smaller.tokens} padded tokens a forward: memory ends at {tried} "
                f"rows of {row_tokens} tokens ({why})"
            )
    raise MemoryError(f"no memory for a forward of one row of {row_tokens} tokens")


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
