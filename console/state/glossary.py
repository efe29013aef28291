"""The tool tips: one plain sentence for every column head, legend piece and panel. Pure."""

from __future__ import annotations

from collections.abc import Mapping

PANELS: Mapping[str, str] = {
    "fleet": "Every server: its state, how many replicas are ready, how fast it answers.",
    "server": "One server: the evidence of its replicas, how they ended, what it chose by itself.",
    "latency": "How long requests took, from when they came in until they were answered.",
    "drift": "How far traffic is from the reference of the bundle, by feature and slice.",
    "reference": "How often each value of one feature occurs: in the reference, and now.",
    "skew": "What each server runs, part by part, against what most servers run.",
    "events": "What happened, newest first: alerts, deploys, lost connections, what people did.",
    "predictions": "Single answers that the filter line chooses.",
    "detail": "One answer: how it was made, and its inputs where they were kept.",
    "quality": "How often answers are right and what they are worth, where true labels came back.",
    "alerts": "What servers have found wrong, open ones first, with who knows about it.",
    "changes": "What explains the rise of late, failed and wrong rows between two windows.",
    "compare": "Two servers, stamps or windows side by side, what differs most first.",
}
HEADS: Mapping[str, str] = {
    "": "The figure of the bar beside it.",
    "UTC": "When it happened, in universal time.",
    "what": "What happened, to which server, and by whom.",
    "server": "The server it is about.",
    "label": "The answer; where the true label differs, that too.",
    "conf": "How probable the label is, calibrated: with 0.9, nine in ten are right.",
    "tokens": "How long the prompt of the request was for the model, in tokens.",
    "total": "From when the request came in until it was answered.",
    "mix": "Which kinds of input it had: text, image, sound.",
    "stamp": "The first digits of the version that answered: its weights, code, preprocessing, ...",
    "slices": "The tags that the caller sent with it, such as site=b.",
    "feature": "A property of inputs or answers that is measured for every request.",
    "slice": "A part of the traffic; all: everything.",
    "PSI": "Population stability index: 0 is no difference, above 0.25 is a large one.",
    "KS": "Largest gap between the two cumulative distributions, 0 to 1.",
    "KL": "Kullback-Leibler divergence: how surprising traffic is; 0 is not at all.",
    "JS": "Jensen-Shannon distance: like KL, but the same both ways, 0 to 1.",
    "severity": "How urgent it is: critical, high or warning.",
    "opened": "When the server first suspected it.",
    "duration": "How long it has been open, or was.",
    "kind": "What sort of problem: each has a runbook (Shift+F1).",
    "summary": "What is wrong, as the server describes it.",
    "state": "Pending: seen once or twice. Firing: confirmed. Resolved: over.",
    "matcher": "Which alerts the silence keeps quiet.",
    "until UTC": "When the silence ends by itself.",
    "created by": "Who made the silence.",
    "reason": "Why, as that person wrote it.",
    "realised": "Share of right answers among those with a true label.",
    "estimated": "The same for all answers, estimated from their calibrated probabilities.",
    "value/1000": "What 1,000 decisions were worth, by the objective of the bundle.",
    "labelled": "How many answers have a true label by now.",
    "delay": "Half of the true labels came later than this.",
    "ECE": "Expected calibration error: how far probabilities are from what came true, on average.",
    "worst slice": "Where answers are wrong most often, more than chance explains.",
    "error": "Share of wrong answers in this slice.",
    "elsewhere": "Share of wrong answers in all other traffic.",
    "rows": "How many answers there are in it.",
    "share": "Which part of the traffic it is.",
    "filter": "The filter line that finds these answers.",
    "explains": "Its part of the rise in bad rows minus its share of the rows before.",
    "which": "What the row is about; Enter opens it.",
    "share of rows": "Its share of all rows, before and after; of a stage, of the time.",
    "measure": "Which rows count as bad: late or failed, or wrong; of a stage its time.",
    "before → after": "The share of its rows that are bad; of a stage its mean time.",
    "n": "How many rows of it there are, before and after.",
    "figure": "What is compared.",
    "difference": "How the second side differs: a ratio, or points of a share.",
    "here": "The first side.",
    "there": "The second side.",
}
# Terms within a legend piece; the first one that occurs explains it.
TERMS: tuple[tuple[str, str], ...] = (
    ("offline", "No server is contacted: everything here is from the cache, and dated."),
    ("p50", "Half of the requests were answered faster than this."),
    ("p95", "95 of 100 requests were answered faster than this."),
    ("p99", "99 of 100 requests were answered faster than this."),
    ("req/s", "Requests answered each second, on average over the time shown."),
    ("not confirmed", "Seen in one evaluation; a server alerts when three of four agree."),
    ("learning", "Too few requests so far to compare them with the reference."),
    ("evaluated", "When a server last compared its traffic with the reference."),
    ("differs from", "≠ marks what differs from most servers, or from --expect."),
    ("differ", "Servers that run something else than most servers."),
    ("acknowledged or silenced", "Open alerts that people know of; they do not change the state."),
    ("not sent yet", "Waits in this console until its server answers."),
    ("open", "Alerts that are confirmed and that nobody has acknowledged or silenced."),
    ("PSI", HEADS["PSI"]),
    ("bundle n", "The reference: the values the bundle was made with, and how many."),
    ("last ", "The length of the time shown; it follows the clock."),
    ("brushed", "Only this part of the time counts, in all panels (Esc: all of it)."),
    ("last quarter", "Without a brush the last quarter is compared with the time before it."),
    ("paused", "The time shown stands still (Esc: follow the clock)."),
)


