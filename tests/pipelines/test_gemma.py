"""Gemma 4 behind the backbone protocol: the references are the library's own model, processors and
greedy texts. Then a bundle from a checkpoint directory, and the whole program that serves it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessorPil

from pipelines.batch import Batch
from pipelines.build import checkpoint, from_checkpoint
from pipelines.bundle import golden, parameters
from pipelines.collate import collate
from pipelines.errors import BadInput, BundleRefused
from pipelines.main import main
from pipelines.media.decode import DecodedAudio, DecodedImage
from pipelines.models import heads
from pipelines.models.backbone import visible_after_prompt
from pipelines.models.gemma import backbone as gemma
from pipelines.models.gemma import log_mel, patches
from pipelines.models.gemma import model as gemma_model
from pipelines.models.gemma.backbone import GemmaBackbone, ahead_in_images, within_window
from pipelines.models.generate import Writing
from pipelines.models.label_tree import Tokens
from pipelines.models.tokens import GEMMA_TEMPLATE, QWEN, PromptTokenizer
from pipelines.pipeline import Pipeline
from pipelines.types import Part, Prediction, Prepared, Sample
from proto import inference_pb2 as pb
from proto import inference_pb2_grpc as stubs
from tests.support import media_bytes as made
from tests.support import tinygemma, tolerance
from tests.support.patience import patience
from tests.support.running import program
from tests.support.tinybundle import jpeg, wav
from tests.support.tinygemma import gemma_config, in_rows, reference_inputs, six_rows, token_id

CPU = torch.device("cpu")
END = token_id("<turn|>")
LABELS: tuple[Tokens, ...] = (
    (65, 66, END),
    (65, 67, 68, END),
    (90, END),
    (*range(97, 112), END),  # longer than the window of twelve
)
# The plain variant, one that looks ahead within pictures, and one whose layers share nothing.
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ahead": {"use_bidirectional_attention": "vision"},
    "unshared": {"num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0},
    "one-projection": {"attention_k_eq_v": True, "num_global_key_value_heads": 2},
}


def load(model: Any, config: dict[str, Any] | None = None) -> GemmaBackbone:
    return gemma.load_backbone(config or gemma_config(), model.state_dict(), CPU, torch.float32)


@pytest.fixture(scope="module")
def model() -> Any:
    return tinygemma.random_model()


@pytest.fixture(scope="module")
def backbone(model: Any) -> GemmaBackbone:
    return load(model)


def batch_of(
    backbone: GemmaBackbone, rows: list[Prepared], *labels: Tokens, columns: int = 256
) -> Batch:
    return collate(rows, lambda _row: labels, backbone.geometry, columns)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_padded_forward_gives_what_the_library_gives_row_by_row(variant: str) -> None:
    config = gemma_config(**VARIANTS[variant])
    reference = tinygemma.random_model(config)
    backbone, rows = load(reference, config), six_rows()
    batch = batch_of(backbone, rows, *LABELS)
    assert batch.packed
    with torch.inference_mode():
        hidden, scores = backbone.hidden(batch), heads.run(backbone, batch).log_probs
        for number, row in enumerate(rows):
            theirs = reference(**reference_inputs(row), use_cache=False).logits[0]
            prompt = hidden[number, : batch.prompt_lengths[number]]
            tolerance.LOGIT.check(backbone.head(prompt), theirs)
            for k, label in enumerate(LABELS):
                logits = reference(**reference_inputs(row, label), use_cache=False).logits[0]
                steps = logits[-len(label) - 1 : -1].log_softmax(dim=-1)
                expected = float(steps[range(len(label)), list(label)].sum())
                assert float(scores[number, k]) == pytest.approx(expected, abs=5e-5, rel=2e-6)


def test_a_row_is_the_same_in_any_company(backbone: GemmaBackbone) -> None:
    rows = six_rows()
    with torch.inference_mode():
        together = heads.run(backbone, batch_of(backbone, rows, *LABELS))
        for number, row in enumerate(rows):
            alone = heads.run(backbone, batch_of(backbone, [row], *LABELS))
            tolerance.LOG_PROBABILITY.check(alone.log_probs[0], together.log_probs[number])
            tolerance.HIDDEN.check(alone.embeddings[0], together.embeddings[number])


def test_labels_behind_a_kept_prompt_score_as_packed(backbone: GemmaBackbone) -> None:
    with torch.inference_mode():
        packed = heads.run(backbone, batch_of(backbone, six_rows(), *LABELS)).log_probs
        behind = heads.run(backbone, batch_of(backbone, six_rows(), *LABELS, columns=4)).log_probs
    tolerance.LOG_PROBABILITY.check(behind, packed)


def test_a_kept_prompt_is_lent_and_not_grown(backbone: GemmaBackbone) -> None:
    packed, prompts = batch_of(backbone, six_rows(), *LABELS), batch_of(backbone, six_rows())
    branches = packed.label_trees[0]
    with torch.inference_mode():
        _, cache = backbone.prefill(prompts)
        seen = visible_after_prompt(prompts, branches)
        once, again = (
            backbone.extend(branches.tokens, branches.positions, seen, cache.view())
            for _ in range(2)
        )
    tolerance.HIDDEN.check(again, once)
    with pytest.raises(ValueError, match="packed"):
        backbone.prefill(packed)


@pytest.mark.parametrize("variant", ["plain", "ahead"])
def test_texts_side_by_side_are_the_librarys_greedy_ones(variant: str) -> None:
    """Twenty tokens: the window slides over the prompt and over what was written."""
    config = gemma_config(**VARIANTS[variant])
    reference = tinygemma.random_model(config)
    backbone, rows = load(reference, config), six_rows()
    writing = Writing(backbone, lambda ids: " ".join(map(str, ids)), (END,))
    texts = writing.start(batch_of(backbone, rows), [20] * len(rows))
    while writing.live:
        writing.step()
    for row, text in zip(rows, texts, strict=True):
        inputs = reference_inputs(row)
        with torch.inference_mode():
            ids = reference.generate(
                **inputs, max_new_tokens=20, do_sample=False, eos_token_id=END, pad_token_id=0
            )[0, len(row.input_ids) :].tolist()
        assert text.tokens == [token for token in ids if token != END]


@pytest.mark.parametrize("variant", VARIANTS)
def test_joined_products_and_prompts_in_pieces_give_the_same(variant: str) -> None:
    config = gemma_config(**VARIANTS[variant])
    reference = tinygemma.random_model(config)
    plain, joined = load(reference, config), load(reference, config)
    joined = GemmaBackbone(joined.model, joined=True)
    batch = batch_of(plain, six_rows(), *LABELS)
    with torch.inference_mode():
        tolerance.HIDDEN.check(joined.hidden(batch), plain.hidden(batch))
    texts = {}
    for piece in (1024, 24):
        writing = Writing(joined, lambda ids: "", (END,), behind=1, piece=piece)
        rows = six_rows()
        texts[piece] = writing.start(batch_of(plain, rows), [6] * len(rows))
        while writing.live:
            writing.step()
    assert [text.tokens for text in texts[24]] == [text.tokens for text in texts[1024]]


def test_the_window_counts_what_is_seen_and_not_columns() -> None:
    seen = torch.tensor([[True, False, False, True, True, False, True]])
    assert within_window(seen, 7) is seen
    assert within_window(seen, 2).tolist() == [[False, False, False, False, True, False, True]]
    assert within_window(seen, 3).tolist() == [[False, False, False, True, True, False, True]]


def test_only_tokens_of_the_same_picture_are_seen_ahead() -> None:
    tokens = torch.tensor([[9, 9, 1, 9, 9, 2]])
    found = [tuple(pair) for pair in ahead_in_images(tokens, 9)[0].nonzero().tolist()]
    assert found == [(0, 1), (3, 4)]


def test_weights_that_nobody_reads_are_left_out_and_others_refused(model: Any) -> None:
    tensors = model.state_dict()
    name = "model.language_model.layers.{}.self_attn.k_proj.weight"
    unread = {name.format(3): torch.ones(2, 2)}  # a layer that borrows its keys
    loaded = gemma.load_backbone(gemma_config(), tensors | unread, CPU, torch.float32)
    everything = [*loaded.model.parameters(), *loaded.model.buffers()]
    assert not any(tensor.is_meta or tensor.requires_grad for tensor in everything)
    for wrong, message in (
        ({n: t for n, t in tensors.items() if n != name.format(0)}, "missing"),
        (tensors | {"model.extra": torch.ones(1)}, "unknown"),
        (tensors | {name.format(0): torch.ones(2, 2)}, r"is \(2, 2\), not"),
    ):
        with pytest.raises(BundleRefused, match=message):
            gemma.load_backbone(gemma_config(), wrong, CPU, torch.float32)


def _with(section: str, **values: Any) -> dict[str, Any]:
    config = gemma_config()
    config[section] = {**config[section], **values} if values else None
    return config


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma3"}, "not gemma4"),
        (_with("audio_config"), "without audio_config"),
        (_with("vision_config"), "without vision_config"),
        (_with("text_config", use_bidirectional_attention="all"), "later tokens"),
        (_with("audio_config", subsampling_conv_channels=[64, 8]), "= 64, not 128"),
        (_with("vision_config", position_embedding_size=64), "patches a side"),
        (_with("text_config", hidden_size_per_layer_input=0), "shared keys"),
        (
            _with(
                "text_config",
                enable_moe_block=True,
                num_experts=2,
                top_k_experts=1,
                moe_intermediate_size=8,
            ),
            "routed experts",
        ),
        (
            _with(
                "text_config",
                rope_parameters={
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                    "full_attention": {"rope_type": "dynamic", "rope_theta": 1e6, "factor": 2.0},
                },
            ),
            "dynamic",
        ),
    ],
)
def test_what_could_not_be_exact_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(BundleRefused, match=message):
        gemma_model.read_config(config)


def test_bfloat16_stays_near_float32(model: Any, backbone: GemmaBackbone) -> None:
    rough = gemma.load_backbone(gemma_config(), model.state_dict(), CPU, torch.bfloat16)
    batch = batch_of(backbone, six_rows()[:3], *LABELS)
    with torch.inference_mode():
        ours, theirs = backbone.hidden(batch), rough.hidden(batch)
    assert theirs.dtype == torch.bfloat16
    tolerance.HIDDEN_BFLOAT16.check(theirs.float(), ours)
    cosine = torch.nn.functional.cosine_similarity(ours, theirs.float(), dim=-1)
    assert cosine.min() > 0.97


SIZES = [(480, 640), (84, 112), (100, 33), (28, 28), (9, 200), (4, 390), (390, 4), (1800, 1300)]


@pytest.mark.parametrize("tokens", [70, 280])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["photo", "edges"])
def test_patches_equal_the_reference_within_one_level(
    size: tuple[int, int], tokens: int, kind: str
) -> None:
    rng = np.random.default_rng(1)
    edges = (rng.integers(0, 2, (*size, 3)) * 255).astype(np.uint8)
    pixels = made.photo(*size) if kind == "photo" else edges
    config = replace(patches.GEMMA, max_soft_tokens=tokens)
    picture = DecodedImage(pixels, "PNG", "RGB", size[1], size[0], payload_bytes=1)
    levels, grid = patches.gemma_levels(picture, config)
    ours = patches.gemma_normalised(levels, config)
    found = Gemma4ImageProcessorPil(max_soft_tokens=tokens)(
        images=[Image.fromarray(pixels)], return_tensors="pt"
    )
    places = found["image_position_ids"][0]
    real = places[:, 0] >= 0
    assert len(ours) == int(real.sum()) <= 9 * tokens
    assert grid == (1, int(places[:, 1].max()) + 1, int(places[:, 0].max()) + 1)
    assert int(found["num_soft_tokens_per_image"][0]) == len(ours) // 9
    levels = (in_rows(ours, grid) - found["pixel_values"][0][real]).abs() * 255
    assert levels.max() < 1.001 and (levels > 0.5).float().mean() < 0.02


@pytest.fixture(scope="module")
def extractor() -> Gemma4AudioFeatureExtractor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mel filters that are zero, as they are in the original
        return Gemma4AudioFeatureExtractor()


def clip(samples: int) -> DecodedAudio:
    wave = (np.random.default_rng(0).standard_normal((samples, 1)) * 0.1).astype(np.float32)
    return DecodedAudio(wave, 16_000, "WAV", payload_bytes=1)


@pytest.mark.parametrize("samples", [161, 320, 321, 500, 1601, 16_000, 31_999, 80_001, 480_000])
def test_log_mel_is_the_one_of_the_reference(
    extractor: Gemma4AudioFeatureExtractor, samples: int
) -> None:
    audio = clip(samples)
    found = extractor([audio.wave[:, 0]], sampling_rate=16_000, return_tensors="np")
    real = found["input_features_mask"][0]
    ours = log_mel.gemma_log_mel(audio, log_mel.GEMMA)
    assert ours.dtype == torch.float32 and ours.shape == (128, int(real.sum()))
    tolerance.LOG_MEL.check(ours.T, found["input_features"][0][real])
    halved = real[::2][::2]  # what the encoder's two convolutions leave of the mask
    assert log_mel.gemma_audio_tokens(ours.shape[1]) == int(halved.sum())


def test_a_clip_over_the_limit_or_too_short_for_a_frame_is_refused() -> None:
    for samples, reason in ((480_001, "AUDIO_TOO_LONG"), (160, "AUDIO_TOO_SHORT")):
        with pytest.raises(BadInput) as caught:
            log_mel.gemma_log_mel(clip(samples), log_mel.GEMMA, "parts[1].data")
        assert (caught.value.reason, caught.value.field) == (reason, "parts[1].data")


@pytest.mark.parametrize("module", [patches, log_mel])
def test_config_survives_json_and_refuses_what_it_does_not_know(module: Any) -> None:
    values, read = parameters.write(module.GEMMA), type(module.GEMMA).from_dict
    assert read(values) == module.GEMMA
    rule = "resize" if module is patches else "mel"
    for wrong in ({**values, "dither": 0.1}, {**values, rule: "other"}):
        with pytest.raises(BundleRefused):
            read(wrong)


@pytest.mark.parametrize("tokens", [0, 1121])
def test_a_budget_the_model_has_no_positions_for_is_refused(tokens: int) -> None:
    with pytest.raises(BundleRefused, match="max_soft_tokens"):
        values = parameters.write(patches.GEMMA) | {"max_soft_tokens": tokens}
        patches.GemmaImageConfig.from_dict(values)


def test_plain_added_tokens_are_text_and_marks_are_not() -> None:
    text = PromptTokenizer(tinygemma.tokenizer_json(), QWEN, GEMMA_TEMPLATE, plain_added=True)
    ids = text.encode([f"a{tinygemma.LINE_FEEDS}b <|image|><turn|>"], "embed").input_ids.tolist()
    assert ids.count(256 + len(tinygemma.SPECIALS)) == 1
    assert ids.count(token_id("<|image|>")) == 0
    assert ids.count(END) == 1  # the template's own
    strict = PromptTokenizer(tinygemma.tokenizer_json(), QWEN, GEMMA_TEMPLATE)
    assert 256 + len(tinygemma.SPECIALS) not in strict.encode(["\n\n\n"], "embed").input_ids


@pytest.fixture(scope="module")
def source(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint directory whose file holds, as published ones do, weights that nobody reads."""
    folder = tinygemma.save_checkpoint(tmp_path_factory.mktemp("gemma") / "source", model)
    unread = {"model.language_model.layers.2.self_attn.v_proj.weight": torch.ones(8, 32)}
    path = folder / "model.safetensors"
    save_file(load_file(path) | unread, path, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def bundle(source: Path) -> Path:
    labels = source.parent / "labels.txt"
    labels.write_text("run on\nwatch\tkeep an eye on it\nstop line\n")
    out = source.parent / "bundle"
    flags = ["--name", "gemma-2026.01", "--max-pixels", str(16 * 48**2), "--threads", "1"]
    arguments = ["build", "--from", str(source), "--labels", str(labels), "--out", str(out), *flags]
    assert main(arguments) == 0
    return out


@pytest.fixture(scope="module")
def pipeline(bundle: Path) -> Pipeline:
    return Pipeline.load(bundle, device="cpu", threads=1)


PARTS = (Part("text", "the pump hums"), Part("image", jpeg()), Part("audio", wav(1.3)))
MIXES = tuple(tuple(p for n, p in enumerate(PARTS) if mask >> n & 1) for mask in range(1, 8))


def answered(answer: Prediction | BadInput) -> Prediction:
    assert isinstance(answer, Prediction), answer
    return answer


def test_a_bundle_from_a_checkpoint_passes_its_golden_answers(pipeline: Pipeline) -> None:
    assert isinstance(pipeline.backbone, GemmaBackbone)
    results = golden.check(pipeline)
    assert len(results) == 7 and all(result.ok for result in results)
    assert pipeline.bundle.preprocess["image"]["max_soft_tokens"] == 16
    unread = "model.language_model.layers.2.self_attn.v_proj.weight"
    assert unread not in pipeline.bundle.tensors()


def test_every_mix_and_task_answers_the_same_alone_and_together(pipeline: Pipeline) -> None:
    tasks = ("classify", "embed", "generate")
    samples = [
        Sample(f"{task}{n}", mix, task, want_embedding=True, max_new_tokens=5)  # type: ignore[arg-type]
        for n, mix in enumerate(MIXES)
        for task in tasks
    ]
    for sample, found in zip(samples, pipeline.predict(samples), strict=True):
        together, alone = answered(found), answered(pipeline.predict([sample])[0])
        assert (together.label, together.text) == (alone.label, alone.text)
        chances = [{s.label: s.probability for s in one.scores} for one in (together, alone)]
        assert chances[0] == pytest.approx(chances[1], abs=1e-5)
        if together.embedding is not None and alone.embedding is not None:
            assert np.abs(together.embedding - alone.embedding).max() < 1e-5


def test_every_medium_is_heard(pipeline: Pipeline) -> None:
    """Another picture, another sound, another note: another answer."""
    others = (Part("text", "the pump howls"), Part("image", jpeg(seed=9)), Part("audio", wav(0.9)))
    whole = answered(pipeline.predict([Sample("x", PARTS)])[0])
    for place, other in enumerate(others):
        parts = (*PARTS[:place], other, *PARTS[place + 1 :])
        changed = answered(pipeline.predict([Sample("x", parts)])[0])
        assert abs(changed.scores[0].log_prob - whole.scores[0].log_prob) > 1e-3


@pytest.mark.parametrize(
    ("stated", "message"),
    [({"patch_size": 14}, "patch_size 14"), ({"dither": 0.1}, "dither 0.1")],
)
def test_a_checkpoint_with_other_preprocessing_is_refused(
    source: Path, stated: dict[str, Any], message: str
) -> None:
    read = checkpoint.read(source)
    with pytest.raises(BundleRefused, match=message):
        from_checkpoint.preprocess(
            {**read.processor, **stated}, from_checkpoint.BuildOptions("x", {}), read.family
        )


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[str]:
    with program("--bundle", str(bundle), "--warm-pool", "1", "--name", "gemma") as running:
        yield running.address
        assert running.stop() == 0


def as_sent(part: Part) -> pb.Part:
    if isinstance(part.data, str):
        return pb.Part(text=part.data)
    return pb.Part(data=part.data)


def test_the_whole_program_answers_as_the_pipeline_does(server: str, pipeline: Pipeline) -> None:
    sent = [pb.Example(parts=map(as_sent, mix)) for mix in MIXES]
    expected = pipeline.predict([Sample(str(n), mix) for n, mix in enumerate(MIXES)])
    with grpc.insecure_channel(server) as channel:
        answer = stubs.InferenceStub(channel).Predict(
            pb.PredictRequest(examples=sent), timeout=patience(60)
        )
    assert answer.stamp.hex == pipeline.stamp.hex
    for result, ours in zip(answer.results, map(answered, expected), strict=True):
        theirs = {score.label: score.probability for score in result.prediction.scores}
        assert theirs == pytest.approx({s.label: s.probability for s in ours.scores}, abs=1e-5)


def test_the_whole_program_streams_what_the_pipeline_writes(
    server: str, pipeline: Pipeline
) -> None:
    parts = [as_sent(part) for part in PARTS]
    request = pb.GenerateRequest(example=pb.Example(parts=parts), max_new_tokens=8)
    with grpc.insecure_channel(server) as channel:
        events = list(stubs.InferenceStub(channel).Generate(request, timeout=patience(60)))
    written = "".join(event.text for event in events)
    assert written == "".join(pipeline.generate(Sample("x", PARTS, "generate", max_new_tokens=8)))
