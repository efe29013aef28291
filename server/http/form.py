"""Parses multipart/form-data as `curl -F` and HTML forms send it: fields in order, contents as
views into the body."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.http.refusals import HttpRefused

MOST_FIELDS = 256
MEDIA_TYPE = b"multipart/form-data"

# It logs each malformed body, which concerns only its sender.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


@dataclass(slots=True)
class FormField:
    """`content` is a view of the body; `file` is the file name that the sender gave."""

    name: str
    content: memoryview
    file: str = ""

    def text(self) -> str:
        """The content as text. Raises HttpRefused unless it is UTF-8."""
        try:
            return str(self.content, "utf-8")
        except UnicodeDecodeError as error:
            text = f"byte {error.start} is not valid UTF-8"
            raise HttpRefused(400, "TEXT_NOT_UTF8", text, self.name) from None


class _Reader:
    """Collects the parser's callbacks."""

    def __init__(self, body: bytes) -> None:
        self.fields: list[FormField] = []
        self.ended = False
        self._view = memoryview(body)
        self._body = body
        self._name, self._value = b"", b""
        self._disposition = b""
        self._pieces: list[tuple[bytes, int, int]] = []

    def on_part_begin(self) -> None:
        if len(self.fields) >= MOST_FIELDS:
            raise _too_many()
        self._disposition, self._pieces = b"", []

    def on_header_begin(self) -> None:
        self._name, self._value = b"", b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._pieces.append((data, start, end))

    def on_part_end(self) -> None:
        _, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"").decode("utf-8", "replace")
        if not name:
            raise HttpRefused(400, "FORM_MALFORMED", "a field of the form has no name")
        file = options.get(b"filename", b"").decode("utf-8", "replace")
        self.fields.append(FormField(name, self._content(), file))

    def on_end(self) -> None:
        self.ended = True

    def _content(self) -> memoryview:
        if len(self._pieces) == 1 and self._pieces[0][0] is self._body:
            _, start, end = self._pieces[0]
            return self._view[start:end]
        return memoryview(b"".join(data[start:end] for data, start, end in self._pieces))

    def callbacks(self) -> dict[str, object]:
        names = (name for name in dir(self) if name.startswith("on_"))
        return {name: getattr(self, name) for name in names}


def _too_many() -> HttpRefused:
    return HttpRefused(400, "TOO_MANY_FIELDS", f"the limit is {MOST_FIELDS} fields")


def fields_of(body: bytes, content_type: bytes) -> Iterator[FormField]:
    """The fields of a form in order. Raises HttpRefused for a body that is not a form."""
    kind, options = parse_options_header(content_type.decode("latin-1"))
    boundary = options.get(b"boundary", b"")
    if kind != MEDIA_TYPE or not boundary:
        text = f"the body must be {MEDIA_TYPE.decode()} with a boundary, as curl -F sends it"
        raise HttpRefused(415, "NOT_A_FORM", text)
    # Each place that may be a boundary costs a microsecond, whether it is one or not.
    if body.count(b"\r\n--" + boundary) > MOST_FIELDS + 1:
        raise _too_many()
    reader = _Reader(body)
    try:
        MultipartParser(boundary, reader.callbacks()).write(body)  # type: ignore[arg-type]
    except FormParserError as error:
        raise HttpRefused(400, "FORM_MALFORMED", f"the form cannot be read: {error}") from None
    if not reader.ended:
        raise HttpRefused(400, "FORM_MALFORMED", "the form ends before its last boundary")
    yield from reader.fields
