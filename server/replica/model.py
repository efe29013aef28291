"""The interface of a model in a replica: four stages that overlap, and texts that are generated
step by step.

Both the stamped pipeline (server/replica/pipeline_model.py) and the small models of tests implement
it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from proto import inference_pb2, replica_pb2
from server.replica.fault_guard import Failed

# How a row is decoded. Direct: by any thread at once, because it is small and only Python reads it.
# Light: by a decoder, in a short time. Heavy: by a decoder, but never by the last free one.
Lane = Literal["direct", "light", "heavy"]


class Rejected(Failed):
    """An error of the row itself, found while it is decoded."""

    def __init__(self, field: str, reason: str, message: str) -> None:
        super().__init__(
            inference_pb2.Fault(
                code="INVALID_ARGUMENT", field=field, reason=reason, message=message
            )
        )


@dataclass(frozen=True, slots=True)
class Ready:
    """A decoded and preprocessed row that any batch can take; `row` is the model's own."""

    row: Any
    tokens: int
    decode_ms: float
    preprocess_ms: float
    mix: tuple[str, ...]  # modalities, sorted


class Text(Protocol):
    """A text being generated."""

    @property
    def finished(self) -> bool: ...
    def take(self) -> str:
        """The text since the last call."""

    def cancel(self) -> None:
        """Cancel the text, from any thread; takes effect at the next step."""


class Model(Protocol):
    def lane(self, example: bytes) -> Lane:
        """The lane of a serialized trefoil.v1.Example, whatever it contains. The receiving thread
        calls it, so it reads headers only."""

    def enter_thread(self) -> None:
        """Must be the first call of every thread that uses the model."""

    def prepare(self, work: replica_pb2.Work, example: bytes) -> Ready:
        """`example` is a serialized trefoil.v1.Example. Thread-safe. Raises Rejected."""

    def forward(self, rows: Sequence[Any]) -> Any:
        """Collate and compute, or only start to compute. Called by one thread."""

    def wait(self, found: Any) -> None:
        """Return when the forward that `forward` started is complete."""

    def finish(self, found: Any) -> list[replica_pb2.Done]:
        """Outcome, features and stamp of each row, in order. Called by one other thread."""

    def startable(self, rows: Sequence[Any]) -> int:
        """How many of these texts, in order, `start` can begin together now. 0: they wait for a
        text that ends."""

    def start(self, rows: Sequence[Any]) -> Sequence[Text]:
        """Begin texts beside those being generated; `step` may have to continue reading them.
        Called by the thread of `forward`."""

    def text_bytes(self) -> tuple[int, int]:
        """(memory that the texts use, memory that they may use). May be called from any thread."""

    def step(self) -> None:
        """Write one token of every live text."""

    def end(self, row: Any, text: Any) -> replica_pb2.Token:
        """The last message about a text: finish reason, tokens, features, stamp."""

    def probe(self, mixes: Sequence[str]) -> Iterator[replica_pb2.MixProbe]:
        """Golden answers and speed of these mixes (without any: of all mixes), one after the
        other."""

    def broken_by(self, error: Exception) -> bool:
        """Whether all later results of this process are untrustworthy."""
