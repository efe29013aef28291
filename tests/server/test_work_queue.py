"""When the computing thread computes, helps to decode, or waits. Without threads: `writing` makes
`next` return "write" where it would wait."""

from __future__ import annotations

import threading

from proto import replica_pb2
from server.replica.model import Lane, Ready
from server.replica.work_queue import PATIENCE_S, Crew, WorkQueue, WorkRow
from tests.support.patience import patience


def row(name: str, lane: Lane = "direct") -> WorkRow:
    return WorkRow(replica_pb2.Work(id=name), b"", float("inf"), lane)


def decode(r: WorkRow) -> WorkRow:
    r.ready = Ready(r.work.id, 1, 0.0, 0.0, ("text",))
    return r


def work_queue(shared: bool, *names: str, decoders: int = 1, rows: int = 8) -> WorkQueue:
    made = WorkQueue(Crew(decoders, shared), rows)
    made.put([row(name) for name in names])
    return made


def ids(rows: list[WorkRow]) -> list[str]:
    return [r.work.id for r in rows]


def test_on_cores_of_its_own_it_computes_whatever_is_decoded() -> None:
    d = work_queue(False, "a", "b")
    assert d.next(writing=True) == ("write", None)
    d.decoded(decode(d.take_undecoded()))
    assert d.next(writing=False) == ("compute", None)
    assert ids(d.take_ready()) == ["a"]


def test_on_shared_cores_it_decodes_rather_than_wait() -> None:
    d = work_queue(True, "a", "b")
    what, which = d.next(writing=False)
    assert (what, which.work.id) == ("decode", "a")
    d.keep(decode(which))
    assert d.next(writing=False)[0] == "decode"  # b: company for a


def test_on_shared_cores_it_stands_back_while_every_decoder_is_busy() -> None:
    d = work_queue(True, "a", "b")
    at_decoder = d.take_undecoded()
    d.keep(decode(d.next(writing=False)[1]))
    assert d.next(writing=True) == ("write", None)
    d.decoded(decode(at_decoder))
    assert d.next(writing=False) == ("compute", None)
    assert sorted(ids(d.take_ready())) == ["a", "b"]


def test_the_computing_thread_leaves_to_decoders_what_is_not_direct() -> None:
    d = WorkQueue(Crew(2, True), 8)
    d.put([row("a", "light"), row("b", "heavy"), row("c")])
    what, which = d.next(writing=True)
    assert (what, which.work.id) == ("decode", "c")
    assert d.next(writing=True) == ("write", None)


def test_heavy_rows_never_take_the_last_decoder() -> None:
    d = WorkQueue(Crew(2, False), 8)
    d.put([row("a", "heavy"), row("b", "heavy"), row("c", "light"), row("d", "light")])
    first, second = d.take_undecoded(), d.take_undecoded()
    assert ids([first, second]) == ["a", "c"]
    d.decoded(decode(second))
    assert d.take_undecoded().work.id == "d"
    d.decoded(decode(first))
    assert d.take_undecoded().work.id == "b"


def test_a_heavy_row_is_decoded_where_there_is_one_decoder() -> None:
    d = WorkQueue(Crew(1, False), 8)
    d.put([row("a", "heavy")])
    assert d.take_undecoded().work.id == "a"


def test_a_waiting_decoder_takes_a_heavy_row_when_the_one_before_is_done() -> None:
    d = WorkQueue(Crew(2, False), 8)
    d.put([row("a", "heavy"), row("b", "heavy")])
    first, taken = d.take_undecoded(), []
    decoder = threading.Thread(target=lambda: taken.append(d.take_undecoded().work.id))
    decoder.start()
    d.decoded(decode(first))
    decoder.join(patience(20))
    assert taken == ["b"]


def test_on_shared_cores_a_decoded_row_does_not_wait_for_heavy_ones() -> None:
    d = WorkQueue(Crew(2, True), 8)
    d.put([row("a", "heavy"), row("b", "heavy"), row("c", "light")])
    d.take_undecoded()
    d.decoded(decode(d.take_undecoded()))
    assert d.next(writing=False) == ("compute", None)
    assert ids(d.take_ready()) == ["c"]


def test_on_shared_cores_it_stands_back_for_a_bounded_time() -> None:
    now = [0.0]
    d = WorkQueue(Crew(1, True), 8, lambda: now[0])
    d.put([row("a", "light"), row("b")])
    d.take_undecoded()
    d.keep(decode(d.next(writing=False)[1]))
    assert d.next(writing=True) == ("write", None)
    now[0] = PATIENCE_S
    assert d.next(writing=True) == ("compute", None)


def test_it_computes_by_itself_once_its_patience_has_ended() -> None:
    d = WorkQueue(Crew(1, True), 8)
    d.put([row("a", "light"), row("b")])
    d.take_undecoded()
    d.keep(decode(d.next(writing=False)[1]))
    found: list[str] = []
    computer = threading.Thread(target=lambda: found.append(d.next(writing=False)[0]))
    computer.start()
    computer.join(patience(20))
    assert found == ["compute"]


def test_it_does_not_stand_back_while_a_decoder_is_idle() -> None:
    d = work_queue(True, "a", "b", decoders=2)
    d.take_undecoded()
    d.keep(decode(d.next(writing=False)[1]))
    assert d.next(writing=False) == ("compute", None)


def test_it_does_not_stand_back_for_more_than_a_batch() -> None:
    d = work_queue(True, "a", "b", "c", rows=2)
    for _ in range(2):
        d.keep(decode(d.next(writing=False)[1]))
    assert d.next(writing=False) == ("compute", None)


def test_rows_that_were_too_many_stay_first() -> None:
    d = work_queue(False, "a", "b", "c")
    for _ in range(3):
        d.decoded(decode(d.take_undecoded()))
    taken = d.take_ready()
    d.put([row("d")])
    d.decoded(decode(d.take_undecoded()))
    d.put_back(taken[1:])
    assert ids(d.take_ready()) == ["b", "c", "d"]


def test_a_row_that_could_not_be_decoded_is_not_computed() -> None:
    d = work_queue(False, "a")
    d.decoded(d.take_undecoded())
    assert d.next(writing=True) == ("write", None)


def test_a_probe_comes_before_everything() -> None:
    d = work_queue(True, "a")
    d.put_probe(replica_pb2.Probe(id=7))
    what, which = d.next(writing=False)
    assert (what, which.id) == ("probe", 7)


def test_whoever_waits_is_woken() -> None:
    d = WorkQueue(Crew(1, True), 8)
    found: list[str] = []
    computer = threading.Thread(target=lambda: found.append(d.next(writing=False)[0]))
    decoder = threading.Thread(target=lambda: found.append(d.take_undecoded().work.id))
    computer.start()
    decoder.start()
    for name in "ab":
        d.put([row(name)])
    computer.join(20)
    decoder.join(20)
    assert "decode" in found and len(found) == 2
