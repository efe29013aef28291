import inspect
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines.batch import Segments
from pipelines.collate import collate
from pipelines.errors import BundleRefused
from pipelines.models.attention import (
    Visibility,
    choose_segments,
    choose_sharing,
    folded,
    torch_varlen,
    within_segments,
)
from pipelines.models.backbone import additive, visible_after_prompt
from pipelines.models.label_tree import Tokens
from pipelines.models.qwen import thinker
from pipelines.models.qwen.backbone import QwenOmniBackbone, load_backbone
from pipelines.models.qwen.text import QwenText
from tests.support import tolerance
from tests.support.opcount import OpCount
from tests.support.tinybundle import thinker_config, thinker_tensors
from tests.support.tinyrows import (
    five_rows,
    random_tensors,
    reference_inputs,
    reference_model,
    row,
    tiny_backbone,
    windowed_config,
)

CPU = torch.device("cpu")
LABELS: tuple[Tokens, ...] = ((65, 66, 258), (65, 67, 68, 258), (90, 258))


def load(config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> QwenOmniBackbone:
    return load_backbone(config, tensors, CPU, torch.float32)


@pytest.mark.parametrize("windowed", [False, True])
def test_padded_packed_hidden_states_give_the_logits_of_the_library_alone(windowed: bool) -> None:
    config = windowed_config() if windowed else thinker_config()
    tensors = random_tensors(config)
    backbone, reference = load(config, tensors), reference_model(config, tensors)
    rows = five_rows()
    with torch.inference_mode():
        batch = collate(rows, lambda _row: LABELS, backbone.geometry)
        hidden = backbone.hidden(batch)
        for number, made in enumerate(rows):
            expected = reference(**reference_inputs(made), use_cache=False).logits[0]
            ours = backbone.head(hidden[number, : batch.prompt_lengths[number]])
            tolerance.LOGIT.check(ours, expected)


def test_tokens_behind_a_kept_prompt_equal_tokens_in_the_same_forward() -> None:
    backbone, rows = tiny_backbone(), five_rows()
    with torch.inference_mode():
        packed = collate(rows, lambda _row: LABELS, backbone.geometry)
        prompts = collate(rows, lambda _row: (), backbone.geometry)
        branches = packed.label_trees[0]
        hidden, cache = backbone.prefill(prompts)
        seen = visible_after_prompt(prompts, branches)
        behind = backbone.extend(branches.tokens, branches.positions, seen, cache.view())
        together = torch.cat([hidden, behind], dim=1)
        tolerance.HIDDEN.check(together, backbone.hidden(packed))
        again = backbone.extend(branches.tokens, branches.positions, seen, cache.view())
    tolerance.HIDDEN.check(again, behind)  # the kept prompt was lent, not grown


def full_omni(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    named = {f"thinker.{name}": tensor for name, tensor in tensors.items()}
    return named | {"talker.model.norm.weight": torch.ones(3), "token2wav.x": torch.ones(2)}


def nested(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    def name_of(name: str) -> str:
        if name.startswith("model."):
            return name.replace("model.", "model.language_model.", 1)
        return f"model.{name}" if name.startswith(("visual.", "audio_tower.")) else name

    return {name_of(name): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("layout", [full_omni, nested])
def test_every_checkpoint_layout_loads_to_the_same_weights(layout: Any) -> None:
    tensors = random_tensors(windowed_config())
    loaded = load(windowed_config(), layout(tensors)).tensors()
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_tied_head_is_the_embedding_and_is_not_saved() -> None:
    backbone = load(thinker_config(), thinker_tensors())
    assert "lm_head.weight" not in backbone.tensors()
    model = backbone.model
    assert model.lm_head.weight is model.get_input_embeddings().weight


def test_loading_leaves_nothing_without_storage_and_nothing_to_train() -> None:
    model = load(windowed_config(), random_tensors(windowed_config())).model
    everything = [*model.parameters(), *model.buffers()]
    assert not any(tensor.is_meta or tensor.requires_grad for tensor in everything)
    assert not model.training


def test_missing_unknown_and_misshapen_weights_are_refused_by_name() -> None:
    tensors = thinker_tensors()
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(BundleRefused, match=r"missing \['model.layers.0.mlp.up_proj.weight'\]"):
        load(thinker_config(), {n: t for n, t in tensors.items() if n != name})
    with pytest.raises(BundleRefused, match=r"unknown \['model.extra'\]"):
        load(thinker_config(), tensors | {"model.extra": torch.ones(1)})
    with pytest.raises(BundleRefused, match=r"up_proj.weight is \(2, 2\), not \(64, 32\)"):
        load(thinker_config(), tensors | {name: torch.ones(2, 2)})


def test_a_full_omni_config_is_read_and_another_family_is_refused() -> None:
    inner = thinker.read_config({"model_type": "qwen2_5_omni", "thinker_config": thinker_config()})
    assert inner.text_config.hidden_size == 32
    with pytest.raises(BundleRefused, match="'llama' is not served"):
        thinker.read_config({"model_type": "llama"})


def test_a_sliding_window_is_refused_rather_than_ignored() -> None:
    config = thinker_config()
    window = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    config["text_config"] |= window
    with pytest.raises(BundleRefused, match="sliding"):
        thinker.read_config(config)


def test_every_weight_but_the_unused_audio_marks_can_be_trained() -> None:
    backbone = QwenOmniBackbone.fresh(thinker_config(), seed=3)
    batch = collate(five_rows(), lambda _row: LABELS, backbone.geometry)
    backbone.head(backbone.hidden(batch)).square().mean().backward()
    without = [name for name, p in backbone.model.named_parameters() if p.grad is None]
    assert [name.split(".")[-2] for name in without] == ["audio_bos_eos_token"]


def test_the_same_seed_gives_the_same_fresh_weights() -> None:
    state = torch.random.get_rng_state()
    one, two, three = (QwenOmniBackbone.fresh(thinker_config(), s).tensors() for s in (1, 1, 2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], three[name]) for name in one)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_bfloat16_stays_near_float32() -> None:
    exact = tiny_backbone()
    rough = load_backbone(thinker_config(), thinker_tensors(), CPU, torch.bfloat16)
    batch = collate([row([(4, 6), "x", 120])], lambda _row: LABELS, exact.geometry)
    with torch.inference_mode():
        ours, theirs = exact.hidden(batch), rough.hidden(batch)
    assert theirs.dtype == torch.bfloat16
    tolerance.HIDDEN_BFLOAT16.check(theirs.float(), ours)
    cosine = torch.nn.functional.cosine_similarity(ours, theirs.float(), dim=-1)
    assert cosine.min() > 0.97


@pytest.mark.parametrize("sharing", ["grouped", "repeated"])
def test_joined_products_and_either_way_to_share_keys_give_the_same(sharing: Any) -> None:
    plain, joined = tiny_backbone(), QwenOmniBackbone(tiny_backbone().model, joined=True)
    text, _, _ = thinker.parts(joined.model)
    joined._text = QwenText(text, True, sharing)
    batch = collate(five_rows(), lambda _row: LABELS, plain.geometry)
    with torch.inference_mode(), OpCount() as usual:
        expected = plain.hidden(batch)
    with torch.inference_mode(), OpCount() as fewer:
        found = joined.hidden(batch)
    tolerance.HIDDEN.check(found, expected)
    if sharing == "grouped":
        assert fewer.launches < usual.launches
    # The weights are the same memory, under the names that they are saved by.
    tensors = joined.tensors()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in plain.tensors().items())
    name = "model.layers.0.self_attn.{}_proj.weight"
    starts = {tensors[name.format(one)].untyped_storage().data_ptr() for one in "qkv"}
    assert len(starts) == 1


def test_the_text_stack_launches_a_third_of_what_the_library_does() -> None:
    launches = {}
    for layers in (1, 3):
        config = thinker_config()
        config["text_config"] |= {"num_hidden_layers": layers}
        tensors = random_tensors(config)
        backbone = QwenOmniBackbone(load(config, tensors).model, joined=True)
        batch = collate([row(["x" * 30])], lambda _row: (), backbone.geometry)
        inputs = backbone.columns(batch)
        text, _, _ = thinker.parts(reference_model(config, tensors))
        with torch.inference_mode(), OpCount() as ours:
            backbone._text(inputs.embeddings, inputs.positions, Visibility(batch.columns), None)
        with torch.inference_mode(), OpCount() as theirs:
            text(inputs_embeds=inputs.embeddings, position_ids=inputs.positions, use_cache=False)
        launches[layers] = ours.launches, theirs.launches
    ours, theirs = ((launches[3][n] - launches[1][n]) / 2 for n in (0, 1))
    assert ours <= 14 and 2 * ours < theirs


def test_how_keys_are_shared_follows_device_format_and_version() -> None:
    gpu = torch.device("cuda:0")  # only named
    for device, dtype, version, expected in (
        (CPU, torch.float32, "2.13.0", "grouped"),
        (gpu, torch.bfloat16, "2.11.0+cu130", "grouped"),
        (gpu, torch.float32, "2.11.0+cu130", "repeated"),
        (CPU, torch.float32, "2.5.1", "repeated"),
    ):
        sharing, why = choose_sharing(device, dtype, version)
        assert sharing == expected and why


@pytest.mark.parametrize("columns", [1, 5])
def test_heads_folded_into_queries_attend_as_heads(columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 6, columns, 8, generator=generator)
    key, value = (torch.randn(2, 2, 11, 8, generator=generator) for _ in range(2))
    mask = additive(torch.rand(2, columns, 11, generator=generator) > 0.3, torch.float32)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key.repeat_interleave(3, 1), value.repeat_interleave(3, 1), mask, scale=0.3
    )
    tolerance.HIDDEN.check(folded(query, key, value, mask, 0.3), expected)


def by_lengths(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_bounds: torch.Tensor,
    key_bounds: torch.Tensor,
    most_queries: int,
    most_keys: int,
    *,
    scale: float,
) -> torch.Tensor:
    """What torch.nn.attention.varlen documents, one run after the other: [T, heads, D]."""
    assert torch.equal(query_bounds, key_bounds) and query_bounds.dtype == torch.int32
    runs = list(pairwise(query_bounds.tolist()))
    assert most_queries == most_keys == max(b - a for a, b in runs) and runs[-1][1] == len(query)
    parts = []
    for a, b in runs:
        q, k, v = (x[a:b].transpose(0, 1) for x in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v, scale=scale))
    return torch.cat(parts, dim=1).transpose(0, 1)


