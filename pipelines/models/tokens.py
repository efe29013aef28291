"""Text and media placeholders to token ids.

Special tokens come only from the template. User text is encoded by a second tokenizer without them,
so that a text can neither open a turn nor pretend to be an image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from pipelines.bundle import parameters
from pipelines.errors import BadInput, BundleRefused
from pipelines.media.normalise import nfc
from pipelines.types import MediaModality

Placeholder = tuple[MediaModality, int]  # the modality, and how many tokens it takes


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Every parameter that can change a token. `max_text_tokens` counts the user's text alone,
    `max_tokens` the whole prompt; text is shortened to fit both, media never."""

    normalise: str  # Unicode form
    newlines: str  # CRLF and CR become LF
    control: str  # control characters but tab and LF are dropped
    strip: bool  # white space around each text part
    max_text_tokens: int
    max_tokens: int
    truncate: str  # which end of the text is kept

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises BundleRefused("config", ...)."""
        config = parameters.read(cls, values, "text")
        parameters.only("text.normalise", config.normalise, ("NFC",))
        parameters.only("text.newlines", config.newlines, ("LF",))
        parameters.only("text.control", config.control, ("drop",))
        parameters.only("text.truncate", config.truncate, ("keep-start", "keep-end"))
        return config


def _config(max_text_tokens: int, max_tokens: int) -> TextConfig:
    return TextConfig(
        normalise="NFC",
        newlines="LF",
        control="drop",
        strip=True,
        max_text_tokens=max_text_tokens,
        max_tokens=max_tokens,
        truncate="keep-start",
    )


DEFAULT = _config(max_text_tokens=256, max_tokens=1536)
QWEN = _config(max_text_tokens=8192, max_tokens=16384)


@dataclass(frozen=True, slots=True)
class Turn:
    """The text before and after the parts of a request. `{labels}` in either is replaced by the
    request's labels, comma-separated, encoded as plain text."""

    prefix: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Template:
    """`image` and `audio` are (begin, placeholder, end); `between` joins neighbouring text parts;
    `end` closes an answer."""

    image: tuple[str, str, str]
    audio: tuple[str, str, str]
    between: str
    end: str
    classify: Turn
    embed: Turn
    generate: Turn

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Raises BundleRefused("config", ...)."""
        return parameters.read(cls, values, "template")


def _template(system: str, ask_labels: str) -> Template:
    prefix = f"{system}<|im_start|>user\n"
    suffix = "<|im_end|>\n<|im_start|>assistant\n"
    return Template(
        image=("<|vision_bos|>", "<|IMAGE|>", "<|vision_eos|>"),
        audio=("<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"),
        between="\n",
        end="<|im_end|>",
        classify=Turn(prefix, ask_labels + suffix),
        embed=Turn(prefix, suffix),
        generate=Turn(prefix, suffix),
    )


_ASK_LABELS = "\nWhich of these fits best: {labels}? Answer with one of them and nothing else."
DEFAULT_TEMPLATE = _template("", "")
QWEN_TEMPLATE = _template(
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
    _ASK_LABELS,
)
# Turns and marks follow Google's page about prompt formatting for Gemma 4.
_GEMMA_SUFFIX = "<turn|>\n<|turn>model\n"
GEMMA_TEMPLATE = Template(
    image=("<|image>", "<|image|>", "<image|>"),
    audio=("<|audio>", "<|audio|>", "<audio|>"),
    between="\n",
    end="<turn|>",
    classify=Turn("<bos><|turn>user\n", _ASK_LABELS + _GEMMA_SUFFIX),
    embed=Turn("<bos><|turn>user\n", _GEMMA_SUFFIX),
    generate=Turn("<bos><|turn>user\n", _GEMMA_SUFFIX),
)


@dataclass(frozen=True, slots=True)
class Encoded:
    """A prompt. `input_ids` int64 [T] repeats each media placeholder once per embedding.
    `text_tokens` counts the tokens of the user's text after truncation, `unknown` how many of them
    are the unknown token; `text_parts` has (kept, sent) tokens of each text part."""

    input_ids: NDArray[np.int64]
    text_tokens: int
    unknown: int
    truncated: bool
    text_parts: tuple[tuple[int, int], ...] = ()


class PromptTokenizer:
    """One bundle's tokenizer and template. Immutable after construction, so shared by threads."""

    def __init__(
        self,
        tokenizer: Path | bytes,
        config: TextConfig,
        template: Template,
        plain_added: bool = False,
    ) -> None:
        """`tokenizer` is the tokenizer directory, or the content of its tokenizer.json;
        with `plain_added`, added tokens that the file does not mark as special are ordinary text.

        Raises BundleRefused("config", ...) when the tokenizer lacks a token of the template.
        """
        source = tokenizer if isinstance(tokenizer, bytes) else _read(tokenizer)
        self.config = config
        self.template = template
        # First, because it refuses files that cannot be read.
        self._plain = _without_specials(source, _marks(template) if plain_added else None)
        self._trusted = _built(source.decode())
        # Truncation follows the rule here, not the file's.
        for each in (self._plain, self._trusted):
            each.no_truncation()
            each.no_padding()
        self.image_id = self._special(template.image[1])
        self.audio_id = self._special(template.audio[1])
        self.eos_ids = (self._special(template.end),)
        self._marks = {
            kind: (self._special(begin), self._special(hole), self._special(end))
            for kind, (begin, hole, end) in (("image", template.image), ("audio", template.audio))
        }
        unknown = self._plain.model.unk_token if hasattr(self._plain.model, "unk_token") else None
        self._unknown = self._plain.token_to_id(unknown) if unknown else None
        self._between = self._plain_ids(template.between)

    def encode(
        self,
        parts: Sequence[str | Placeholder],
        task: str,
        labels: Sequence[str] = (),
        field: str = "parts",
    ) -> Encoded:
        """The prompt of one request, its parts in the order given.

        Raises BadInput under `field` when the media alone do not fit `max_tokens`.
        """
        turn: Turn = getattr(self.template, task)
        pieces = [self._media(part) if isinstance(part, tuple) else part for part in parts]
        head, tail = self._framing(turn.prefix, labels), self._framing(turn.suffix, labels)
        joints = sum(isinstance(a, str) and isinstance(b, str) for a, b in _pairs(pieces))
        fixed = len(head) + len(tail) + joints * len(self._between)
        fixed += sum(len(piece) for piece in pieces if not isinstance(piece, str))
        if fixed > self.config.max_tokens:
            raise BadInput(
                field,
                "TOO_MANY_TOKENS",
                f"images, sounds, labels and the template take {fixed} tokens of a prompt; the "
                f"limit is {self.config.max_tokens}. Send fewer or shorter ones.",
            )
        texts = [self._plain_ids(self.normalise(p)) for p in pieces if isinstance(p, str)]
        room = min(self.config.max_text_tokens, self.config.max_tokens - fixed)
        kept = self._shorten(texts, room)
        ids = [*head, *self._weave(pieces, kept), *tail]
        flat = [token for text in kept for token in text]
        return Encoded(
            input_ids=np.asarray(ids, dtype=np.int64),
            text_tokens=len(flat),
            unknown=flat.count(self._unknown) if self._unknown is not None else 0,
            truncated=len(flat) < sum(map(len, texts)),
            text_parts=tuple(zip(map(len, kept), map(len, texts), strict=True)),
        )

    def label_ids(self, label: str) -> tuple[int, ...]:
        """The tokens that the model must write to mean `label`, with the end token."""
        return (*self._plain_ids(self.normalise(label)), *self.eos_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these tokens, without special tokens; an unfinished character becomes
        U+FFFD."""
        return str(self._trusted.decode(list(ids), skip_special_tokens=True))

    def normalise(self, text: str) -> str:
        text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
        text = nfc(text)
        return text.strip() if self.config.strip else text

    def _weave(self, pieces: Sequence[str | list[int]], texts: Sequence[list[int]]) -> list[int]:
        ids: list[int] = []
        remaining = iter(texts)
        after_text = False
        for piece in pieces:
            if isinstance(piece, str):
                ids += [*self._between, *next(remaining)] if after_text else next(remaining)
            else:
                ids += piece
            after_text = isinstance(piece, str)
        return ids

    def _shorten(self, texts: Sequence[list[int]], room: int) -> list[list[int]]:
        """Cuts the texts to `room` tokens. Earlier parts are filled first; with keep-end, later
        parts are."""
        from_end = self.config.truncate == "keep-end"
        kept = []
        for ids in reversed(texts) if from_end else texts:
            take = min(len(ids), room)
            kept.append(ids[len(ids) - take :] if from_end else ids[:take])
            room -= take
        return kept[::-1] if from_end else kept

    def _media(self, part: Placeholder) -> list[int]:
        begin, hole, end = self._marks[part[0]]
        return [begin, *[hole] * part[1], end]

    def _framing(self, text: str, labels: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for i, piece in enumerate(text.split("{labels}")):
            if i:
                ids += self._plain_ids(", ".join(self.normalise(label) for label in labels))
            ids += self._trusted.encode(piece, add_special_tokens=False).ids
        return ids

    def _plain_ids(self, text: str) -> list[int]:
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _special(self, token: str) -> int:
        found = self._trusted.token_to_id(token)
        if found is None:
            raise BundleRefused("config", f"the template uses {token!r}, which the tokenizer lacks")
        return int(found)


# C0 and C1 controls except tab and line feed, the byte-order mark, and surrogates.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff\ud800-\udfff]")


def _pairs(pieces: Sequence[str | list[int]]) -> list[tuple[str | list[int], str | list[int]]]:
    return list(zip(pieces, pieces[1:], strict=False))


def _read(directory: Path) -> bytes:
    return (directory / "tokenizer.json").read_bytes()


def _marks(template: Template) -> frozenset[str]:
    return frozenset((*template.image, *template.audio, template.end))


def _without_specials(source: bytes, marks: frozenset[str] | None) -> Tokenizer:
    """The same tokenizer without its added tokens; with `marks`, only without those that are
    special or marks.

    They are removed from the vocabulary too, because some models look whole words up in it.
    """
    try:
        parsed = json.loads(source)
        model = parsed["model"]
        kind = model.get("type")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleRefused("config", f"tokenizer.json is malformed: {error!r}") from error
    if kind != "BPE":
        raise BundleRefused("config", f"tokenizer model {kind!r}; BPE is implemented")
    try:
        return _built(_stripped(parsed, model, marks))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        message = f"tokenizer.json: added_tokens or model.vocab is malformed: {error!r}"
        raise BundleRefused("config", message) from error


def _stripped(parsed: dict[str, Any], model: dict[str, Any], marks: frozenset[str] | None) -> str:
    kept = [
        token
        for token in parsed.get("added_tokens", [])
        if marks is not None and not token["special"] and token["content"] not in marks
    ]
    added = {token["content"] for token in parsed.get("added_tokens", [])} - {
        model.get("unk_token"),
        *(token["content"] for token in kept),
    }
    model["vocab"] = {word: i for word, i in model["vocab"].items() if word not in added}
    # In the vocabulary they keep their ids; otherwise new ids would be assigned.
    model["vocab"] |= {token["content"]: token["id"] for token in kept}
    parsed["added_tokens"] = kept
    parsed["post_processor"] = None
    return json.dumps(parsed)


def _built(source: str) -> Tokenizer:
    """The tokenizer in `source`. Raises BundleRefused("config"). The library raises plain Exception
    for a file it cannot read, and its own BaseException when its Rust code panics."""
    try:
        return Tokenizer.from_str(source)
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        message = f"tokenizer.json cannot be used: {str(error)[:200]}"
        raise BundleRefused("config", message) from error
