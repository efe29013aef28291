"""The search: start as many settings as the time allows, halve them with increasingly long loads,
then let the best and the default take turns until it is clear whether they differ.

Every setting is measured on its own real server. The remaining ones stay loaded and are measured in
turn, so that other load on the machine affects all of them alike. Halving gives most of the time to
the settings that matter (Jamieson and Talwalkar, 2016).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from server.tuning.grid import DEFAULT, Setting
from server.tuning.objective import ROUNDS, Comparison, LoadResult, Trial, TuningObjective

# Shares of the whole time: the last start begins before the first one, halving ends at the second.
STARTS_UNTIL = 0.5
HALVING_UNTIL = 0.7
ROUNDS_UNTIL = 0.92
LAST_ROUND = 0.95  # no round begins later than this share
OPEN_SHARE = 0.8  # share of the rate that the closed loop reached
SHORTEST_S, LONGEST_S = 0.3, 4.0
LEVELS = 3  # approximate number of loads in one trial
MOST_LOADED = 6  # servers that stay loaded between their turns
FIRST_START_S = 120.0  # the default is measured even if the whole time is shorter


class RunningServer(Protocol):
    """A running server with one setting."""

    async def trial(self, seconds: float) -> Trial: ...

    async def open(self, per_second: float, seconds: float) -> LoadResult: ...

    async def stop(self) -> None: ...


@dataclass(slots=True)
class Candidate:
    setting: Setting
    server: RunningServer
    trial: Trial


@dataclass(slots=True)
class Found:
    """`table` has every measured setting with its median trial, best first. `chosen` is the setting
    to serve with: the default, unless another one was better in every round."""

    table: list[tuple[Setting, Trial]] = field(default_factory=list)
    best: Setting = DEFAULT
    chosen: Setting = DEFAULT
    comparison: Comparison = Comparison((), ())
    open_loop: LoadResult | None = None
    skipped: int = 0


@dataclass(eq=False)
class Search:
    """`start` returns a ready server, or None if it is not ready in the given time. `spent` returns
    the share of the whole time that has passed; `budget_s` is the whole time. `report` receives
    each step."""

    start: Callable[[Setting, float], Awaitable[RunningServer | None]]
    objective: TuningObjective
    budget_s: float
    spent: Callable[[], float]
    report: Callable[[str], None]

    def __post_init__(self) -> None:
        self._racing: list[Candidate] = []
        self._measured: dict[Setting, list[Trial]] = {}

    async def run(self, settings: Sequence[Setting]) -> Found:
        """`settings` begin with the default, which stays to the end."""
        try:
            started = await self._start_all(settings)
            await self._halve()
            found = await self._compare()
            found.skipped = len(settings) - started
            found.table = sorted(
                ((setting, self._median(trials)) for setting, trials in self._measured.items()),
                key=lambda one: -one[1].worth(self.objective),
            )
            return found
        finally:
            for one in self._racing:
                await one.server.stop()

    async def _start_all(self, settings: Sequence[Setting]) -> int:
        started = 0
        for setting in settings:
            if started and self.spent() >= STARTS_UNTIL:
                break
            self.report(f"starting {setting}")
            left_s = (ROUNDS_UNTIL - self.spent()) * self.budget_s
            server = await self.start(setting, left_s if started else max(left_s, FIRST_START_S))
            if server is None:
                break
            started += 1
            seconds = self._seconds((STARTS_UNTIL - self.spent()) / 4)
            self.report(f"measuring {setting}")
            one = Candidate(setting, server, Trial(()))
            self._racing.append(one)
            await self._measure(one, seconds)
            if len(self._racing) > MOST_LOADED:
                await self._drop(self._others()[-1])
        return started

    async def _halve(self) -> None:
        while len(others := self._others()) > 1:
            if self.spent() < HALVING_UNTIL:
                share = (HALVING_UNTIL - self.spent()) / 2 / len(self._racing)
                for one in list(self._racing):
                    self.report(f"measuring {one.setting} again, one of {len(self._racing)}")
                    await self._measure(one, self._seconds(share))
                others = self._others()
            for one in others[-(len(others) // 2) :]:
                await self._drop(one)

    async def _compare(self) -> Found:
        """The best and the default take turns, and alternate in going first."""
        if not self._racing:
            return Found()
        default = next(one for one in self._racing if one.setting == DEFAULT)
        best = next(iter(self._others()), default)
        ours: list[float] = []
        others: list[float] = []
        while best is not default and len(ours) < ROUNDS and self.spent() < LAST_ROUND:
            share = (ROUNDS_UNTIL - self.spent()) / (2 * (ROUNDS - len(ours)))
            pair = (best, default) if len(ours) % 2 == 0 else (default, best)
            self.report(f"round {len(ours) + 1}: {best.setting} and the default in turn")
            for one in pair:
                await self._measure(one, self._seconds(share))
            ours.append(max(0.0, best.trial.worth(self.objective)))
            others.append(max(0.0, default.trial.worth(self.objective)))
        comparison = Comparison(tuple(ours), tuple(others))
        chosen = best if comparison.better else default
        found = Found(best=best.setting, chosen=chosen.setting, comparison=comparison)
        reached = chosen.trial.best(self.objective)
        if reached is not None:
            self.report(f"open loop on {chosen.setting}")
            rate = OPEN_SHARE * reached.per_second
            found.open_loop = await chosen.server.open(rate, self._seconds(0.03 * LEVELS))
        return found

    async def _measure(self, one: Candidate, seconds: float) -> None:
        one.trial = await one.server.trial(seconds)
        self._measured.setdefault(one.setting, []).append(one.trial)

    def _median(self, trials: Sequence[Trial]) -> Trial:
        ordered = sorted(trials, key=lambda trial: trial.worth(self.objective))
        return ordered[len(ordered) // 2]

    async def _drop(self, one: Candidate) -> None:
        self._racing.remove(one)
        await one.server.stop()

    def _others(self) -> list[Candidate]:
        """The candidates other than the default, best first."""
        others = (one for one in self._racing if one.setting != DEFAULT)
        return sorted(others, key=lambda one: -one.trial.worth(self.objective))

    def _seconds(self, share: float) -> float:
        """The length of one load, when a trial gets this share of the whole time."""
        return min(LONGEST_S, max(SHORTEST_S, share * self.budget_s / LEVELS))
