"""Answers out of one forward: label scores, closed-set mass, embeddings.

Vocabulary logits are computed only where a label token is predicted from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.batch import Batch, BranchColumns
from pipelines.models.backbone import Backbone, visible_behind
from pipelines.models.kv_cache import KeyValues


@dataclass(frozen=True, slots=True)
class Scored:
    """What one forward found. Rows keep the batch's order.

    log_probs f32 [B, K]: the exact log P(label tokens | prompt), -inf beyond a row's labels; K may
    be 0. embeddings f32 [B, H]: the mean of the prompt's hidden states, not normalised.
    """

    batch: Batch
    log_probs: torch.Tensor
    embeddings: torch.Tensor


@dataclass(frozen=True, slots=True)
class Confidence:
    """Per row: probabilities [B, K] sum to 1 over its labels; the rest [B]. Entropy is in nats.

    `closed_set_mass` is the model's own probability that the answer is one of the labels at all,
    before temperature: low values say that the input is of another world.
    """

    probabilities: torch.Tensor
    margin: torch.Tensor
    entropy: torch.Tensor
    closed_set_mass: torch.Tensor


def run(backbone: Backbone, batch: Batch) -> Scored:
    """The forward and both heads; differentiable. Too many labels follow the kept prompt."""
    width = batch.prompt_columns
    if batch.packed or not batch.branches:
        hidden = backbone.hidden(batch)
        behind = [hidden[:, width - 1 :]] * len(batch.branches)
    else:
        hidden, cache = backbone.prefill(batch)
        last = hidden[:, -1:]
        behind = [
            torch.cat([last, _extended(backbone, batch, branches, cache)], dim=1)
            for branches in batch.branches
        ]
    scores = [
        label_log_probs(backbone, states, branches)
        for states, branches in zip(behind, batch.branches, strict=True)
    ]
    log_probs = _in_label_order(scores, batch)
    return Scored(batch, log_probs, embedding(hidden[:, :width], batch.starts))


def label_log_probs(
    backbone: Backbone, states: torch.Tensor, branches: BranchColumns
) -> torch.Tensor:
    """[B, K] sums of token log-probabilities; `states` [B, 1 + columns, H] are the last prompt
    token's and the label columns'."""
    picked = states.flatten(0, 1).index_select(0, branches.sources)
    logits = backbone.head(picked).float()
    token_logits = logits[branches.edge_source, branches.edge_target]
    edges = token_logits - logits.logsumexp(dim=-1)[branches.edge_source]
    padded = torch.cat([edges, edges.new_zeros(1)])
    return padded[branches.paths].sum(dim=-1).masked_fill(~branches.labels, float("-inf"))


def _in_label_order(scores: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    if not scores:
        return torch.zeros(batch.rows, 0, device=batch.prompt_ids.device)
    if batch.label_places is None:
        return scores[0]
    # A last column of -inf is what place -1 reads.
    none = scores[0].new_full((batch.rows, 1), float("-inf"))
    together = torch.cat([*scores, none], dim=1)
    places = batch.label_places
    return together.gather(1, torch.where(places < 0, together.shape[1] - 1, places))


def embedding(prompt: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """f32 [B, H] mean over the real columns of left-padded `prompt` [B, P, H]."""
    real = torch.arange(prompt.shape[1], device=prompt.device) >= starts[:, None]
    # A product with 0/1 weights: sums in one matrix call without copying the hidden states.
    summed = torch.bmm(real[:, None, :].to(prompt.dtype), prompt).squeeze(1).float()
    return summed / real.sum(dim=1, keepdim=True)


def confidence(log_probs: torch.Tensor, temperature: float) -> Confidence:
    """Of [B, K] label scores, K >= 1; probability = softmax(score / temperature)."""
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
    backbone: Backbone, batch: Batch, branches: BranchColumns, cache: KeyValues
) -> torch.Tensor:
    seen = visible_behind(batch, branches)
    return backbone.extend(branches.tokens, branches.positions, seen, cache.behind())
