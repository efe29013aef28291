"""Every setting of the server with its default, written once; main.py makes a flag of each.

0 means "automatic" where a comment says auto. It never means "no limit": everything is bounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
CHOOSE = Path()  # no bundle was named: see server/deploy/boot_choice.py
EMBEDDED_BUNDLE = Path(__file__).resolve().parent.parent / "pipelines" / "triage" / "bundle"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    # What to serve, where.
    bundle: Path = CHOOSE
    data: Path = Path("trefoil-data")
    listen: str = "127.0.0.1:8433"
    name: str = ""  # shown to people; "" = host name
    allow_dirty: bool = False
    require_signature: Path | None = None  # public keys; one of them must have signed
    verify: bool = False  # hash all files at this start, remembered digests too

    # The pool.
    warm_pool: int = 1
    device: str = "auto"  # auto | cpu | cuda | cuda:0,1
    dtype: str = "auto"
    threads: int = 0  # torch threads a replica; 0 = auto: cores / replicas
    decode_threads: int = 0  # 0 = auto
    max_batch_rows: int = 0  # 0 = auto: 8 on a CPU, 32 on a GPU
    max_batch_cost: int = 0  # padded tokens of one forward; 0 = auto
    max_generations: int = 8  # texts written at the same time by one replica
    memory_check: bool = True

    # The queue.
    queue_rows: int = 256
    queue_bytes: int = 256 * MIB
    ahead_bytes: int = 64 * MIB  # payload sent to one replica and not yet answered
    patience_s: float = 5.0  # a row without a deadline is ordered as if due after this
    default_deadline_s: float = 60.0  # of a row without a deadline; 0: none

    # Faults and repairs.
    quarantine_s: float = 600.0
    restart_first_s: float = 0.5  # wait before the second start in a row; doubles
    restart_longest_s: float = 30.0
    stable_s: float = 60.0  # a replica that lived this long ends a series of crashes
    load_timeout_s: float = 900.0
    stall_s: float = 30.0  # a replica with work and no progress for this long is killed
    drain_s: float = 20.0
    standby_s: float = 600.0  # how long the previous pool is kept warm, if memory allows
    keep_bundles: int = 5  # unused bundles kept on disk, the newest first

    # Readiness.
    probe_interval_s: float = 30.0
    probe_runs: int = 3  # passes over a mix's golden inputs; the median is compared
    slow_after: int = 2  # slow probes in a row
    fast_again: float = 0.8  # share of the bundle's limit; below it a replica is no longer slow
    queue_nearly_full: float = 0.9  # share of queue_rows: degraded above
    skew_interval_s: float = 60.0  # between a replica's integrity checks

    # Size limits of a request.
    max_message_bytes: int = 16 * MIB
    max_examples: int = 64
    max_parts: int = 32
    max_labels: int = 256
    max_label_chars: int = 256
    max_text_bytes: int = 64 * 1024
    max_slices: int = 16
    max_new_tokens: int = 256
    upload_bytes: int = 64 * MIB
    upload_peer_bytes: int = 128 * MIB  # of one host at a time
    upload_total_bytes: int = 512 * MIB
    upload_ttl_s: float = 120.0
    max_streams: int = 1024  # concurrent calls on one connection

    # Identities.
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None  # bearer tokens that are accepted; needs TLS
    insecure: bool = False  # plaintext beyond loopback

    # Telemetry.
    telemetry: bool = True
    keep_days: float = 7.0  # predictions and payloads; counts stay longer
    max_telemetry_bytes: int = 4 << 30
    tick_s: float = 300.0  # between evaluations of drift
    baseline: str = "bundle"  # reference of drift
    on_alert: str = ""  # a command line, run for every alert
    slo_ms: float = 0.0
    sample_share: float = 0.05  # share of the payloads that is stored
    prometheus: str = ""  # HOST:PORT of a scrape endpoint
    trace_share: float = 0.05  # of the calls whose caller did not decide
    simulated_time: tuple[float, float] | None = None  # unix seconds at start, speed
    environment: str = ""

    # The log.
    log_format: str = "text"  # text | json
    log_level: str = "info"  # debug | info | warning | error
