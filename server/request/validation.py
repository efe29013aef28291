"""Turns the bytes of a request into rows of Work, with every check that does not need decoding.

An error of the request raises Refused; so does an error of a single row, which the caller of this
module limits to that row. Field paths are those of the caller's message.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from proto import inference_pb2 as pb
from server.config import ServerConfig
from server.request.caller import Caller
from server.request.lazy_parse import example_of, parse_generate, parse_predict, text_of
from server.request.limits import most
from server.request.status import Refused, bad_input
from server.request.token_estimate import modality_of, tokens_of
from server.request.uploads import SHA256, Upload, UploadStore
from server.request.wire import with_contents
from server.types import WORK_TERMS, Facts, Work, WorkTerms

STAMP = re.compile(r"[0-9a-f]{64}")
HEAD_BYTES = 16
SLICES_BYTES = 4096  # bytes of all tags of a row, which are stored with each of its predictions
LONGEST_ID = 256  # request ids, session ids, slice names and values, strings of a part
PRIORITIES = {pb.PRIORITY_UNSPECIFIED: 1, pb.HIGH: 0, pb.NORMAL: 1, pb.LOW: 2}
TASKS = {pb.TASK_UNSPECIFIED: "classify", pb.CLASSIFY: "classify", pb.EMBED: "embed"}


@dataclass(slots=True)
class UploadsNamed:
    """Bytes of the uploads that the rows of one request have named so far."""

    taken: int = 0


@dataclass(frozen=True, slots=True)
class Terms(WorkTerms):
    """The terms of one request, with what its rows have used up together."""

    uploads_named: UploadsNamed = field(default_factory=UploadsNamed)


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A parsed request: its rows are still serialized examples."""

    request_id: str
    rows: tuple[bytes, ...]
    terms: Terms
    top_k: int


def prediction_id(unix_ms: int | None = None) -> str:
    """A new prediction id: UUID version 7 (RFC 9562) as 32 hex digits, so that ids sort by time.

    48 bits of unix milliseconds, version, 12 random bits, variant, 62 random bits."""
    at_ms = time.time_ns() // 1_000_000 if unix_ms is None else unix_ms
    noise = secrets.randbits(74)
    high = (at_ms & (1 << 48) - 1) << 16 | 0x7000 | noise >> 62
    low = 0b10 << 62 | noise & (1 << 62) - 1
    return f"{high << 64 | low:032x}"


