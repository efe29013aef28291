"""The servers are asked for rows that the cache lacks: a whole server, its labels, any request."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pytestqt.qtbot import QtBot

from console.app.window import Window
from console.state.dashboard import ExampleRequest, View
from console.state.query_types import FoundPredictions, Searched
from tests.console.test_console_window import T0, kept, make
from tests.support.patience import patience_ms
from tests.support.running import program
from trefoil import Client, InputRefused, image, text

__all__ = ["kept", "make"]  # its fixtures
pytestmark = pytest.mark.qt_log_ignore("propagateSizeHints")
SENT = 6


def test_rows_and_labels_that_were_never_streamed_are_found(
    qtbot: QtBot, make: Callable[..., Window], tiny_bundle: Path
) -> None:
    """7 % of the exemplars were in the cache, and `wrong` found nothing: labels come later."""
    with (
        program("--bundle", str(tiny_bundle), "--sample-share", "0") as server,
        Client(server.address) as client,
    ):
        answers = [client.predict(text(f"line {n} grinds"), timeout_s=60) for n in range(SENT)]
        with pytest.raises(InputRefused) as refused:
            client.predict(image(b"\xff\xd8\xff\xe0 cut"), timeout_s=60)
        wrong = answers[2]
        labels = [label for label in wrong.scores if label != wrong.label]
        assert client.feedback(wrong, label=labels[0]).status == "joined"
        window = make([server.address], view=View(window_s=600))

        def connected() -> bool:
            return all(line.link.state == "live" for line in window.board.servers)  # type: ignore[union-attr]

        def found(count: int) -> Callable[[], bool]:
            def enough() -> bool:
                if window.predictions.model.rowCount() != count:
                    window.predictions.search()
                    qtbot.wait(600)
                return window.predictions.model.rowCount() == count

            return enough

        qtbot.waitUntil(connected, timeout=patience_ms(20))
        window.focus_panel("predictions")
        qtbot.waitUntil(found(SENT + 1), timeout=patience_ms(40))
        assert "1 server asked" in window.predictions.result_line.text
        window.predictions.select("wrong")
        qtbot.waitUntil(found(1), timeout=patience_ms(40))
        entry = window.predictions.model.entry(0)
        qtbot.waitUntil(lambda: window.predictions.model.entry(0) is not None)
        entry = window.predictions.model.entry(0)
        assert entry is not None and entry[1].true_label == labels[0]
        assert entry[1].prediction_id == wrong.id

        def counted() -> bool:
            """How many requests there were comes with the rows of latency, after their second."""
            if not window.predictions.result_line.text.startswith("1 found of "):
                window.predictions.search()
                qtbot.wait(600)
            return window.predictions.result_line.text.startswith("1 found of ")

        qtbot.waitUntil(counted, timeout=patience_ms(20))

        window.predictions.select("error")

        def refusal() -> bool:
            entry = window.predictions.model.entry(0)
            return entry is not None and entry[1].error.startswith("INVALID_ARGUMENT/")

        qtbot.waitUntil(refusal, timeout=patience_ms(40))
        entry = window.predictions.model.entry(0)
        assert (
            entry is not None
            and entry[1].error_message
            and entry[1].error_message in str(refused.value)
        )

        # A click on the heat map: a request that is in no cache is shown all the same.
        last = answers[-1].id
        example = ExampleRequest(time.time(), 5.0, server.address, last, "")
        window.queries._examples((example,))

        def shown() -> bool:
            single = window.detail.single
            return single is not None and single.prediction_id == last and single.row is not None

        qtbot.waitUntil(shown, timeout=patience_ms(20))


def test_offline_the_table_says_that_no_server_was_asked(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    window.focus_panel("predictions")
    line = window.predictions.result_line
    qtbot.waitUntil(lambda: "no server is contacted" in line.text, timeout=patience_ms(10))
    assert " kept of " in line.text and " requests, window of " in line.text


def test_a_server_that_was_not_asked_is_named(
    qtbot: QtBot, make: Callable[..., Window], tmp_path: Path, kept: Callable[[Path], Path]
) -> None:
    window = make(None, kept(tmp_path), View(window_s=240, end_s=T0), clock=lambda: T0 + 5)
    qtbot.waitUntil(lambda: window.board is not None and bool(window.board.servers))
    assert window.board is not None
    server = next(line for line in window.board.servers if line.name != line.address)
    failed = ((server.address, "no connection to this server"), ("h:9", "it timed out"))
    window.predictions.show_searched(Searched(2, failed))
    window.predictions.show_found(FoundPredictions(np.arange(0)))
    said = f"2 servers asked; {server.name}: no connection to this server; h:9: it timed out"
    assert window.predictions.result_line.text.endswith(said)
