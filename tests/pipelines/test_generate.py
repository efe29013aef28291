import random
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer

from pipelines.collate import collate
from pipelines.models.generate import Generation, IncrementalDecoder, Writing
from pipelines.models.qwen.backbone import QwenOmniBackbone
from pipelines.types import Prepared
from tests.support.tinybundle import thinker_config, thinker_tensors, tokenizer_json
from tests.support.tinyrows import five_rows, reference_inputs, reference_model, tiny_backbone

END = 258
TOKENIZER = Tokenizer.from_str(tokenizer_json().decode())


def decode(ids: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(ids), skip_special_tokens=True))


@pytest.fixture(scope="module")
def backbone() -> QwenOmniBackbone:
    return tiny_backbone()


def begin(writing: Writing, rows: list[Prepared], limit: int) -> list[Generation]:
    geometry = tiny_backbone().geometry
    return writing.start(collate(rows, lambda _row: (), geometry), [limit] * len(rows))


def alone(backbone: QwenOmniBackbone, made: Prepared, limit: int) -> list[int]:
    writing = Writing(backbone, decode, [END])
    (text,) = begin(writing, [made], limit)
    while writing.live:
        writing.step()
    return text.tokens


def test_a_text_equals_the_librarys_greedy_generation(backbone: QwenOmniBackbone) -> None:
    reference = reference_model(thinker_config(), thinker_tensors())
    for made in five_rows():
        inputs = reference_inputs(made)
        expected = reference.generate(
            **inputs, max_new_tokens=12, do_sample=False, eos_token_id=END, pad_token_id=0
        )[0, len(made.input_ids) :].tolist()
        assert alone(backbone, made, 12) == [token for token in expected if token != END]


def test_a_text_is_the_same_in_any_company(backbone: QwenOmniBackbone) -> None:
    rows = five_rows()
    expected = [alone(backbone, made, 10) for made in rows]
    dice = random.Random(7)
    for _ in range(4):
        writing = Writing(backbone, decode, [END])
        waiting = dice.sample(range(5), 5)
        begun: dict[int, Generation] = {}
        while waiting or writing.live:
            joining = [waiting.pop() for _ in range(min(len(waiting), dice.randint(0, 2)))]
            if joining:
                texts = begin(writing, [rows[n] for n in joining], 10)
                begun |= dict(zip(joining, texts, strict=True))
            writing.step()
        assert [begun[n].tokens for n in range(5)] == expected


def test_a_cancelled_text_stops_and_the_others_go_on(backbone: QwenOmniBackbone) -> None:
    rows = five_rows()
    writing = Writing(backbone, decode, [])
    texts = begin(writing, rows[:3], 9)
    writing.step()
    texts[0].cancel()
    while writing.live:
        writing.step()
    assert [text.ending for text in texts] == ["cancelled", "length", "length"]
    assert [len(text.tokens) for text in texts] == [2, 9, 9]
    ours = Writing(backbone, decode, [])
    (expected,) = begin(ours, [rows[2]], 9)
    while ours.live:
        ours.step()
    assert texts[2].tokens == expected.tokens


def test_an_end_token_ends_a_text_and_is_not_part_of_it(backbone: QwenOmniBackbone) -> None:
    made = five_rows()[0]
    tokens = alone(backbone, made, 6)
    # The third token, wherever it comes first, now means the end.
    first = tokens.index(tokens[2])
    writing = Writing(backbone, decode, [tokens[2]])
    (text,) = begin(writing, [made], 6)
    while writing.live:
        writing.step()
    assert text.tokens == tokens[:first] and text.ending == "end"
    assert 0.0 < text.confidence <= 1.0


def test_what_is_taken_adds_up_to_the_text(backbone: QwenOmniBackbone) -> None:
    writing = Writing(backbone, decode, [END])
    texts = begin(writing, five_rows(), 12)
    taken = [text.take() for text in texts]
    while writing.live:
        writing.step()
        for number, text in enumerate(texts):
            taken[number] += text.take()
    assert taken == [text.text for text in texts]
    assert taken == [decode(text.tokens) for text in texts]


def test_no_lines_are_kept_once_nothing_is_written(backbone: QwenOmniBackbone) -> None:
    writing = Writing(backbone, decode, [END])
    begin(writing, five_rows(), 2)
    while writing.live:
        writing.step()
    assert writing.step() == []


@pytest.mark.parametrize(
    "text", ["plain", "Größe 5 µm", "日本語の文", "a👍🏽b", "\N{REPLACEMENT CHARACTER}x"]
)
def test_pieces_are_whole_characters_that_add_up(text: str) -> None:
    pieces = IncrementalDecoder(decode)
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    emitted = [pieces.push(token) for token in ids]
    emitted.append(pieces.flush())
    assert "".join(emitted) == text
    if "\N{REPLACEMENT CHARACTER}" not in text:
        assert "\N{REPLACEMENT CHARACTER}" not in "".join(emitted[:-1])


def test_bytes_that_are_no_text_add_up_to_what_decoding_at_once_gives() -> None:
    dice = random.Random(3)
    for _ in range(50):
        ids = [dice.randrange(256) for _ in range(dice.randint(1, 12))]
        pieces = IncrementalDecoder(decode)
        emitted = "".join(pieces.push(token) for token in ids) + pieces.flush()
        assert emitted == decode(ids)


def test_writing_keeps_no_gradients(backbone: QwenOmniBackbone) -> None:
    trainable = QwenOmniBackbone.fresh(thinker_config(), seed=0)
    writing = Writing(trainable, decode, [END])
    begin(writing, five_rows()[:2], 3)
    while writing.live:
        writing.step()
    assert all(p.grad is None for p in trainable.model.parameters())
    assert torch.is_grad_enabled()
