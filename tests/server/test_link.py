"""The link to a replica: frames arrive complete and in order, and payloads are not copied for
it."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc

from proto import replica_pb2
from server.replica import link
from server.replica.link import FrontLink, ReplicaLink

PAYLOAD = bytes(range(256)) * (3_500_000 // 256)


def batch(number: int, *sizes: int) -> replica_pb2.ToReplica:
    message = replica_pb2.ToReplica()
    for index, size in enumerate(sizes):
        message.work.items.add(id=f"{number}-{index}", example_bytes=size)
    return message


async def test_large_payloads_arrive_whole_and_in_order_and_are_not_copied() -> None:
    ours, theirs = link.socket_pair()
    front, replica = await FrontLink.over(ours), ReplicaLink(theirs)
    tracemalloc.start()
    try:
        for number in range(20):
            front.send(batch(number, len(PAYLOAD), 0, 3), [PAYLOAD, b"", b"end"])
        front.send(link.cancel(("a",)))
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < len(PAYLOAD) // 10  # of 70 MB that nobody has read yet
    found: list[tuple[replica_pb2.ToReplica, list[bytes]]] = []
    read = threading.Thread(target=lambda: found.extend(replica.receive() for _ in range(21)))
    read.start()
    while read.is_alive():  # noqa: ASYNC110 - a thread, which no event of the loop reports
        await asyncio.sleep(0.01)
    for number, (message, payloads) in enumerate(found[:20]):
        assert message.work.items[0].id == f"{number}-0"
        assert payloads == [PAYLOAD, b"", b"end"]
    assert list(found[20][0].cancel.ids) == ["a"]
    front.close()


async def test_what_a_dead_replica_cannot_get_is_dropped() -> None:
    ours, theirs = link.socket_pair()
    front = await FrontLink.over(ours)
    front.send(batch(0, len(PAYLOAD)), [PAYLOAD])
    front.send(batch(1, len(PAYLOAD)), [PAYLOAD])
    theirs.close()
    assert await front.receive() is None
    front.send(link.stop())
    front.close()
    front.close()
