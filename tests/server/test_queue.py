"""The queue's promises: bounded, ordered, without loss; batches never exceed the budget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from server.pool.in_flight import InFlight
from server.pool.queue import QueueEntry, RowQueue
from server.replica.batching import Budget, compose
from server.types import Outcome, Work


def work(
    entry_id: str = "a",
    priority: int = 1,
    deadline: float | None = None,
    size: int = 1,
    cost: int = 1,
) -> Work:
    return Work(
        id=entry_id,
        example=b"x" * size,
        task="classify",
        labels=(),
        want_embedding=False,
        max_new_tokens=0,
        priority=priority,
        deadline=deadline,
        session="",
        expected_stamps=frozenset(),
        estimated_tokens=cost,
        client="",
        slices={},
        keep_payload=False,
        mix="text",
    )


def ignore(_outcome: Outcome) -> None:
    pass


def entry(row: Work, queued_at: float = 0.0) -> QueueEntry:
    return QueueEntry(row, queued_at, ignore)


def ids(entries: list[QueueEntry]) -> list[str]:
    return [e.work.id for e in entries]


def queue(rows: int = 100, nbytes: int = 10_000, patience_s: float = 5.0) -> RowQueue:
    return RowQueue(rows, nbytes, patience_s)


def test_rows_without_deadlines_leave_first_in_first_out() -> None:
    q = queue()
    for n in range(5):
        q.add(entry(work(str(n)), queued_at=n * 0.1))
    assert ids(q.drain()) == ["0", "1", "2", "3", "4"]


def test_priority_comes_before_deadline_and_deadline_before_arrival() -> None:
    q = queue()
    q.add(entry(work("low", priority=2, deadline=0.1)))
    q.add(entry(work("patient")))
    q.add(entry(work("pressed", deadline=1.0)))
    q.add(entry(work("high", priority=0)))
    assert ids(q.drain()) == ["high", "pressed", "patient", "low"]


def test_a_row_without_deadline_is_not_overtaken_for_ever() -> None:
    q = queue(patience_s=5.0)
    q.add(entry(work("old"), queued_at=0.0))
    q.add(entry(work("new", deadline=6.0), queued_at=4.0))
    assert ids(q.drain()) == ["old", "new"]


def test_only_what_has_expired_is_taken_out() -> None:
    q = queue()
    q.add(entry(work("soon", deadline=1.0)))
    q.add(entry(work("later", deadline=2.0)))
    q.add(entry(work("never")))
    assert ids(q.expire(1.0)) == ["soon"]
    assert ids(q.expire(1.5)) == []
    assert ids(q.drain()) == ["later", "never"]


def test_a_removed_row_does_not_expire_any_more() -> None:
    q = queue()
    q.add(entry(work("gone", deadline=1.0)))
    assert q.remove("gone") is not None and q.remove("gone") is None
    assert q.expire(2.0) == [] and q.bytes == 0


def test_a_full_queue_refuses_its_equals_and_lets_the_urgent_displace_the_newest_least() -> None:
    q = queue(rows=2)
    for n, name in enumerate(["first", "second"]):
        q.add(entry(work(name, priority=2), queued_at=n))
    equal = entry(work("equal", priority=2))
    assert not q.has_room(equal.work) and q.add(equal) is equal
    urgent = entry(work("urgent", priority=0))
    assert q.has_room(urgent.work)
    displaced = q.add(urgent)
    assert displaced is not None and displaced.work.id == "second"
    assert ids(q.drain()) == ["urgent", "first"]


def test_bytes_are_bounded_but_an_empty_queue_takes_any_row() -> None:
    q = queue(nbytes=10)
    assert q.add(entry(work("large", size=100))) is None
    small = entry(work("small"))
    assert q.add(small) is small


def test_take_passes_over_what_is_skipped_and_stops_where_asked() -> None:
    q = queue()
    for name in "abc":
        q.add(entry(work(name)))
    taken = q.take(lambda e: "take" if e.work.id == "b" else "skip")
    assert taken is not None and taken.work.id == "b"
    assert q.take(lambda e: "stop" if e.work.id == "a" else "take") is None
    assert ids(q.drain()) == ["a", "c"]


row = st.builds(
    work,
    entry_id=st.uuids().map(str),
    priority=st.integers(0, 2),
    deadline=st.none() | st.floats(0, 10),
    size=st.integers(0, 40),
)
action = st.one_of(
    st.tuples(st.just("add"), row),
    st.tuples(st.just("take"), st.just(None)),
    st.tuples(st.just("remove"), st.integers(0, 20)),
    st.tuples(st.just("expire"), st.floats(0, 10)),
)


@given(st.lists(action, max_size=60))
def test_every_row_leaves_exactly_once_and_bounds_hold(actions: list[tuple[str, object]]) -> None:
    q = queue(rows=8, nbytes=200)
    added: list[str] = []
    left: list[str] = []
    for number, (kind, value) in enumerate(actions):
        if kind == "add":
            assert isinstance(value, Work)
            could = q.has_room(value)
            gone = q.add(entry(value, queued_at=number * 0.1))
            added.append(value.id)
            assert could == (gone is None or gone.work.id != value.id)
            left += [gone.work.id] if gone else []
        elif kind == "take":
            taken = q.take(lambda _: "take")
            left += [taken.work.id] if taken else []
        elif kind == "remove":
            assert isinstance(value, int)
            removed = q.remove(added[value]) if value < len(added) else None
            left += [removed.work.id] if removed else []
        else:
            assert isinstance(value, float)
            expired = q.expire(value)
            assert all(e.work.deadline is not None and e.work.deadline <= value for e in expired)
            left += ids(expired)
        assert len(q) <= 8 and q.bytes == sum(len(e.work.example) for e in q)
        assert q.bytes <= 200 or len(q) == 1
    rest = q.drain()
    assert [e.work.priority for e in rest] == sorted(e.work.priority for e in rest)
    assert sorted(left + ids(rest)) == sorted(added)
    assert q.bytes == 0 and len(q) == 0


@given(
    st.lists(st.integers(1, 100), min_size=1, max_size=20), st.integers(1, 500), st.integers(1, 9)
)
def test_a_batch_is_never_over_budget_and_never_empty(
    costs: list[int], budget: int, rows: int
) -> None:
    count = compose(costs, Budget(rows, budget))
    assert 1 <= count <= min(len(costs), rows)
    assert count == 1 or count * max(costs[:count]) <= budget
    if count < min(len(costs), rows):
        assert (count + 1) * max(costs[: count + 1]) > budget


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 30)), max_size=30))
def test_a_replica_never_holds_more_ahead_than_its_room(rows: list[tuple[int, int]]) -> None:
    held = InFlight(most_bytes=50)
    held.rows_room, held.tokens_room = 6, 500
    for number, (cost, size) in enumerate(rows):
        row = work(str(number), cost=cost, size=size)
        if not held.fits(row):
            oldest = next(iter(held.ahead))
            held.begin(oldest)
            if number % 2:
                assert held.release(oldest) is not None
            continue
        held.add(entry(row))
        ahead = [e.work for e in held.ahead.values()]
        assert len(ahead) <= 6
        assert sum(w.estimated_tokens for w in ahead) <= 500 or len(ahead) == 1
        assert sum(len(w.example) for w in ahead) <= 50 or len(ahead) == 1
    for e in held.entries:
        held.release(e.work.id)
    assert len(held) == 0 and held.load == 0
