"""The bundle's own tokenizer: a small byte-level BPE, so that any text has tokens."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pipelines.types import MODALITIES
from recipes.triage import data, notes

VOCABULARY = 1024
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE, IMAGE_END = "<|vision_bos|>", "<|IMAGE|>", "<|vision_eos|>"
AUDIO_START, AUDIO, AUDIO_END = "<|audio_bos|>", "<|AUDIO|>", "<|audio_eos|>"
VIDEO = "<|VIDEO|>"  # the model's config names it; nothing uses it
TRIAGE, DESCRIBE = "<|triage|>", "<|describe|>"
SPECIAL = (PAD, START, END, IMAGE_START, IMAGE, IMAGE_END, AUDIO_START, AUDIO, AUDIO_END, VIDEO,
           TRIAGE, DESCRIBE)  # fmt: skip


def train(seed: int, texts: int = 20_000) -> Tokenizer:
    """Learns merges from training notes, labels and descriptions; the same seed gives the same
    file."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus(seed, texts), trainer)
    return tokenizer


def corpus(seed: int, texts: int) -> list[str]:
    rng = np.random.default_rng(seed)
    lines: list[str] = []
    for _ in range(texts):
        truth = data.state(rng)
        lines.append(notes.write(rng, truth.note, "train"))
        lines.append(data.description(truth, MODALITIES))
    return lines + list(data.LABELS) * 200
