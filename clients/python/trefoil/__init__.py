"""A client for Trefoil servers: retries, deadlines, pinned stamps, sessions over several servers.

`Client` blocks, `AsyncClient` is for asyncio; both do the same. `Connection` makes each call once,
to one server. Needs grpcio, protobuf and googleapis-common-protos.
"""

from trefoil.access import Access
from trefoil.client import AsyncClient
from trefoil.connection import Connection
from trefoil.errors import (
    DeadlineExceeded,
    InputRefused,
    NotAllowed,
    Overloaded,
    ServerFault,
    StampMismatch,
    TextInterrupted,
    TrefoilError,
    Unavailable,
)
from trefoil.parts import audio, image, pcm, text
from trefoil.results import FeedbackResult, GeneratedText, PartUsed, Prediction
from trefoil.retry_policy import RetryPolicy
from trefoil.sync import Client

__all__ = [
    "Access",
    "AsyncClient",
    "Client",
    "Connection",
    "DeadlineExceeded",
    "FeedbackResult",
    "GeneratedText",
    "InputRefused",
    "NotAllowed",
    "Overloaded",
    "PartUsed",
    "Prediction",
    "RetryPolicy",
    "ServerFault",
    "StampMismatch",
    "TextInterrupted",
    "TrefoilError",
    "Unavailable",
    "audio",
    "image",
    "pcm",
    "text",
]
