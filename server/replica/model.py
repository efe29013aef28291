"""What a replica needs of a model: four stages that overlap, texts that are written step by step.

Two things have this shape: the stamped pipeline (server/replica/main.py) and the small ones of
tests.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from proto import inference_pb2, replica_pb2
from server.replica.fault_guard import Failed

# How a row is decoded: by any thread at once, because only Python reads it and it is small; by a
# decoder, in a short time; or by a decoder, but never by the last one that is free.
Lane = Literal["direct", "light", "heavy"]


class Rejected(Failed):
    """The row's own fault, found while decoding it."""

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
    """A text being written."""

    @property
    def finished(self) -> bool: ...
    def take(self) -> str:
        """What was written since the last call."""

    def cancel(self) -> None:
        """From any thread; takes effect at the next step."""


class Model(Protocol):
    def lane(self, example: bytes) -> Lane:
        """Of a serialized trefoil.v1.Example, whatever is in it. By the thread that receives rows,
        so it looks at headers only."""

    def enter_thread(self) -> None:
        """The first call of every thread that uses the model."""

    def prepare(self, work: replica_pb2.Work, example: bytes) -> Ready:
        """`example` is a serialized trefoil.v1.Example. Thread-safe. Raises Rejected."""

    def forward(self, rows: Sequence[Any]) -> Any:
        """Collate and compute, or only begin to compute. Called by one thread."""

    def wait(self, found: Any) -> None:
        """Return when what `forward` began is computed."""

    def finish(self, found: Any) -> list[replica_pb2.Done]:
        """Outcome, features and stamp of each row, in order. Called by one other thread."""

    def startable(self, rows: Sequence[Any]) -> int:
        """How many of these texts, in order, `start` can begin together now. 0: they wait for one
        that ends."""

    def start(self, rows: Sequence[Any]) -> Sequence[Text]:
        """Begin texts beside those that are being written; `step` may have to go on reading them.
        By the thread of `forward`."""

    def text_bytes(self) -> tuple[int, int]:
        """Memory that the texts being written take, and may take. From any thread."""

    def step(self) -> None:
        """Write one token of every live text."""

    def end(self, row: Any, text: Any) -> replica_pb2.Token:
        """The last message about a text: finish reason, tokens, features, stamp."""

    def probe(self, mixes: Sequence[str]) -> Iterator[replica_pb2.MixProbe]:
        """Golden answers and speed of these mixes (none: all), one after the other."""

    def broken_by(self, error: Exception) -> bool:
        """Whether nothing this process computes from now on can be trusted."""
