import random
from collections.abc import Sequence

import pytest
import torch
from tokenizers import Tokenizer

from pipelines.collate import collate
from pipelines.models.generate import Writing
from pipelines.models.generation import Generation, IncrementalDecoder
from pipelines.models.kv_cache import Lines, NoRoom
from pipelines.models.qwen.backbone import QwenOmniBackbone
from pipelines.types import Prepared
from tests.support.opcount import OpCount
from tests.support.tinybundle import thinker_config, thinker_tensors, tokenizer_json
from tests.support.tinyrows import (
    five_rows,
    reference_inputs,
    reference_model,
    row,
    tiny_backbone,
)

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


def takes(writing: Writing, rows: list[Prepared], limit: int) -> bool:
    return writing.takes([row.tokens for row in rows], [limit] * len(rows))


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


@pytest.mark.parametrize(("behind", "piece"), [(0, 1024), (1, 1024), (0, 9), (1, 40)])
def test_a_text_is_the_same_in_any_company(
    backbone: QwenOmniBackbone, behind: int, piece: int
) -> None:
    rows = five_rows()
    expected = [alone(backbone, made, 10) for made in rows]
    dice = random.Random(7)
    for _ in range(4):
        writing = Writing(backbone, decode, [END], behind, piece)
        waiting = dice.sample(range(5), 5)
        begun: dict[int, Generation] = {}
        while waiting or writing.live:
            joining = waiting[-dice.randint(1, 2) :] if dice.random() < 0.7 else []
            if joining and takes(writing, [rows[n] for n in joining], 10):
                del waiting[-len(joining) :]
                texts = begin(writing, [rows[n] for n in joining], 10)
                begun |= dict(zip(joining, texts, strict=True))
            writing.step()
        assert [begun[n].tokens for n in range(5)] == expected


@pytest.mark.parametrize("asked", [False, True], ids=["alone", "another waits"])
def test_a_cancelled_text_stops_and_the_others_go_on(
    backbone: QwenOmniBackbone, asked: bool
) -> None:
    rows = five_rows()
    writing = Writing(backbone, decode, [])
    texts = begin(writing, rows[:3], 9)
    writing.step()
    texts[0].cancel()
    if asked:  # its line is taken by the last one, before the next step
        assert takes(writing, rows[3:4], 9)
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


def text_row(length: int, seed: int = 0) -> Prepared:
    dice = random.Random(seed)
    return row(["".join(dice.choice("abcdefgh ") for _ in range(length - 2))], seed, id=str(seed))


def deep(layers: int) -> QwenOmniBackbone:
    config = thinker_config()
    config["text_config"] |= {"num_hidden_layers": layers}
    return tiny_backbone(config)


def test_starting_ending_and_growing_launch_the_same_for_any_layers_and_rows() -> None:
    """Beyond the forward itself, whose launches do not depend on rows either."""
    moves, growths, starts = set[int](), set[int](), set[int]()
    steps: dict[int, set[int]] = {}
    for layers in (2, 5):
        for rows in (1, 4):
            backbone = deep(layers)
            lines = Lines(backbone.cached_heads, backbone.device, backbone.dtype)
            lines.reserve(rows, 64, 0)
            with OpCount() as growing:
                lines.reserve(2 * rows, 640, rows)
            with OpCount() as moving:
                lines.move(rows, 0, 50)
            writing = Writing(backbone, decode, [], behind=1)
            texts = [text_row(20, seed) for seed in range(rows)]
            batch = collate(texts, lambda _row: (), backbone.geometry)
            with torch.inference_mode(), OpCount() as reading:
                prompt = backbone.columns(batch)
                backbone.read(prompt, 0, 20, lines.reading(0, rows, 0, 20))
            with OpCount() as starting:
                writing.start(batch, [9] * rows)
            with OpCount() as stepping:
                writing.step()
            assert starting.waits == stepping.waits == 0
            assert stepping.copies == starting.copies == 1
            moves.add(moving.launches)
            growths.add(growing.launches)
            starts.add(starting.launches - reading.launches)
            steps.setdefault(layers, set()).add(stepping.launches)
    assert moves == {1} and len(growths) == len(starts) == 1
    assert all(len(launches) == 1 for launches in steps.values())


def test_texts_go_on_while_a_long_prompt_is_read_in_pieces(backbone: QwenOmniBackbone) -> None:
    writing = Writing(backbone, decode, [], piece=16)
    (early,) = begin(writing, [text_row(10)], 40)
    expected = alone(backbone, text_row(100, 1), 3)
    (late,) = begin(writing, [text_row(100, 1)], 3)
    assert not takes(writing, [text_row(5)], 3)  # one group at a time
    steps = 0
    while not late.tokens:
        known = len(early.tokens)
        writing.step()
        steps += 1
        assert len(early.tokens) == known + 1
    assert steps == 6  # of 16 tokens each, after the one that starting read
    while writing.live:
        writing.step()
    assert late.tokens == expected


def test_a_text_waits_for_memory_and_one_that_never_fits_is_refused(
    backbone: QwenOmniBackbone,
) -> None:
    token_bytes = Lines(backbone.cached_heads, backbone.device, backbone.dtype).token_bytes
    assert token_bytes == 2 * 2 * 1 * 16 * 4  # keys and values, layers, heads, size, float32
    writing = Writing(backbone, decode, [], most_bytes=3 * 64 * token_bytes)
    begin(writing, [text_row(20)], 4)
    assert writing.cache_bytes == 64 * token_bytes
    assert takes(writing, [text_row(20)], 40)  # two lines beside the one that is copied
    assert not takes(writing, [text_row(20)], 100)  # longer lines would not fit beside it
    while writing.live:
        writing.step()
    assert writing.cache_bytes == 0
    assert takes(writing, [text_row(20)], 100)
    with pytest.raises(NoRoom, match=r"1 texts of up to 220 tokens need .* set aside for texts"):
        begin(writing, [text_row(20)], 200)


def test_an_end_that_is_noticed_late_leaves_nothing_behind(backbone: QwenOmniBackbone) -> None:
    made = five_rows()[0]
    tokens = alone(backbone, made, 6)
    end = tokens[2]
    writing = Writing(backbone, decode, [end], behind=1)
    (text,) = begin(writing, [made], 6)
    assert text.tokens == []  # the first token is still on its way
    while writing.live:
        writing.step()
    assert text.tokens == tokens[: tokens.index(end)] and text.ending == "end"


def test_prompts_that_nobody_waits_for_do_not_hold_up_the_next(backbone: QwenOmniBackbone) -> None:
    writing = Writing(backbone, decode, [], piece=8)
    (gone,) = begin(writing, [text_row(60)], 5)
    gone.cancel()
    assert takes(writing, [text_row(20, 1)], 3)
    (text,) = begin(writing, [text_row(20, 1)], 3)
    while writing.live:
        writing.step()
    calm = Writing(backbone, decode, [])
    (expected,) = begin(calm, [text_row(20, 1)], 3)
    while calm.live:
        calm.step()
    assert text.tokens == expected.tokens and len(text.tokens) == 3 and gone.tokens == []
