"""What each key does: the one list behind the shortcuts, the palette and the key sheet."""

from __future__ import annotations

import functools
from collections.abc import Callable

from console.app.actions import Actions
from console.app.commands import Command
from console.app.navigation import Navigation
from console.app.window import Window

GOES = (
    ("fleet", "Servers"),
    ("latency", "Latency"),
    ("drift", "Drift"),
    ("skew", "Version skew"),
    ("events", "Events"),
    ("predictions", "Predictions"),
    ("quality", "Quality"),
    ("alerts", "Alerts"),
    ("reference", "Reference against live"),
)
WITHOUT_KEY = (("server", "Server"), ("detail", "Prediction"))
LETTERS = (("changes", "What changed", "W"), ("compare", "Compare", "U"))
# Name, title, key, one of console.state.action_kinds.
ACTS = (
    ("rollback", "Roll back", "Shift+R", "rollback"),
    ("activate", "Activate a loaded bundle", "Shift+A", "activate"),
    ("canary", "Start a canary", "Ctrl+Shift+C", "canary"),
    ("canary_end", "End the canary", "Ctrl+Shift+E", "canary-end"),
    ("rehearse", "Rehearse a bundle", "Ctrl+Shift+R", "rehearse"),
    ("restart", "Restart a replica", "Shift+S", "restart"),
    ("drain", "Drain", "Shift+Q", "drain"),
    ("verify", "Verify every byte now", "Shift+V", "verify"),
    ("feedback", "Give feedback on this prediction", "Shift+F", "feedback"),
    ("replay", "Replay this prediction", "Shift+X", "replay"),
    ("against", "Replay it against another stamp", "Ctrl+Shift+X", "replay-against"),
)