# Terms of the panels Server and Prediction and of the plots. The first that the text begins with or
# contains explains it.
FACTS: tuple[tuple[str, str], ...] = (
    ("last reported", "What it last reported; it may have changed since."),
    ("no sign of life", "The replica sent no heartbeat for so long that it was ended."),
    ("died at", "How its last process ended; another one took its place."),
    ("last progress", "It has rows and has not finished one for this long."),
    ("in flight", "Rows that it was given and has not answered yet."),
    ("restarts", "How often its process was started again."),
    ("private", "Memory that no other process uses, and its part of what several use."),
    (
        "max diff",
        "How far a probe's answers were from the bundle's, and how far they may be.",
    ),
    ("limit", "Half of the runs of this probe took longer; above the limit it counts as slow."),
    ("runs", "The slowest of the runs of this probe."),
    ("ago", "The last probe: the golden inputs of the bundle, sent again."),
    ("times as fast", "A demo: the server's clock runs faster than ours."),
    ("clock", "How far its clock is from ours, and how well that is known."),
    ("refused formats", "Files of these formats came and cannot be decoded."),
    ("failed", "Requests that got no answer, and those that were refused before any work."),
    ("not used", "Parts that were longer than the bundle takes."),
    ("quarantined", "Requests whose content ended replicas; they are refused for a while."),
    ("telemetry", "What its own records take on its disk."),
    ("requests", "Requests that it has answered since it started."),
    ("device:", "What it computes on, and why."),
    ("dtype:", "In which number format it computes, and why."),
    ("threads:", "How many threads a replica computes with, and why."),
    ("batch:", "How much goes into one forward, and why."),
    ("bundle:", "Which bundle it serves, and why."),
    ("warm", "How many replicas it keeps ready, and why."),
    ("memory", "How much memory replicas take, and why."),
    (" ready", "Replicas that take requests."),
    (" slow", "Replicas that answer slower than the bundle allows; others are preferred."),
    (" wrong", "Replicas whose answers differ from those in the bundle; they get no requests."),
    (" dead", "Replicas without a process."),
    (" starting", "Replicas that load, warm up and prove their answers."),
    (" loading", "Replicas that load, warm up and prove their answers."),
    ("confidence", "How probable the label is, and by how much it leads the next one."),
    ("margin", "How probable the label is, and by how much it leads the next one."),
    ("entropy", "How undecided it was, 0 for not at all; and how much fell on the labels."),
    (
        "closed set mass",
        "How much probability fell on the labels; little: another kind of input.",
    ),
    ("tokens used", "How long the prompt was for the model, and how many parts were cut."),
    ("parts cut", "Parts that were longer than the bundle takes."),
    ("feedback", "The true label, as it came back later."),
    ("stamp", "The version that answered: weights, code, preprocessing and all."),
    ("session", "The tags and names that the caller sent with it."),
    ("client", "The tags and names that the caller sent with it."),
    ("trace", "The identity of the request in a tracing tool."),
    ("replica", "When it came in, and which process answered it."),
    ("queue", "How long it waited for a replica."),
    ("decode", "How long pictures and sounds took to unpack."),
    ("preprocess", "How long it took to turn the inputs into numbers."),
    ("forward", "How long the model computed."),
    ("post", "How long it took to turn the numbers into an answer."),
    ("batch of", "How many rows went through the model together."),
    ("batch", "How many rows went through the model together."),
    ("mean by stage", "Where the time of an average request went."),
    ("highest of", "Of each figure the highest that any of these servers has."),
    ("the host uses", "The machine of this server, all its processes together."),
    (
        "share of requests",
        "The brighter, the more requests took so long; a click shows examples.",
    ),
    ("realised", HEADS["realised"]),
    ("estimated", HEADS["estimated"]),
    ("95 %", "The truth lies within it in 95 of 100 cases; with few labels it is wide."),
    ("accuracy", HEADS["realised"]),
    ("value per 1,000", HEADS["value/1000"]),
)


def head(title: str) -> str:
    """The tip for a column head."""
    return HEADS.get(title, "")


def fact(text: str) -> str:
    """The tip for a line of a panel or the legend of a plot; empty if it contains no known term."""
    low = text.lower()
    return next((tip for term, tip in (*FACTS, *TERMS) if term.lower() in low), "")


def chip(text: str) -> str:
    """The tip for a piece of a legend; a text without a known term is returned whole, as it may be
    cut off on the screen."""
    low = text.lower()
    return next((tip for term, tip in TERMS if term.lower() in low), text.lstrip("━┄■ "))
