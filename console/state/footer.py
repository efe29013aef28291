"""The footer: the state of the console itself. Pure."""

from __future__ import annotations

from console.state.dashboard import Board
from console.state.timetext import clock_text
from console.state.units import size

STUCK_S = 10.0  # without a board for this long the reader is stuck: it makes one every second


def status_text(board: Board, now_s: float, notice: str) -> tuple[str, str]:
    """(the line, its tone). `notice`: what was just done; it comes first in the line."""
    usage = board.usage
    now_s += board.ahead_s
    age_s = max(0.0, now_s - board.made_s)
    found = [
        notice,
        usage.trouble,
        "offline: no server is contacted" if board.offline else "",
        f"cache {size(usage.cache_bytes)}",
        f"read {usage.read_ms:.0f} ms",
        f"{usage.rows_waiting:,} rows waiting to be written" if usage.rows_waiting > 1000 else "",
        "live" if board.view.live else f"paused at {clock_text(board.to_s)}",
        f"display {age_s:.1f} s old",
        "Ctrl+K commands · ? keys",
        f"{clock_text(now_s, '%Y-%m-%d %H:%M:%S')} UTC",
        f"simulated time, {board.speed:,.0f} times as fast" if board.ahead_s else "",
    ]
    tone = "warning" if usage.trouble else "dim"
    if age_s > STUCK_S:
        found.insert(0, "THE DISPLAY HAS STOPPED UPDATING: restart the console")
        tone = "critical"
    return "  ·  ".join(word for word in found if word), tone
