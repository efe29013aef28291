"""Promote, hold or refuse: the verdict on a rehearsal's comparison, with its reason. Pure.

Where each bound comes from:

- an answer that two bundles give differently is wrong in at least one of them, so the share that
  changed is at most the sum of their errors: what changed beyond twice the active bundle's own
  error proves that the candidate errs more. That needs no feedback. MOST_CHANGED caps it where the
  active bundle's error is unknown or large: more than half is another model;
- CHANGED: one answer in twenty may change without anybody looking (two trainings of one recipe
  differ by a few in a hundred: Milani Fard et al., Launch and Iterate, 2016). It also sets how many
  payloads are needed: 73 without any change show that fewer than 5 in 100 change;
- WORSE: feedback must show that the candidate is at most two answers in a hundred worse, the usual
  form of a non-inferiority margin (ICH E9); with an objective, worse by what two such answers cost.
  With an objective its value decides, and the accuracy only where the value leaves it open: what
  single answers are worth may differ so much that their mean proves nothing yet;
- LABELLED (server/rehearsal/comparison.py): fewer rows of feedback than that show nothing;
- LOST: what the active bundle answered and the candidate did not. Any is held, more than one in a
  hundred for sure is refused;
- SLOWER (server/routing/candidate_checks.py) is the same bound by which a load is refused. A load
  compares only what is over its own limit: a bundle within it may still take twice as long as the
  active one, so what could not be timed is held;
- SHIFTED: a caller that acts on a confidence above some bound acts differently when all of them
  move by a tenth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from server.rehearsal.comparison import LABELLED, BundleComparison
from server.rehearsal.intervals import Interval, rows_needed, z_of
from server.routing.candidate_checks import SLOWER

Word = Literal["promote", "hold", "refuse"]

CHANGED = 0.05
MOST_CHANGED = 0.5
WORSE = 0.02
LOST = 0.01
SHIFTED = 0.1
PAIRS_TIMED = 20  # fewest pairs whose median is compared with a bound


@dataclass(frozen=True, slots=True)
class Latency:
    """Own work of single payloads, with both bundles measured at nearly the same moment. `ratio` is
    the median of candidate / active."""

    pairs: int
    before_ms: float = math.nan
    now_ms: float = math.nan
    ratio: Interval = Interval()


@dataclass(frozen=True, slots=True)
class RehearsalVerdict:
    word: Word
    reason: str


def judge(
    whole: BundleComparison,
    slices: Sequence[BundleComparison],
    latency: Latency,
    labels: str,
    unit: str,
    more: str,
) -> RehearsalVerdict:
    """`labels`: how the candidate's labels differ, or ""; `more`: how to get more payloads."""
    refusal = _refusal(whole, latency, unit)
    if refusal:
        return RehearsalVerdict("refuse", refusal)
    doubt = _doubt(whole, slices, labels, unit, more) or _untimed(latency)
    if doubt:
        return RehearsalVerdict("hold", doubt)
    return RehearsalVerdict("promote", _praise(whole, latency, unit))


def _refusal(whole: BundleComparison, latency: Latency, unit: str) -> str:
    lost, changed = whole.lost, whole.changed
    if lost.low > LOST:
        return (
            f"{whole.lost_rows} payloads that the active bundle answered were refused or failed, "
            f"{percent(lost)} of the traffic"
        )
    if latency.pairs >= PAIRS_TIMED and latency.ratio.low > SLOWER:
        return (
            f"it takes {latency.ratio.value:.2f} times as long for a payload as the active bundle "
            f"({latency.now_ms:.1f} ms, {latency.before_ms:.1f} ms, measured together); "
            f"the limit is {SLOWER}"
        )
    evidence = _evidence(whole)
    if evidence == "worse":
        return f"by feedback it is worse: {_summary(whole, unit)}"
    bound = min(MOST_CHANGED, max(CHANGED, 2 * whole.active_error.high))
    if evidence == "" and changed.low > bound:
        text = f"{percent(changed)} of the answers change"
        if bound == MOST_CHANGED:
            return f"{text}: that is another model, and no feedback shows that it is better"
        wrong = whole.active_error.high
        return (
            f"{text}, and the active bundle is wrong in about {100 * wrong:.0f} % only: the "
            f"candidate must be wrong in at least {100 * (changed.low - wrong):.0f} %"
        )
    return ""


