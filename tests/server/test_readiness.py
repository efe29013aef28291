"""A wrong replica is unready at once, a slow one only after a while, and traffic can prove one
fast; one sentence for the whole server."""

from __future__ import annotations

import math
from dataclasses import replace

from server.pool.readiness import Readiness, state_of
from server.types import Evidence, ReplicaStatus

RIGHT = Evidence("text", True, "right", 5.0, 6.0, 10.0, 3, 0.0, 0.1, 0.0, "probe")
SLOW = replace(RIGHT, ok=False, p50_ms=11.0, reason="slow")
WRONG = replace(RIGHT, ok=False, worst_difference=0.2, reason="differs")
REPLICA = ReplicaStatus(0, "ready", "", "cpu", "", 1, 0, 0, 0, 0, (), 1.0, 1.0)


def readiness() -> Readiness:
    return Readiness(interval_s=30.0, runs=3, slow_after=2, fast_again=0.8)


def test_right_and_fast_answers_make_it_ready() -> None:
    r = readiness()
    r.probed([RIGHT, replace(RIGHT, mix="image")], now=0.0)
    assert r.verdict()[0] == "ready"
    assert [e.mix for e in r.evidence] == ["image", "text"]


def test_one_wrong_answer_condemns_at_once_and_a_right_one_redeems() -> None:
    r = readiness()
    r.probed([RIGHT, replace(WRONG, mix="image")], now=0.0)
    assert r.verdict() == ("wrong", "image: differs")
    r.probed([replace(RIGHT, mix="image")], now=1.0)
    assert r.verdict()[0] == "ready"


def test_an_answer_that_is_not_a_number_is_wrong() -> None:
    r = readiness()
    r.probed([replace(RIGHT, worst_difference=math.nan)], now=0.0)
    assert r.verdict()[0] == "wrong"


def test_slow_counts_only_when_seen_twice_and_ends_well_below_the_limit() -> None:
    r = readiness()
    r.probed([SLOW], now=0.0)
    assert (r.verdict()[0], r.doubtful()) == ("ready", ("text",))
    r.probed([SLOW], now=1.0)
    assert (r.verdict()[0], r.doubtful()) == ("slow", ())
    r.probed([replace(RIGHT, p50_ms=9.0)], now=2.0)
    assert r.verdict()[0] == "slow"
    r.probed([replace(RIGHT, p50_ms=7.9)], now=3.0)
    assert r.verdict()[0] == "ready"


def test_a_fast_probe_in_between_starts_the_count_again() -> None:
    r = readiness()
    for evidence in (SLOW, RIGHT, SLOW):
        r.probed([evidence], now=0.0)
    assert r.verdict()[0] == "ready"


def test_what_is_old_and_unproven_is_due_the_oldest_first() -> None:
    r = readiness()
    r.probed([RIGHT], now=5.0)
    r.probed([replace(RIGHT, mix="image")], now=0.0)
    assert r.stale(29.0, 0.0) == ()
    assert r.stale(40.0, 0.0) == ("image", "text")


def test_traffic_proves_a_mix_and_is_kept_as_evidence() -> None:
    r = readiness()
    r.probed([RIGHT, replace(RIGHT, mix="image")], now=0.0)
    for n in range(3):
        r.answered("text", 4.0 + n, now=31.0)
    assert r.stale(32.0, 99.0) == ("image",)
    evidence = next(e for e in r.evidence if e.mix == "text")
    assert (evidence.source, evidence.p50_ms, evidence.runs, evidence.at) == (
        "traffic",
        5.0,
        3,
        99.0,
    )


def test_too_little_old_or_slow_traffic_proves_nothing_and_condemns_nothing() -> None:
    for rows in ([(31.0, 4.0)] * 2, [(1.0, 4.0)] * 3, [(31.0, 50.0)] * 3):
        r = readiness()
        r.probed([RIGHT], now=0.0)
        for at, ms in rows:
            r.answered("text", ms, at)
        assert r.stale(32.0, 0.0) == ("text",)
        assert r.verdict()[0] == "ready"


def test_traffic_does_not_prove_a_mix_that_a_probe_found_slow() -> None:
    r = readiness()
    r.probed([SLOW], now=0.0)
    r.probed([SLOW], now=0.0)
    for _ in range(3):
        r.answered("text", 1.0, now=31.0)
    assert r.stale(32.0, 0.0) == ("text",)


def test_the_server_is_as_its_replicas_are() -> None:
    def state(*replicas: ReplicaStatus, wanted: int = 2, full: bool = False) -> str:
        return state_of(replicas, wanted, full)[0]

    loading = replace(REPLICA, state="loading", reason="weights")
    slow = replace(REPLICA, state="slow", reason="text: slow")
    dead = replace(REPLICA, state="dead", reason="died", restarts=1)
    assert state(loading, loading) == "STARTING"
    assert state(REPLICA, loading) == "DEGRADED"
    assert state(REPLICA, REPLICA) == "READY"
    assert state(REPLICA, REPLICA, full=True) == "DEGRADED"
    assert state(REPLICA, slow) == "DEGRADED"
    assert state(slow, slow) == "NOT_READY"
    assert state(dead, loading) == "NOT_READY"
    assert state_of((REPLICA, dead), 2, False)[1] == "1 of 2 replicas ready: replica 0 dead: died"
