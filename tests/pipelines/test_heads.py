import math

import pytest
import torch

from pipelines.collate import collate
from pipelines.models import heads
from pipelines.models.heads import Scored
from pipelines.models.label_tree import Tokens
from pipelines.models.qwen.backbone import QwenOmniBackbone
from pipelines.types import Prepared
from tests.support import tolerance
from tests.support.tinybundle import thinker_config, thinker_tensors
from tests.support.tinyrows import five_rows, reference_inputs, reference_model, tiny_backbone

END = 258
SETS: tuple[tuple[Tokens, ...], ...] = (
    ((65, 66, END), (65, 67, 68, END), (90, END)),
    ((70, END), (71, END)),
    ((80, 81, 82, 83, END),),
    (),
    ((65, 66, END), (99, 98, END), (99, 97, END), (33, END)),
)


@pytest.fixture(scope="module")
def backbone() -> QwenOmniBackbone:
    return tiny_backbone()


def scored(backbone: QwenOmniBackbone, rows: list[Prepared], max_columns: int = 256) -> Scored:
    batch = collate(rows, lambda row: SETS[int(row.id)], backbone.geometry, max_columns)
    with torch.inference_mode():
        return heads.run(backbone, batch)


@pytest.mark.parametrize("max_columns", [256, 3])
def test_packed_scores_equal_one_library_forward_per_label(
    backbone: QwenOmniBackbone, max_columns: int
) -> None:
    reference = reference_model(thinker_config(), thinker_tensors())
    rows = five_rows()
    ours = scored(backbone, rows, max_columns).log_probs
    for number, made in enumerate(rows):
        for k, label in enumerate(SETS[number]):
            with torch.inference_mode():
                logits = reference(**reference_inputs(made, label), use_cache=False).logits[0]
            steps = logits[-len(label) - 1 : -1].log_softmax(dim=-1)
            expected = float(steps[range(len(label)), list(label)].sum())
            assert float(ours[number, k]) == pytest.approx(expected, abs=2e-5, rel=2e-6)


def test_label_places_beyond_a_rows_own_are_minus_infinity(backbone: QwenOmniBackbone) -> None:
    found = scored(backbone, five_rows()).log_probs
    counts = [len(labels) for labels in SETS]
    assert [int(row.isfinite().sum()) for row in found] == counts
    assert not found.isnan().any()


def test_labels_of_other_rows_and_their_number_change_nothing(backbone: QwenOmniBackbone) -> None:
    rows = five_rows()
    together = scored(backbone, rows)
    for number, made in enumerate(rows):
        alone = scored(backbone, [made])
        width = alone.log_probs.shape[1]
        assert width == len(SETS[number])
        tolerance.LOG_PROBABILITY.check(alone.log_probs[0], together.log_probs[number, :width])
        tolerance.HIDDEN.check(alone.embeddings[0], together.embeddings[number])


def test_many_labels_split_over_forwards_score_as_packed(backbone: QwenOmniBackbone) -> None:
    labels = tuple((a, b, END) for a in range(60, 70) for b in range(70, 80))
    for columns in (1000, 16):
        batch = collate(five_rows(), lambda _row: labels, backbone.geometry, columns)
        assert batch.packed == (columns == 1000)
        with torch.inference_mode():
            found = heads.run(backbone, batch).log_probs
        if batch.packed:
            expected = found
    tolerance.LOG_PROBABILITY.check(found, expected)


def test_an_embedding_is_the_mean_over_the_rows_own_prompt(backbone: QwenOmniBackbone) -> None:
    rows = five_rows()
    batch = collate(rows, lambda _row: (), backbone.geometry)
    with torch.inference_mode():
        hidden = backbone.hidden(batch)
        found = heads.run(backbone, batch)
    assert found.log_probs.shape == (len(rows), 0)
    for number, length in enumerate(batch.prompt_lengths):
        mean = hidden[number, :length].mean(dim=0)
        tolerance.HIDDEN.check(found.embeddings[number], mean)


def test_scores_can_be_trained() -> None:
    backbone = QwenOmniBackbone.fresh(thinker_config(), seed=0)
    batch = collate(five_rows()[:2], lambda row: SETS[int(row.id)], backbone.geometry)
    found = heads.run(backbone, batch)
    loss = -found.log_probs.log_softmax(dim=-1)[:, 0].sum()
    loss.backward()
    gradient = backbone.model.get_input_embeddings().weight.grad
    assert gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any())


def test_confidence_of_known_scores() -> None:
    scores = torch.tensor([[math.log(0.4), math.log(0.1), -math.inf]])
    sure = heads.confidence(scores, temperature=1.0)
    assert sure.probabilities[0].tolist() == pytest.approx([0.8, 0.2, 0.0])
    assert sure.margin.item() == pytest.approx(0.6)
    assert sure.entropy.item() == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert sure.closed_set_mass.item() == pytest.approx(0.5)


def test_temperature_flattens_probabilities_and_leaves_the_mass() -> None:
    scores = torch.log(torch.tensor([[0.4, 0.1]]))
    warm = heads.confidence(scores, temperature=2.0)
    assert warm.probabilities[0, 0].item() == pytest.approx(2 / 3)  # ratio 4 becomes 2
    assert warm.closed_set_mass.item() == pytest.approx(0.5)


def test_a_single_label_is_certain_with_full_margin() -> None:
    sure = heads.confidence(torch.tensor([[-7.0]]), temperature=1.0)
    assert (sure.margin.item(), sure.entropy.item()) == (1.0, 0.0)
