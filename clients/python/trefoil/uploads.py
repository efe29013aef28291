"""The large parts of a request: a part that does not fit into one message is uploaded to the server
first, and the request refers to the upload."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

from trefoil._proto import inference_pb2 as pb
from trefoil.errors import InputRefused, TrefoilError
from trefoil.retry_policy import Deadline
from trefoil.servers import Server

# Up to 4 MiB one message is fastest, above that chunks are.
INLINE_BYTES = 4 << 20
CHUNK_BYTES = 1 << 20

Metadata = tuple[tuple[str, str], ...]


class Uploads:
    """The examples of one request. Remembers which server has which upload, so that a retry on the
    same server does not send it twice."""

    def __init__(self, examples: Sequence[pb.Example], metadata: Metadata = ()) -> None:
        self._examples = examples
        self.metadata = metadata
        self._large = frozenset(_large_parts(examples))
        self._uploads: dict[str, dict[tuple[int, int], str]] = {}

    async def examples_for(
        self, server: Server, rows: Sequence[int], deadline: Deadline
    ) -> list[pb.Example]:
        """The examples numbered `rows` in the form this server needs. Raises AioRpcError."""
        sent = self._uploads.setdefault(server.address, {})
        for row, index in sorted(self._large):
            if row in rows and (row, index) not in sent:
                part = self._examples[row].parts[index]
                receipt = await server.stub.Upload(
                    _chunks(part), timeout=deadline.left_s, metadata=self.metadata
                )
                sent[row, index] = receipt.upload_id
        return [self._with_uploads(row, sent) for row in rows]

    def forget(self, error: TrefoilError | None) -> bool:
        """Whether the server has lost an upload: then the request is worth sending again, with a
        new upload."""
        if not isinstance(error, InputRefused) or error.reason != "UNKNOWN_UPLOAD":
            return False
        return bool(self._uploads.pop(error.server, None))

    def _with_uploads(self, row: int, sent: dict[tuple[int, int], str]) -> pb.Example:
        example = self._examples[row]
        places = [index for (r, index) in self._large if r == row]
        if not places:
            return example
        # Part by part: copying the whole example would copy the payloads that are replaced.
        changed = pb.Example(slices=example.slices)
        for index, part in enumerate(example.parts):
            if index not in places:
                changed.parts.append(part)
                continue
            changed.parts.add(
                id=part.id,
                modality=part.modality,
                mime_type=part.mime_type,
                upload_id=sent[row, index],
                pcm=part.pcm if part.HasField("pcm") else None,
            )
        return changed


def _large_parts(examples: Sequence[pb.Example]) -> Iterator[tuple[int, int]]:
    """Row and index of every part that does not fit into the message together with those before
    it."""
    inline = 0
    for row, example in enumerate(examples):
        for index, part in enumerate(example.parts):
            if inline + len(part.data) > INLINE_BYTES:
                yield row, index
            else:
                inline += len(part.data)


def _chunks(part: pb.Part) -> Iterator[pb.UploadChunk]:
    digest = hashlib.sha256(part.data).hexdigest()
    header = pb.UploadHeader(mime_type=part.mime_type, total_bytes=len(part.data), sha256=digest)
    yield pb.UploadChunk(header=header)
    view = memoryview(part.data)
    for start in range(0, len(view), CHUNK_BYTES):
        yield pb.UploadChunk(data=bytes(view[start : start + CHUNK_BYTES]))