def commands_of(window: Window, actions: Actions, navigation: Navigation) -> list[Command]:
    """All commands, in display order."""
    found: list[Command] = []
    axis = window.axis

    def add(
        name: str, title: str, keys: tuple[str, ...], group: str, run: Callable[[], object]
    ) -> None:
        found.append(Command(name, title, keys, run, group))

    for number, (name, text) in enumerate(GOES, start=1):
        run = functools.partial(window.focus_panel, name)
        add(f"go.{name}", f"Go to {text}", (str(number),), "Go", run)
    for name, text in WITHOUT_KEY:
        run = functools.partial(window.focus_panel, name)
        add(f"go.{name}", f"Go to {text}", (), "Go", run)
    for name, text, key in LETTERS:
        run = functools.partial(window.focus_panel, name)
        add(f"go.{name}", f"Go to {text}", (key,), "Go", run)
    add("go.next", "Next panel", ("F6",), "Go", lambda: window.next_panel(1))
    add("go.previous", "Previous panel", ("Shift+F6",), "Go", lambda: window.next_panel(-1))
    add("go.filter", "Filter the predictions", ("/",), "Go", window.filter_predictions)
    add("time.range", "Time range in words …", ("Shift+T",), "Time", navigation.time_range)
    add("time.previous", "The range shown before", ("Alt+Left",), "Time", navigation.back)
    add("time.next", "The range shown after", ("Alt+Right",), "Time", navigation.forward)
    add("time.annotate", "Annotate for all consoles …", ("Shift+M",), "Time", navigation.annotate)
    add("time.unannotate", "Remove an annotation", (), "Time", navigation.remove_note)
    add("time.longer", "Longer window", ("-",), "Time", lambda: axis.zoom(1.5))
    add("time.shorter", "Shorter window", ("+", "="), "Time", lambda: axis.zoom(1 / 1.5))
    add("time.back", "Back in time", (",",), "Time", lambda: axis.pan(-0.25))
    add("time.on", "Forward in time", (".",), "Time", lambda: axis.pan(0.25))
    add("time.brush", "Brush the middle, then widen it", ("B",), "Time", axis.brush_middle)
    add("time.zoom", "Zoom to the brush", ("Z",), "Time", axis.zoom_to_brush)
    add("time.live", "Live: back to now, no brush", ("0", "Esc"), "Time", window.go_live)
    add("time.pause", "Pause or resume", ("Space",), "Time", axis.pause)
    add("time.alert", "Go to the newest open alert", ("G",), "Time", window.around_alert)
    add("time.left", "Cross-hair back", ("[",), "Time", lambda: axis.nudge(-0.01))
    add("time.right", "Cross-hair forward", ("]",), "Time", lambda: axis.nudge(0.01))
    add("time.lock", "Lock the cross-hair", ("L",), "Time", axis.toggle_lock)
    add("time.mark", "Set or remove a marker", ("M",), "Time", axis.mark)
    add("alert.acknowledge", "Acknowledge an alert", ("A",), "Alerts", actions.acknowledge)
    add("alert.silence", "Silence an alert until …", ("S",), "Alerts", actions.silence)
    for name, text, key, kind in ACTS:
        add(f"act.{name}", f"{text} …", (key,), "Act", functools.partial(actions.ask, kind))
    add("panel.maximise", "Maximise this panel", ("F",), "Panel", window.maximise)
    add("panel.measure", "Drift by PSI, KS, KL, JS", ("T",), "Panel", window.drift.cycle)
    add("panel.throughput", "Percentiles, throughput, host", ("Y",), "Panel", window.latency.cycle)
    add(
        "panel.host", "CPU, memory, disk, GPU over time", ("H",), "Panel", window.latency.show_hosts
    )
    add("panel.split", "Split latency by server, stamp, …", ("P",), "Panel", window.next_split)
    add("panel.examples", "Requests at the cross-hair", ("X",), "Panel", window.show_examples)
    add("panel.sort", "Sort by this column", ("O",), "Panel", window.sort_column)
    add("panel.table", "Show this panel as a table", ("N",), "Panel", window.open_data_table)
    add("panel.kept", "Show the kept payload", ("D",), "Panel", window.detail.want)
    add("panel.play", "Play the kept sound", ("Shift+D",), "Panel", window.detail.play_sound)
    add("panel.csv", "Export this panel as CSV", ("E",), "Panel", actions.export_csv)
    add("panel.png", "Export this panel as PNG", ("Shift+E",), "Panel", actions.export_png)
    add("copy.command", "Copy as command", ("C",), "Copy", actions.copy_command)
    add("copy.view", "Copy a command for this view", ("V",), "Copy", actions.copy_view)
    add("copy.link", "Copy a link to this view", ("Ctrl+L",), "Copy", actions.copy_link)
    add("copy.incident", "Copy the incident as text", ("I",), "Copy", actions.copy_incident)
    add("copy.sheet", "Write the incident sheet", ("Shift+I",), "Copy", actions.incident_sheet)
    add("copy.table", "Copy this panel as a table", ("Shift+C",), "Copy", actions.copy_table)
    add("feed.retry", "Retry lost servers now", ("R",), "Servers", window.bridge.retry_now)
    add("window.theme", "Dark, light, high contrast", ("F8",), "Window", window.next_theme)
    larger, smaller = ("Ctrl++", "Ctrl+="), ("Ctrl+-",)
    add("window.larger", "Larger text", larger, "Window", lambda: window.zoom_text(1))
    add("window.smaller", "Smaller text", smaller, "Window", lambda: window.zoom_text(-1))
    add("window.usual", "Text that suits the window", ("Ctrl+0",), "Window",
        lambda: window.zoom_text(0))  # fmt: skip
    add("window.reset", "Reset the layout", (), "Window", window.plan.reset)
    add("help.runbook", "Runbook of the worst problem", ("Shift+F1",), "Window", actions.runbook)
    add("help.palette", "Find anything …", ("Ctrl+K",), "Window", navigation.find)
    add("help.keys", "Keyboard shortcuts", ("?", "F1"), "Window", window.sheet.toggle)
    add("window.quit", "Quit", ("Ctrl+Q",), "Window", window.close)
    return found
