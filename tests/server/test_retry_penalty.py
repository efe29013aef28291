"""Callers who come back too early are held, on a clock of the test's own."""

from __future__ import annotations

from server.api.retry_penalty import RetryPenalty


class Sleeper:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(round(seconds, 6))
        self.now += seconds


async def test_first_refusal_is_immediate_and_a_hurried_one_waits_until_the_told_time() -> None:
    time = Sleeper()
    retry_penalty = RetryPenalty(clock=time, sleep=time.sleep)
    await retry_penalty.refuse("a", 0.5, None)
    time.now += 0.1
    await retry_penalty.refuse("a", 0.5, None)
    assert time.slept == [0.4]


async def test_a_caller_who_waits_as_told_is_never_held() -> None:
    time = Sleeper()
    retry_penalty = RetryPenalty(clock=time, sleep=time.sleep)
    for _ in range(3):
        await retry_penalty.refuse("a", 0.5, None)
        time.now += 0.5
    assert time.slept == []


async def test_peers_do_not_slow_each_other() -> None:
    time = Sleeper()
    retry_penalty = RetryPenalty(clock=time, sleep=time.sleep)
    await retry_penalty.refuse("a", 0.5, None)
    await retry_penalty.refuse("b", 0.5, None)
    assert time.slept == []


async def test_a_hold_is_bounded_in_time_and_leaves_the_caller_half_of_its_deadline() -> None:
    time = Sleeper()
    retry_penalty = RetryPenalty(longest_s=1.0, clock=time, sleep=time.sleep)
    await retry_penalty.refuse("a", 30.0, None)
    await retry_penalty.refuse("a", 30.0, None)
    await retry_penalty.refuse("a", 30.0, 0.5)
    assert time.slept == [1.0, 0.25]


async def test_memory_of_peers_and_number_of_sleepers_are_bounded() -> None:
    time = Sleeper()
    retry_penalty = RetryPenalty(peers=2, held=0, clock=time, sleep=time.sleep)
    for peer in "abcab":
        await retry_penalty.refuse(peer, 0.5, None)
    assert time.slept == []
