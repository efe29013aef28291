"""Sends the questions of the prediction panels to the cache, and the answers back to the panel that
asked. An answer that arrives after its question was replaced is dropped."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QObject, Qt, QTimer, QUrl, Signal
from PySide6.QtGui import QDesktopServices

from console.app.bridge import Bridge
from console.panels.detail import DetailPanel
from console.panels.latency import LatencyPanel
from console.panels.predictions import PredictionsPanel
from console.state.dashboard import ExampleRequest
from console.state.query_types import (
    FindPredictions,
    FoundPredictions,
    KeptPayload,
    PredictionDetail,
    PredictionPage,
    Query,
    ReadPayload,
    ReadPrediction,
    Searched,
    SearchServers,
)

STOPS_MS = 250  # while a brush is being drawn, the servers are not asked until it stops


class Queries(QObject):
    wanted = Signal()  # the predictions page should be shown

    def __init__(
        self,
        bridge: Bridge,
        latency: LatencyPanel,
        predictions: PredictionsPanel,
        detail: DetailPanel,
        name_of: Callable[[str], str],
    ) -> None:
        super().__init__()
        self._bridge = bridge
        self._predictions = predictions
        self._detail = detail
        self._name_of = name_of
        self._find = 0
        self._single = 0
        self._playing = ""
        self._wanted: FindPredictions | None = None
        self._search = 0
        # The search for one row: its number, server, prediction id.
        self._lost: tuple[int, str, str] = (0, "", "")
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(STOPS_MS)
        self._soon.timeout.connect(self._ask_servers)
        bridge.searched.connect(self._searched, Qt.ConnectionType.QueuedConnection)
        predictions.asked.connect(self._ask)
        predictions.picked.connect(self._pick)
        latency.exemplars.connect(self._examples)
        detail.payloadWanted.connect(lambda server, one: self._ask(ReadPayload(server, one)))
        detail.playWanted.connect(self._play)
        bridge.answered.connect(self._answered)
        bridge.decoded.connect(detail.show_payload)
        bridge.written.connect(self._written)

    def _ask(self, question: Query) -> None:
        number = self._bridge.ask(question)
        if isinstance(question, FindPredictions):
            self._find, self._wanted = number, question
            self._soon.start()

    def _ask_servers(self) -> None:
        """Ask the servers too: the cache holds only rows that were kept or looked at, the servers
        hold all."""
        if self._wanted is not None:
            wanted = SearchServers(self._wanted.server_line, self._wanted.span)
            self._search = self._bridge.search(wanted)

    def _searched(self, number: int, answer: Searched) -> None:
        if number == self._search and self._wanted is not None:
            self._predictions.show_searched(answer)
            self._find = self._bridge.ask(self._wanted)
        elif number == self._lost[0] and answer.servers:
            _, server, prediction_id = self._lost
            self._single = self._bridge.ask(ReadPrediction(server, prediction_id))

    def _pick(self, server: str, prediction_id: str) -> None:
        self._single = self._bridge.ask(ReadPrediction(server, prediction_id))

    def _examples(self, examples: tuple[ExampleRequest, ...]) -> None:
        self.wanted.emit()
        self._predictions.show_examples(examples)

    def _answered(self, number: int, answer: object) -> None:
        match answer:
            case FoundPredictions() if number == self._find:
                self._predictions.show_found(answer)
            case PredictionPage():
                self._predictions.show_page(answer)
            case PredictionDetail() if number == self._single:
                self._detail.show_single(answer, self._name_of(answer.server))
                if answer.row is None and self._lost[1:] != (answer.server, answer.prediction_id):
                    self._ask_server_for(answer.server, answer.prediction_id)
            case KeptPayload():
                self._bridge.decode(answer)

    def _ask_server_for(self, server: str, prediction_id: str) -> None:
        wanted = SearchServers(server=server, prediction_id=prediction_id)
        self._lost = (0, server, prediction_id)
        self._lost = (self._bridge.search(wanted), server, prediction_id)

    def _play(self, sound: bytes) -> None:
        """Play the sound with the system's own player: Qt's multimedia module is as large as all
        the rest."""
        from pathlib import Path

        import platformdirs

        # Not in a folder where others can write: the file name can be guessed.
        path = Path(platformdirs.user_cache_dir("trefoil-console")) / "sound.wav"
        self._playing = str(path)
        self._bridge.write_file(path, sound)

    def _written(self, path: str, trouble: str) -> None:
        if path == self._playing and not trouble:
            self._playing = ""
            QDesktopServices.openUrl(QUrl.fromLocalFile(path))
