from typing import Any

import numpy as np
import pytest
import torch
from transformers import vision_utils
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as library

from pipelines.batch import Batch, Segments, mapped
from pipelines.collate import collate
from pipelines.models.geometry import Geometry, patch_positions, prompt_positions, windows
from pipelines.models.label_tree import groups, tree
from pipelines.models.qwen import thinker
from tests.support.tinybundle import thinker_config
from tests.support.tinyrows import five_rows, reference_inputs, row, windowed_config

LABELS = ((1, 2, 9), (1, 3, 4, 9), (5, 9))


def geometry(config: dict[str, Any]) -> Geometry:
    return Geometry.of(thinker.read_config(config))


def batch_of(rows: list[Any], labels: Any = LABELS, **more: Any) -> Batch:
    return collate(rows, lambda _row: labels, geometry(thinker_config()), **more)


@pytest.mark.parametrize("number", range(5))
def test_positions_equal_the_librarys(number: int) -> None:
    made = five_rows()[number]
    inputs = reference_inputs(made)
    model = library.Qwen2_5OmniThinkerForConditionalGeneration(
        thinker.read_config(thinker_config())
    )
    owner: Any = model.model if hasattr(model.model, "get_rope_index") else model
    frames = inputs.get("feature_attention_mask")
    expected, _ = owner.get_rope_index(
        inputs["input_ids"],
        inputs.get("image_grid_thw"),
        None,
        inputs["attention_mask"],
        False,
        None if frames is None else frames.sum(-1),
        None,
    )
    ours = prompt_positions(made.input_ids, made.image_grid, geometry(thinker_config()))
    assert np.array_equal(ours, expected[:, 0].numpy())


@pytest.mark.parametrize("grid", [(1, 6, 8), (1, 12, 18), (2, 4, 4), (1, 2, 2)])
def test_vision_indices_equal_the_librarys(grid: tuple[int, int, int]) -> None:
    tensor = torch.tensor([grid])
    positions = vision_utils.get_vision_position_ids(tensor, 2)
    assert np.array_equal(patch_positions(grid, 2), positions.numpy())
    order, bounds = vision_utils.get_vision_window_index(tensor, 2, 112, 14)
    ours, lengths = windows(grid, 2, geometry(windowed_config()).window)
    assert np.array_equal(ours, order.numpy())
    assert np.array_equal(lengths * 4, np.diff(bounds.numpy()))


def test_audio_indices_equal_the_librarys() -> None:
    sounds = batch_of([row([450, "x", 77]), row([200]), row([401])]).sounds
    assert sounds is not None
    frames = torch.tensor([450, 77, 200, 401])
    mels = torch.randn(128, int(frames.sum()))
    chunks, chunk_frames = library.chunk_and_pad_features(mels, frames, 100)
    assert torch.equal(sounds.frames, frames)
    assert torch.equal(sounds.chunk_frames, chunk_frames)
    assert sounds.chunks.shape == chunks.shape
    assert torch.equal(sounds.valid, library.get_valid_indices(chunk_frames))
    assert torch.equal(sounds.pool, library.get_pool_indices(frames))
    lengths = library.get_audio_cu_seqlens(chunk_frames).diff()
    assert sounds.full.mask is not None
    assert torch.equal(sounds.full.mask.sum(dim=(1, 2, 3)), lengths)


def test_prompts_are_padded_on_the_right() -> None:
    rows = five_rows()
    batch = batch_of(rows)
    for number, made in enumerate(rows):
        length = int(batch.lengths[number])
        assert length == batch.prompt_lengths[number]
        assert batch.prompt_ids[number, :length].tolist() == made.input_ids.tolist()
        assert (batch.positions[:, number, length:] == 0).all()
        assert int(batch.following[number]) == int(batch.positions[:, number].max()) + 1


def test_media_embeddings_go_to_their_placeholders() -> None:
    rows = five_rows()
    batch = batch_of(rows)
    image_token = geometry(thinker_config()).image_token
    assert batch.images is not None
    places = torch.zeros(batch.rows * batch.columns, dtype=torch.bool)
    places[batch.images.target] = True
    prompts = places.view(batch.rows, batch.columns)[:, : batch.prompt_columns]
    assert torch.equal(prompts, batch.prompt_ids == image_token)
    assert len(batch.images.target) == int(prompts.sum())


def test_media_that_do_not_fit_their_placeholders_are_an_error() -> None:
    made = row([(4, 6), "x"])
    object.__setattr__(made, "image_grid", ((1, 4, 4),))
    with pytest.raises(ValueError, match="image tokens"):
        batch_of([made])


def test_labels_that_begin_alike_share_columns() -> None:
    found = tree(LABELS)
    # (1), (1 2), (1 3), (1 3 4), (5): a shared beginning once, a last token never.
    assert found.tokens.tolist() == [1, 2, 3, 4, 5]
    assert found.depth.tolist() == [1, 2, 2, 3, 1]
    seen = [[int(found.tokens[c]) for c in np.flatnonzero(line)] for line in found.ancestors]
    assert seen == [[1], [1, 2], [1, 3], [1, 3, 4], [5]]
    paths = [[int(found.target[e]) for e in path if e < found.edges] for path in found.paths]
    assert paths == [list(label) for label in LABELS]


@pytest.mark.parametrize("labels", [((1, 2), ()), ((1, 2), (1, 2)), ((1, 2), (1, 2, 3))])
def test_labels_that_cannot_be_scored_are_an_error(labels: Any) -> None:
    with pytest.raises(ValueError, match="label"):
        tree(labels)


def test_groups_keep_every_label_in_order_within_their_columns() -> None:
    labels = tuple((n // 3, 50 + n, 9) for n in range(20))
    found = groups(labels, 5)
    assert max(one.columns for one in found) <= 5
    regained = [
        tuple(int(one.target[e]) for e in path if e < one.edges)
        for one in found
        for path in one.paths
    ]
    assert regained == list(labels)


def test_labels_keep_their_order_over_uneven_groups() -> None:
    sets = {"0": LABELS, "1": (), "2": ((7, 7, 9), (1, 9))}
    rows = [row(["x"], id=id) for id in sets]
    batch = collate(rows, lambda r: sets[r.id], geometry(thinker_config()), max_columns=2)
    assert not batch.packed and batch.label_counts == (3, 0, 2)
    assert batch.label_places is not None
    real = torch.cat([b.labels for b in batch.label_trees], dim=1)
    for number, places in enumerate(batch.label_places.tolist()):
        kept = [place for place in places if place >= 0]
        assert len(kept) == batch.label_counts[number] and kept == sorted(kept)
        assert all(real[number, place] for place in kept)


def test_equal_segments_need_no_indices_and_uneven_ones_find_their_way_back() -> None:
    assert Segments.of(np.array([4, 4])).pad is None
    uneven = Segments.of(np.array([2, 3, 1]))
    assert uneven.pad is not None and uneven.unpad is not None and uneven.mask is not None
    sequence = torch.arange(6)
    padded = sequence[uneven.pad]
    assert torch.equal(padded[uneven.unpad], sequence)
    assert uneven.mask.sum().item() == 6


def test_mapped_reaches_every_tensor_and_nothing_else() -> None:
    batch = batch_of(five_rows())
    doubled = mapped(batch, lambda tensor: tensor + tensor)
    assert doubled.ids == batch.ids and doubled.packed
    assert torch.equal(doubled.label_trees[0].tokens, 2 * batch.label_trees[0].tokens)
    assert doubled.images is not None and batch.images is not None
    assert torch.equal(doubled.images.patches, 2 * batch.images.patches)
