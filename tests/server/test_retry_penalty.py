"""Connections that come back too early are held, with a clock set by the test."""

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


def penalty(time: Sleeper, **bounds: float) -> RetryPenalty:
    return RetryPenalty(clock=time, sleep=time.sleep, **bounds)  # type: ignore[arg-type]


async def test_a_hurried_call_waits_until_the_time_its_connection_was_given() -> None:
    time = Sleeper()
    retry_penalty = penalty(time)
    assert not await retry_penalty.hold("a", None)
    retry_penalty.refused("a", 0.5)
    time.now += 0.1
    assert await retry_penalty.hold("a", None)
    assert time.slept == [0.4]


async def test_a_caller_who_waits_as_asked_is_never_held() -> None:
    time = Sleeper()
    retry_penalty = penalty(time)
    for _ in range(3):
        retry_penalty.refused("a", 0.5)
        time.now += 0.5
        assert not await retry_penalty.hold("a", None)
    assert not retry_penalty.active


async def test_connections_do_not_slow_each_other() -> None:
    time = Sleeper()
    retry_penalty = penalty(time)
    retry_penalty.refused("a", 0.5)
    assert retry_penalty.early_s("a") == 0.5
    assert retry_penalty.early_s("b") == 0.0


async def test_a_connection_of_many_callers_has_a_refusal_for_each_of_them() -> None:
    """Its other callers were held for the refusal of the first."""
    time = Sleeper()
    retry_penalty = penalty(time)
    with retry_penalty.open_call("a"), retry_penalty.open_call("a"), retry_penalty.open_call("a"):
        for _ in range(2):
            retry_penalty.refused("a", 0.6)
            assert retry_penalty.early_s("a") == 0.0
        retry_penalty.refused("a", 0.6)
    assert round(retry_penalty.early_s("a"), 6) == 0.2  # a third of the time: one of three
    time.now += 0.6
    assert retry_penalty.early_s("a") == 0.0


async def test_one_hurried_caller_is_not_taken_for_many() -> None:
    time = Sleeper()
    retry_penalty = penalty(time)
    refusals = 0
    while time.now < 110.0:
        with retry_penalty.open_call("a"):
            await retry_penalty.hold("a", None)
            retry_penalty.refused("a", 0.5)
        refusals += 1
        time.now += 0.01
    assert refusals <= 10.0 / 0.5 + 2


async def test_a_hold_is_bounded_in_time_and_leaves_a_deadline_its_rest() -> None:
    time = Sleeper()
    retry_penalty = penalty(time, longest_s=1.0)
    retry_penalty.refused("a", 30.0)
    for remaining_s in (None, 0.5, 0.1):
        await retry_penalty.hold("a", remaining_s)
    assert time.slept == [1.0, 0.4, 0.05]


async def test_memory_of_connections_and_number_of_sleepers_are_bounded() -> None:
    time = Sleeper()
    retry_penalty = penalty(time, most_peers=2, most_held=0)
    for peer in "abcab":
        with retry_penalty.open_call(peer):
            retry_penalty.refused(peer, 0.5)
            assert not await retry_penalty.hold(peer, None)
    assert time.slept == [] and len(retry_penalty._peers) == 2
