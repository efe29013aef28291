"""One stream goes on in each turn of the event loop, in order."""

from __future__ import annotations

import asyncio

from server.ops.loop_turns import PAUSE_S, TURNS, LoopTurns


async def test_one_goes_on_in_each_turn_of_the_loop_in_order() -> None:
    turns, now = LoopTurns(), 0
    went: list[tuple[str, int]] = []

    async def stream(name: str) -> None:
        for _ in range(2):
            await turns.next()
            went.append((name, now))

    streams = [asyncio.create_task(stream(name)) for name in "abc"]
    while not all(one.done() for one in streams):
        now += 1
        await asyncio.sleep(0)
    assert "".join(name for name, _ in went) == "aabcbc", "as they asked"
    assert len({turn for _, turn in went}) == len(went), "no two in one turn"


async def test_all_together_pause_so_that_calls_are_handed_over() -> None:
    turns, loop = LoopTurns(), asyncio.get_running_loop()

    async def stream() -> None:
        for _ in range(TURNS):
            await turns.next()

    began = loop.time()
    await asyncio.gather(*(stream() for _ in range(5)))
    assert loop.time() - began >= 4 * PAUSE_S


async def test_a_stream_that_was_closed_is_passed_over_and_a_single_one_never_waits() -> None:
    turns = LoopTurns()
    _, closed, last = (asyncio.create_task(turns.next()) for _ in range(3))
    await asyncio.sleep(0)
    closed.cancel()
    await asyncio.wait_for(last, 5)
    assert closed.cancelled()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    alone = turns.next()
    try:
        alone.send(None)
    except StopIteration:
        return
    raise AssertionError("it waited although nobody else did")
