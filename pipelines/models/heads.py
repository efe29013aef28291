"""The results of one forward: label scores, closed-set mass, embeddings.

Vocabulary logits are computed only at positions that predict a label token.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.batch import Batch, LabelTrees
from pipelines.models.backbone import Backbone, visible_after_prompt
from pipelines.models.kv_cache import KeyValues


@dataclass(frozen=True, slots=True)
class Scored:
    """The raw results of one forward, in the order of the batch's rows.

    log_probs f32 [B, K]: the exact log P(label tokens | prompt), -inf beyond a row's labels; K may
    be 0. embeddings f32 [B, H]: the mean of the prompt's hidden states, not normalised.
    """

    batch: Batch
    log_probs: torch.Tensor
    embeddings: torch.Tensor


@dataclass(frozen=True, slots=True)
class Confidence:
    """For each row: probabilities [B, K], which sum to 1 over its labels; the other fields are [B].
    Entropy is in nats.

    `closed_set_mass` is the model's own probability that the answer is one of the labels, before
    temperature. A low value means that the input is out of distribution.
    """

    probabilities: torch.Tensor
    margin: torch.Tensor
    entropy: torch.Tensor
    closed_set_mass: torch.Tensor


def run(backbone: Backbone, batch: Batch) -> Scored:
    """The forward and both heads; differentiable. Large label sets run after the cached prompt."""
    width = batch.prompt_columns
    if batch.packed or not batch.label_trees:
        hidden = backbone.hidden(batch)
        states = [
            torch.cat([last_states(hidden, batch.lengths), hidden[:, width:]], dim=1)
            for _ in batch.label_trees
        ]
    else:
        hidden, cache = backbone.prefill(batch)
        last = last_states(hidden, batch.lengths)
        states = [
            torch.cat([last, _extended(backbone, batch, label_trees, cache)], dim=1)
            for label_trees in batch.label_trees
        ]
    scores = [
        label_log_probs(backbone, columns, label_trees)
        for columns, label_trees in zip(states, batch.label_trees, strict=True)
    ]
    log_probs = _in_label_order(scores, batch)
    return Scored(batch, log_probs, embedding(hidden[:, :width], batch.lengths))


def label_log_probs(
    backbone: Backbone, states: torch.Tensor, label_trees: LabelTrees
) -> torch.Tensor:
    """[B, K] sums of token log-probabilities; `states` [B, 1 + columns, H] are the last prompt
    token's and the label columns'."""
    picked = states.flatten(0, 1).index_select(0, label_trees.sources)
    logits = backbone.head(picked).float()
    token_logits = logits[label_trees.edge_source, label_trees.edge_target]
    edges = token_logits - logits.logsumexp(dim=-1)[label_trees.edge_source]
    padded = torch.cat([edges, edges.new_zeros(1)])
    return padded[label_trees.paths].sum(dim=-1).masked_fill(~label_trees.labels, float("-inf"))


def _in_label_order(scores: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    if not scores:
        return torch.zeros(batch.rows, 0, device=batch.prompt_ids.device)
    if batch.label_places is None:
        return scores[0]
    # Place -1 reads the last column, which is -inf.
    none = scores[0].new_full((batch.rows, 1), float("-inf"))
    together = torch.cat([*scores, none], dim=1)
    places = batch.label_places
    return together.gather(1, torch.where(places < 0, together.shape[1] - 1, places))


def last_states(hidden: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """[B, 1, H] of `hidden` [B, columns, H]: the state of each row's last prompt token."""
    place = (lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
    return hidden.gather(1, place)


def embedding(prompt: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """f32 [B, H] mean over the first `lengths` columns of `prompt` [B, P, H]."""
    real = torch.arange(prompt.shape[1], device=prompt.device) < lengths[:, None]
    # A product with 0/1 weights sums in one matrix call without copying the hidden states.
    summed = torch.bmm(real[:, None, :].to(prompt.dtype), prompt).squeeze(1).float()
    return summed / real.sum(dim=1, keepdim=True)


def confidence(log_probs: torch.Tensor, temperature: float) -> Confidence:
    """Confidence of label scores [B, K], K >= 1; probability = softmax(score / temperature)."""
    probabilities = torch.softmax(log_probs / temperature, dim=-1)
    best = probabilities.topk(min(2, probabilities.shape[1]), dim=-1).values
    margin = best[:, 0] - (best[:, 1] if best.shape[1] > 1 else 0.0)
    return Confidence(
        probabilities=probabilities,
        margin=margin,
        entropy=torch.special.entr(probabilities).sum(dim=-1),
        closed_set_mass=log_probs.exp().sum(dim=-1),
    )


def _extended(
    backbone: Backbone, batch: Batch, label_trees: LabelTrees, cache: KeyValues
) -> torch.Tensor:
    seen = visible_after_prompt(batch, label_trees)
    return backbone.extend(label_trees.tokens, label_trees.positions, seen, cache.view())