@dataclass(eq=False)
class Validator:
    """`facts` are those of the serving bundle, whose limits apply too."""

    config: ServerConfig
    uploads: UploadStore
    clock: Callable[[], float] = time.monotonic
    new_id: Callable[[], str] = prediction_id
    facts: Callable[[], Facts | None] = lambda: None

    def predict(self, data: bytes, caller: Caller) -> ParsedRequest:
        """Raises Refused for errors that concern the request as a whole."""
        request = parse_predict(data)
        if request.task not in TASKS:
            raise Refused(bad_input("task", "UNKNOWN_TASK", f"there is no task {request.task}"))
        rows = tuple(request.examples)
        if not rows:
            raise Refused(bad_input("examples", "EMPTY", "a request needs at least one example"))
        _at_most(len(rows), self.config.max_examples, "examples", "TOO_MANY_EXAMPLES", "examples")
        terms = replace(
            self._terms(request, caller),
            task=TASKS[request.task],
            labels=self._labels(request.labels),
            want_embedding=request.want_embedding or request.task == pb.EMBED,
        )
        return self._call(request, rows, terms, request.top_k)

    def generate(self, data: bytes, caller: Caller) -> ParsedRequest:
        request = parse_generate(data)
        limit = self.config.max_new_tokens
        _at_most(request.max_new_tokens, limit, "max_new_tokens", "TOO_MANY_TOKENS", "tokens")
        terms = replace(
            self._terms(request, caller), task="generate", max_new_tokens=request.max_new_tokens
        )
        return self._call(request, (request.example,), terms, 0)

    def work(self, row: bytes, field: str, terms: Terms) -> Work:
        """One row, with its uploads inserted. Raises Refused for an error of the row itself.

        Sizes are checked first: nothing is copied or hashed for a row that is too large.
        """
        example = example_of(row, field)
        if not example.parts:
            raise Refused(
                bad_input(f"{field}.parts", "EMPTY", "an example needs at least one part")
            )
        limit = most(self.config, self.facts(), "max_parts")
        _at_most(len(example.parts), limit, f"{field}.parts", "TOO_MANY_PARTS", "parts")
        slices = self._slices(example, f"{field}.slices")
        named = self._named(example, field)
        self._check_size(row, named, field, terms.uploads_named)
        tokens_in_all, modalities = 0, set()
        for index, part in enumerate(example.parts):
            modality, tokens = self._weigh(part, f"{field}.parts[{index}]", named.get(index))
            modalities.add(modality)
            tokens_in_all += tokens
        payload = row
        if named:
            payload = with_contents(example, {at: one.data for at, one in named.items()})
        return Work(
            id=self.new_id(),
            example=payload,
            estimated_tokens=tokens_in_all,
            slices=slices,
            mix="+".join(sorted(modalities - {""})) or "unknown",
            **{name: getattr(terms, name) for name in WORK_TERMS},
        )

    def _named(self, example: pb.Example, field: str) -> dict[int, Upload]:
        """The uploads of a row, by the index of the part that names them."""
        named: dict[int, Upload] = {}
        for index, part in enumerate(example.parts):
            where = f"{field}.parts[{index}]"
            for name in ("id", "mime_type", "upload_id"):
                _at_most(len(getattr(part, name)), LONGEST_ID, f"{where}.{name}", "TOO_LONG")
            if part.WhichOneof("source") != "upload_id":
                continue
            upload = self.uploads.find(part.upload_id)
            if upload is None:
                text = "there is no such upload here (any more): uploads expire, and stay on one "
                raise Refused(bad_input(f"{where}.upload_id", "UNKNOWN_UPLOAD", f"{text}server"))
            named[index] = upload
        return named

    def _check_size(
        self, row: bytes, named: dict[int, Upload], field: str, of_request: UploadsNamed
    ) -> None:
        """Check the size of the row with its uploads, and that of the uploads of the whole
        request."""
        more = sum(len(upload.data) for upload in named.values())
        _at_most(len(row) + more, self.config.ahead_bytes, field, "EXAMPLE_TOO_LARGE")
        in_all, limit = of_request.taken + more, self.config.queue_bytes
        if in_all > limit:
            text = f"the uploads named up to here have {in_all} bytes; the limit of a request is "
            raise Refused(bad_input(field, "REQUEST_TOO_LARGE", f"{text}{limit}"))
        of_request.taken = in_all

    def _weigh(self, part: pb.Part, field: str, upload: Upload | None) -> tuple[str, int]:
        """Modality and estimated tokens of one part. Raises Refused for errors that sizes can show.
        A part that names an upload gets the upload's type and hash where it gives none."""
        if upload is not None:
            if part.sha256:
                _check_claim(part.sha256, lambda: upload.sha256, field)
            part.sha256 = upload.sha256
            part.mime_type = part.mime_type or upload.mime
            head = upload.data[:HEAD_BYTES]
            modality = modality_of(part, head)
            return modality, tokens_of(modality, len(upload.data), head)
        source = part.WhichOneof("source")
        if source is None:
            text = "a part needs one of text, data and upload_id"
            raise Refused(bad_input(field, "NO_SOURCE", text))
        if source == "text":
            content = part.text.encode()
            if part.modality in (pb.IMAGE, pb.AUDIO):
                text = "a picture or a sound goes into data (or an upload), not into text"
                raise Refused(bad_input(f"{field}.text", "WRONG_SOURCE", text))
            limit = most(self.config, self.facts(), "max_text_bytes")
            _at_most(len(content), limit, f"{field}.text", "TEXT_TOO_LONG")
        else:
            content = part.data
        if part.sha256:
            _check_claim(part.sha256, lambda: hashlib.sha256(content).hexdigest(), field)
        head = content[:HEAD_BYTES]
        modality = modality_of(part, head)
        return modality, tokens_of(modality, len(content), head)

    def _slices(self, example: pb.Example, field: str) -> dict[str, str]:
        limit = self.config.max_slices
        _at_most(len(example.slices), limit, field, "TOO_MANY_SLICES", "slices")
        for name, value in example.slices.items():
            longest = max(len(name), len(value))
            _at_most(longest, LONGEST_ID, f"{field}[{name[:32]}]", "TOO_LONG", "characters")
        found = dict(example.slices)
        size = sum(len(name.encode()) + len(value.encode()) for name, value in found.items())
        _at_most(size, SLICES_BYTES, field, "SLICES_TOO_LONG")
        return found

    def _labels(self, raw: Sequence[bytes]) -> tuple[str, ...]:
        _at_most(len(raw), self.config.max_labels, "labels", "TOO_MANY_LABELS", "labels")
        labels = tuple(text_of(label, f"labels[{index}]") for index, label in enumerate(raw))
        before: set[str] = set()
        for index, label in enumerate(labels):
            limit = self.config.max_label_chars
            _at_most(len(label), limit, f"labels[{index}]", "LABEL_TOO_LONG", "characters")
            if not label.strip():
                raise Refused(bad_input(f"labels[{index}]", "EMPTY", "a label must not be blank"))
            if label in before:
                text = f"the label {label!r} is given twice"
                raise Refused(bad_input(f"labels[{index}]", "DUPLICATE_LABEL", text))
            before.add(label)
        return labels

    def _terms(self, request: Any, caller: Caller) -> Terms:
        """The terms that PredictRequest and GenerateRequest have in common."""
        if request.priority not in PRIORITIES:
            text = f"there is no priority {request.priority}"
            raise Refused(bad_input("priority", "UNKNOWN_PRIORITY", text))
        if request.on_truncation not in pb.OnTruncation.values():
            text = f"there is no choice {request.on_truncation}"
            raise Refused(bad_input("on_truncation", "UNKNOWN_ON_TRUNCATION", text))
        field, limit = "expected_stamps", self.config.max_expected_stamps
        _at_most(len(request.expected_stamps), limit, field, "TOO_MANY_STAMPS", "stamps")
        remaining_s = caller.remaining_s
        if remaining_s is None:
            remaining_s = self.config.default_deadline_s or None
        return Terms(
            priority=PRIORITIES[request.priority],
            deadline=None if remaining_s is None else self.clock() + remaining_s,
            session=_short_text(request.session_id, "session_id"),
            expected_stamps=frozenset(_stamps(request.expected_stamps)),
            keep_payload=not request.no_payload_sample,
            client=caller.client,
            trace_parent=caller.trace_parent,
            refuse_truncation=request.on_truncation == pb.REFUSE,
        )

    def _call(
        self, request: Any, rows: tuple[bytes, ...], terms: Terms, top_k: int
    ) -> ParsedRequest:
        request_id = _short_text(request.request_id, "request_id") or self.new_id()
        return ParsedRequest(request_id, rows, replace(terms, request=request_id), top_k)


