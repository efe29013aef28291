"""A client for Trefoil servers: retries, deadlines, pinned stamps, sessions over several servers.

Client blocks, AsyncClient is for asyncio; both do the same. It needs grpcio, protobuf and
googleapis-common-protos, and the message classes in proto/.
"""

from trefoil.access import Access
from trefoil.answers import Prediction, Told
from trefoil.client import AsyncClient
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
from trefoil.retries import Retries
from trefoil.sync import Client

__all__ = [
    "Access",
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "InputRefused",
    "NotAllowed",
    "Overloaded",
    "Prediction",
    "Retries",
    "ServerFault",
    "StampMismatch",
    "TextInterrupted",
    "Told",
    "TrefoilError",
    "Unavailable",
    "audio",
    "image",
    "pcm",
    "text",
]
