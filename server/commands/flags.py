"""The flags of `server` without a subcommand: one for each setting of ServerConfig, in groups."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from server.commands.values import at_least_one, count, kib, mib, seconds, share, whole
from server.ops import simulated_clock


@dataclass(frozen=True, slots=True)
class Flag:
    """`read` turns the text into the field's value; None: a switch."""

    name: str
    field: str
    read: Callable[[str], Any] | None
    metavar: str
    help: str


GROUPS: dict[str, tuple[Flag, ...]] = {
    "what to serve, where": (
        Flag(
            "--bundle",
            "bundle",
            Path,
            "DIR",
            "the bundle to serve (default: what this data directory served last, else the "
            "embedded one)",
        ),
        Flag(
            "--allow-dirty",
            "allow_dirty",
            None,
            "",
            "serve even when code or libraries are not the manifest's; no client can pin it",
        ),
        Flag(
            "--require-signature",
            "require_signature",
            Path,
            "KEYS",
            "refuse a bundle that no public key of this file or directory (PEM) signed",
        ),
        Flag(
            "--verify",
            "verify",
            None,
            "",
            "hash every byte at this start, also of large files whose digests are remembered",
        ),
        Flag("--data", "data", Path, "DIR", "where telemetry and loaded bundles are kept"),
        Flag("--listen", "listen", str, "HOST:PORT", "the one port for all services"),
        Flag("--insecure", "insecure", None, "", "accept plaintext from beyond this host"),
        Flag(
            "--name", "name", str, "NAME", "what people call this server (default: the host's name)"
        ),
        Flag(
            "--environment",
            "environment",
            str,
            "NAME",
            "production, staging, ...: kept with every record",
        ),
    ),
    "the warm pool": (
        Flag(
            "--warm-pool",
            "warm_pool",
            whole,
            "N",
            "replicas loaded, warmed and probed before they take traffic",
        ),
        Flag("--device", "device", str, "D", "auto, cpu, cuda or cuda:0,1"),
        Flag("--dtype", "dtype", str, "T", "auto, float32 or bfloat16"),
        Flag("--threads", "threads", count, "N", "torch threads of a replica; 0: cores / replicas"),
        Flag(
            "--decode-threads",
            "decode_threads",
            count,
            "N",
            "threads that decode, per replica; 0: automatic",
        ),
        Flag(
            "--no-memory-check",
            "memory_check",
            None,
            "",
            "start even when the pool does not seem to fit in memory",
        ),
        Flag(
            "--load-timeout",
            "load_timeout_s",
            seconds,
            "S",
            "a replica that takes longer to load is started anew",
        ),
        Flag(
            "--stall",
            "stall_s",
            seconds,
            "S",
            "a replica with work and no progress for so long is replaced",
        ),
        Flag(
            "--restart-first",
            "restart_first_s",
            seconds,
            "S",
            "wait before a second restart in a row; doubles",
        ),
        Flag(
            "--restart-longest", "restart_longest_s", seconds, "S", "longest wait between restarts"
        ),
        Flag(
            "--stable",
            "stable_s",
            seconds,
            "S",
            "a replica that lived so long has not crashed in a row",
        ),
        Flag(
            "--quarantine",
            "quarantine_s",
            seconds,
            "S",
            "how long content that killed two replicas stays refused",
        ),
    ),
    "batches and the queue": (
        Flag("--max-batch-rows", "max_batch_rows", count, "N", "rows of one forward; 0: automatic"),
        Flag(
            "--max-batch-cost",
            "max_batch_cost",
            count,
            "N",
            "padded tokens of one forward; 0: automatic",
        ),
        Flag(
            "--max-generations",
            "max_generations",
            whole,
            "N",
            "texts written at the same time by one replica",
        ),
        Flag(
            "--queue-limit",
            "queue_rows",
            whole,
            "N",
            "rows that may wait; more are refused with RetryInfo",
        ),
        Flag("--queue-mb", "queue_bytes", mib, "MIB", "payload that may wait"),
        Flag(
            "--ahead-mb",
            "ahead_bytes",
            mib,
            "MIB",
            "payload sent ahead to one replica; also the largest single example",
        ),
        Flag(
            "--patience",
            "patience_s",
            seconds,
            "S",
            "a row without deadline is ordered as if due after this",
        ),
        Flag(
            "--default-deadline",
            "default_deadline_s",
            seconds,
            "S",
            "deadline of a row or a text whose caller set none; 0: none",
        ),
        Flag("--grace", "drain_s", seconds, "S", "time to finish accepted work when told to stop"),
        Flag(
            "--standby",
            "standby_s",
            seconds,
            "S",
            "after a switch the bundle before is kept warm so long, for a rollback at once, "
            "if memory allows",
        ),
        Flag(
            "--keep-bundles",
            "keep_bundles",
            count,
            "N",
            "bundles kept on disk beside those that are served, loaded or to go back to",
        ),
    ),
    "readiness": (
        Flag(
            "--slo-ms", "slo_ms", seconds, "MS", "latency objective drawn by the console; 0: none"
        ),
        Flag(
            "--probe-interval",
            "probe_interval_s",
            seconds,
            "S",
            "an idle replica is probed again after this",
        ),
        Flag(
            "--probe-runs", "probe_runs", whole, "N", "passes over the golden inputs of one probe"
        ),
        Flag(
            "--slow-after",
            "slow_after",
            whole,
            "N",
            "slow probes in a row that make a replica slow",
        ),
        Flag(
            "--fast-again",
            "fast_again",
            share,
            "SHARE",
            "share of the bundle's limit that ends slow",
        ),
        Flag(
            "--queue-nearly-full",
            "queue_nearly_full",
            share,
            "SHARE",
            "degraded when the queue is fuller",
        ),
        Flag(
            "--skew-interval",
            "skew_interval_s",
            at_least_one,
            "S",
            "how often a replica compares itself with what it loaded",
        ),
    ),
    "limits at the door": (
        Flag(
            "--max-message-mb",
            "max_message_bytes",
            mib,
            "MIB",
            "one message, unpacked; larger payloads go by Upload",
        ),
        Flag("--max-examples", "max_examples", whole, "N", "examples of one request"),
        Flag("--max-parts", "max_parts", whole, "N", "parts of one example"),
        Flag(
            "--max-text-kb",
            "max_text_bytes",
            kib,
            "KIB",
            "one text part",
        ),
        Flag("--max-labels", "max_labels", whole, "N", "labels of one request"),
        Flag("--max-label-chars", "max_label_chars", whole, "N", "characters of one label"),
        Flag("--max-slices", "max_slices", whole, "N", "slice tags of one example"),
        Flag("--max-new-tokens", "max_new_tokens", whole, "N", "tokens of one generated text"),
        Flag("--max-streams", "max_streams", whole, "N", "concurrent calls of one connection"),
        Flag("--upload-mb", "upload_bytes", mib, "MIB", "one upload"),
        Flag("--upload-peer-mb", "upload_peer_bytes", mib, "MIB", "uploads one host may hold"),
        Flag("--upload-total-mb", "upload_total_bytes", mib, "MIB", "all uploads together"),
        Flag("--upload-ttl", "upload_ttl_s", seconds, "S", "how long an upload is kept"),
    ),
    "encryption and roles": (
        Flag("--tls-cert", "tls_cert", Path, "PEM", "serve over TLS with this certificate"),
        Flag(
            "--tls-key", "tls_key", Path, "PEM", "and this key; both are read anew when they change"
        ),
        Flag(
            "--tls-client-ca",
            "tls_client_ca",
            Path,
            "PEM",
            "ask clients for a certificate of this CA",
        ),
        Flag(
            "--tokens",
            "tokens",
            Path,
            "FILE",
            "ask callers for one of these bearer tokens; `server token` makes them",
        ),
    ),
    "telemetry": (
        Flag("--no-telemetry", "telemetry", None, "", "keep nothing, watch nothing"),
        Flag(
            "--sample-share",
            "sample_share",
            share,
            "SHARE",
            "share of the payloads that is kept; of doubtful and failed ones more; 0: none at all",
        ),
        Flag(
            "--keep-days",
            "keep_days",
            at_least_one,
            "DAYS",
            "how long predictions and payloads are kept; hourly profiles stay longer",
        ),
        Flag(
            "--max-telemetry-mb",
            "max_telemetry_bytes",
            mib,
            "MIB",
            "telemetry grows no larger: the oldest goes first",
        ),
        Flag(
            "--baseline",
            "baseline",
            str,
            "B",
            "what drift is measured against: bundle, previous (stamp), last-week (same hour) or "
            "FROM..TO, two ISO times",
        ),
        Flag("--tick", "tick_s", at_least_one, "S", "how often drift is looked at"),
        Flag(
            "--on-alert",
            "on_alert",
            str,
            "CMD",
            "run this for every alert that opens, worsens or ends, the alert as JSON on its input",
        ),
        Flag(
            "--prometheus",
            "prometheus",
            str,
            "HOST:PORT",
            "serve metrics there, in plain HTTP; OTLP is set up by the OTEL_* variables",
        ),
        Flag(
            "--trace-share",
            "trace_share",
            share,
            "SHARE",
            "share of the calls to trace when their caller has not decided and traces go anywhere",
        ),
        Flag(
            "--simulated-time",
            "simulated_time",
            simulated_clock.read,
            "START,SPEED",
            "for demonstrations: telemetry's clock begins at START and runs SPEED times as fast",
        ),
    ),
}

# Limits the console and Describe show: field -> unit.
SHOWN = {
    "queue_rows": "rows",
    "max_message_bytes": "bytes",
    "max_examples": "examples",
    "max_parts": "parts",
    "max_text_bytes": "bytes",
    "max_labels": "labels",
    "max_label_chars": "characters",
    "max_slices": "tags",
    "max_new_tokens": "tokens",
    "upload_bytes": "bytes",
    "upload_peer_bytes": "bytes",
    "upload_total_bytes": "bytes",
    "upload_ttl_s": "seconds",
    "ahead_bytes": "bytes",
}