def _stamps(raw: Sequence[bytes]) -> Iterator[str]:
    """The pinned stamps. Only full stamps are accepted: a short form could match more than one."""
    for index, stamp in enumerate(raw):
        text = text_of(stamp, f"expected_stamps[{index}]")
        if not STAMP.fullmatch(text):
            message = "a stamp is compared on all of its 64 lower-case hex digits"
            raise Refused(bad_input(f"expected_stamps[{index}]", "STAMP_MALFORMED", message))
        yield text


def _check_claim(claim: str, digest: Callable[[], str], field: str) -> None:
    """Compare a claimed digest; `digest` is called only if there is a claim."""
    if not SHA256.fullmatch(claim):
        text = "sha256 must be 64 lower-case hex digits"
        raise Refused(bad_input(f"{field}.sha256", "SHA256_MALFORMED", text))
    if (found := digest()) != claim:
        text = f"the content hashes to {found}, the part claims {claim}"
        raise Refused(bad_input(f"{field}.sha256", "SHA256_MISMATCH", text))


def _short_text(raw: bytes, field: str) -> str:
    _at_most(len(raw), LONGEST_ID, field, "TOO_LONG")
    return text_of(raw, field)


def _at_most(found: int, limit: int, field: str, reason: str, unit: str = "bytes") -> None:
    if found > limit:
        remedy = "shorten it" if unit in ("bytes", "characters") else "send fewer"
        text = f"{found} {unit}; the limit is {limit}; {remedy}"
        raise Refused(bad_input(field, reason, text))