@pytest.mark.parametrize("lengths", [(4, 9, 1, 9), (6, 6, 6)])
def test_runs_attend_within_themselves_by_any_way(lengths: tuple[int, ...]) -> None:
    segments = Segments.of(np.array(lengths))
    query, key, value = (torch.randn(1, 4, sum(lengths), 8) for _ in range(3))
    padded = within_segments(query, key, value, segments, 0.3)
    found = within_segments(query, key, value, segments, 0.3, by_lengths)
    torch.testing.assert_close(found, padded, atol=1e-6, rtol=1e-6)
    assert (segments.bounds is None) == (len(set(lengths)) == 1)


def test_how_runs_attend_follows_device_format_and_version() -> None:
    gpu, half = torch.device("cuda:0"), torch.bfloat16  # only named
    chosen = [
        choose_segments(torch.device("cpu"), half, (0, 0), by_lengths),
        choose_segments(gpu, torch.float32, (9, 0), by_lengths),
        choose_segments(gpu, half, (7, 5), by_lengths),
        choose_segments(gpu, half, (9, 0), None),
        choose_segments(gpu, half, (9, 0), by_lengths),
    ]
    assert [way for way, _ in chosen] == ["padded"] * 4 + ["varlen"]
    assert "float32 on compute capability 9.0" in chosen[1][1] and "7.5" in chosen[2][1]
    varlen = torch_varlen()  # of this version: called as documented, wherever it is there
    names = [] if varlen is None else list(inspect.signature(varlen).parameters)
    assert not names or names[:7] == "query key value cu_seq_q cu_seq_k max_q max_k".split()
