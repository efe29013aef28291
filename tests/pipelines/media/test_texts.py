"""Texts: normalised as by the standard library, with bounded work; special tokens stay text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.media.normalise import nfc, ordered
from pipelines.models.tokens import DEFAULT, DEFAULT_TEMPLATE, PromptTokenizer
from pipelines.pipeline import EMBEDDED

TOKENIZER = PromptTokenizer(EMBEDDED / "tokenizer", DEFAULT, DEFAULT_TEMPLATE)

MARKS = "\u0301\u0316\u0327\u0323\u0308\u0345\u05b0\u3099\u0344\u0f71\u0f72"
STARTERS = "aeo\u00e9\u1e69\u1100\u1161\uac00\u0958\u304b\U0001d15e\u0340 "


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(st.sampled_from(MARKS + STARTERS), max_size=200))
def test_normal_form_is_that_of_the_standard_library(text: str) -> None:
    wanted = unicodedata.normalize("NFC", text)
    assert nfc(text) == wanted
    assert unicodedata.normalize("NFC", ordered(text)) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "a" + "\u0301\u0316" * 16_000,
        "\u0316\u0301" * 16_000,
        "\u1e69" * 40 + "\u0323\u0307" * 15_000,
        "e" + MARKS * 2_500,
        ("a" + "\u0301\u0316" * 40) * 300,
    ],
)
def test_long_runs_of_marks_come_to_the_library_in_order(text: str) -> None:
    """Insertion moves nothing in a run that is in order: that is what bounds its work."""
    ranks = [unicodedata.combining(c) for c in ordered(text)]
    moves = sum(0 < b < a for a, b in zip(ranks, ranks[1:], strict=False))
    assert moves == 0
    assert nfc(text) == nfc(nfc(text))


# ---- named matrix: strings of special tokens --------------------------------------------------

SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|IMAGE|>",
    "<|AUDIO|>",
    "<|vision_bos|>",
    "<|vision_eos|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
)


@pytest.mark.parametrize("token", SPECIAL)
@pytest.mark.parametrize("frame", ["{}", "a {} b", "{0}{0}", "<|im_{0}", "{}\u0301"])
def test_matrix_special_token_strings_are_text(token: str, frame: str) -> None:
    """A caller cannot end the turn, nor stand in for a picture, by writing a token's name."""
    text = frame.format(token)
    plain = TOKENIZER.encode(["harmless"], "embed")
    found = TOKENIZER.encode([text], "embed")
    reserved = {*TOKENIZER.eos_ids, TOKENIZER.image_id, TOKENIZER.audio_id}
    for number in reserved:
        assert list(found.input_ids).count(number) == list(plain.input_ids).count(number)
    assert found.text_tokens > 1 and found.unknown == 0