def _doubt(
    whole: BundleComparison, slices: Sequence[BundleComparison], labels: str, unit: str, more: str
) -> str:
    if math.isnan(whole.changed.value):
        return f"there was no payload that both bundles answered; {more}"
    if labels:
        return f"{labels}: activate it if that is intended"
    if whole.lost_rows:
        return (
            f"{whole.lost_rows} of {whole.payloads} payloads that the active bundle answered were "
            "refused or failed: look at them first"
        )
    evidence = _evidence(whole)
    if evidence != "good" and whole.changed.high > CHANGED:
        return _too_little(whole, evidence, unit, more)
    shift = whole.confidence.difference
    if min(abs(shift.low), abs(shift.high)) > SHIFTED and shift.low * shift.high > 0:
        return f"confidence moves by {shift.value:+.2f}: bounds set on it would act differently"
    guessed = whole.estimated_value_per_1000.difference
    if evidence != "good" and guessed.high < -WORSE * 1000 * max(0.0, whole.stake):
        return (
            f"its own confidence puts its value at {guessed.value:+,.0f} {unit} per 1,000 answers; "
            "feedback would show whether that is right"
        )
    for part in slices:
        if _evidence(part) == "worse":
            return f"in {part.slice} it is worse by feedback: {_summary(part, unit)}"
        if evidence != "good" and _evidence(part) != "good" and part.changed.low > CHANGED:
            return f"in {part.slice} {percent(part.changed)} of the answers change"
    return ""


def _untimed(latency: Latency) -> str:
    if latency.pairs >= PAIRS_TIMED:
        return ""
    return (
        f"nothing speaks against its answers, but its speed could be compared for {latency.pairs} "
        f"payloads only, and {PAIRS_TIMED} are needed: rehearse it in a quieter moment, or let a "
        "canary compare what callers wait for"
    )


def _too_little(whole: BundleComparison, evidence: str, unit: str, more: str) -> str:
    text = f"{percent(whole.changed)} of the answers change"
    if evidence:
        return (
            f"{text} and feedback does not settle whether for the better: {_summary(whole, unit)}"
        )
    needed = rows_needed(whole.changed.value, CHANGED, z_of())
    if not needed:
        return (
            f"{text}, and it is unknown whether they are better: feedback for {LABELLED} or more "
            "of the kept payloads would show it"
        )
    # Rows drawn with unequal probabilities carry less information, so more of them are needed.
    needed = math.ceil(needed * whole.payloads / max(whole.effective, 1e-9))
    return (
        f"{whole.payloads} payloads are too few, {text}; about {needed} are needed to show "
        f"that it is below {100 * CHANGED:.0f} %: {more}"
    )


def _praise(whole: BundleComparison, latency: Latency, unit: str) -> str:
    text = f"{percent(whole.changed)} of the answers change over {whole.payloads} payloads"
    if _evidence(whole) == "good":
        text += f"; by feedback it is not worse: {_summary(whole, unit)}"
    return f"{text}; it takes {latency.ratio.value:.2f} times as long"


def _evidence(part: BundleComparison) -> Literal["", "unclear", "good", "worse"]:
    """The conclusion from feedback; "" if there is not enough of it."""
    if part.labelled_effective < LABELLED:
        return ""
    difference = (part.value_per_1000 if _by_value(part) else part.accuracy).difference
    if difference.high < 0:
        return "worse"
    if difference.low >= -_margin(part):
        return "good"
    if difference.value <= 0 and part.accuracy.difference.high < -WORSE:
        return "worse"
    return "unclear"


def _by_value(part: BundleComparison) -> bool:
    return math.isfinite(part.value_per_1000.difference.value)


def _margin(part: BundleComparison) -> float:
    return WORSE * 1000 * max(0.0, part.stake) if _by_value(part) else WORSE


def _summary(part: BundleComparison, unit: str) -> str:
    right = part.accuracy
    text = (
        f"accuracy {right.before:.3f} to {right.now:.3f} over {part.labelled} of known truth "
        f"(difference {right.difference.low:+.3f} to {right.difference.high:+.3f})"
    )
    if not _by_value(part):
        return text
    value, difference = part.value_per_1000, part.value_per_1000.difference
    return (
        f"value {value.before:,.0f} to {value.now:,.0f} {unit} per 1,000 answers (difference "
        f"{difference.low:+,.0f} to {difference.high:+,.0f}), {text}"
    )


def percent(found: Interval) -> str:
    if math.isnan(found.value):
        return "none"
    return f"{100 * found.value:.1f} % ({100 * found.low:.1f} to {100 * found.high:.1f})"


def slice_line(part: BundleComparison, whole: BundleComparison, unit: str) -> str:
    """A sentence that compares a slice with the whole."""
    facts = [f"{part.slice}: {percent(part.changed)} of {part.payloads} answers change"]
    facts[0] += f", {100 * whole.changed.value:.1f} % of all"
    if part.lost_rows:
        facts.append(f"{part.lost_rows} not answered any more")
    shift = part.confidence.difference.value
    if abs(shift) >= 0.005:
        facts.append(f"confidence {shift:+.2f}")
    if part.labelled:
        facts.append(_summary(part, unit) if part.labelled > 1 else "")
    return "; ".join(one for one in facts if one)
