"""The configuration of the tiny thinker, its prompt template and its preprocessing."""

from __future__ import annotations

from typing import Any

from pipelines.bundle import parameters
from pipelines.models import tokens as text
from pipelines.models.qwen import log_mel, patches
from pipelines.models.tokens import Template, Turn
from recipes.triage import tokens

TEMPLATE = Template(
    image=(tokens.IMAGE_START, tokens.IMAGE, tokens.IMAGE_END),
    audio=(tokens.AUDIO_START, tokens.AUDIO, tokens.AUDIO_END),
    between="\n",
    end=tokens.END,
    classify=Turn(tokens.START, tokens.END + tokens.TRIAGE),
    embed=Turn(tokens.START, tokens.END),
    generate=Turn(tokens.START, tokens.END + tokens.DESCRIBE),
)


def model_config() -> dict[str, Any]:
    """A Qwen2.5-Omni thinker of 1.64 million parameters; sizes from earlier trials."""
    number = special_ids()
    return {
        "model_type": "qwen2_5_omni_thinker",
        "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
        "tie_word_embeddings": True,
        "image_token_id": number[tokens.IMAGE],
        "audio_token_id": number[tokens.AUDIO],
        "video_token_id": number[tokens.VIDEO],
        "vision_start_token_id": number[tokens.IMAGE_START],
        "vision_end_token_id": number[tokens.IMAGE_END],
        "audio_start_token_id": number[tokens.AUDIO_START],
        "audio_end_token_id": number[tokens.AUDIO_END],
        "user_token_id": number[tokens.START],
        "position_id_per_seconds": 25,
        "pad_token_id": number[tokens.PAD],
        "text_config": {
            "model_type": "qwen2_5_omni_text",
            "vocab_size": tokens.VOCABULARY,
            "hidden_size": 128,
            "intermediate_size": 320,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "max_window_layers": 4,
            "use_sliding_window": False,
            "rope_theta": 10000.0,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 6, 6],
            },
            "tie_word_embeddings": True,
            "pad_token_id": number[tokens.PAD],
            "bos_token_id": number[tokens.START],
            "eos_token_id": number[tokens.END],
        },
        "vision_config": {
            "model_type": "qwen2_5_omni_vision_encoder",
            "depth": 3,
            "hidden_size": 96,
            "intermediate_size": 192,
            "num_heads": 4,
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [0, 1, 2],
            "out_hidden_size": 128,
            "tokens_per_second": 25,
        },
        "audio_config": {
            "model_type": "qwen2_5_omni_audio_encoder",
            "num_mel_bins": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 192,
            "d_model": 96,
            "n_window": 100,
            "max_source_positions": 100,
            "output_dim": 128,
            "dropout": 0.0,
            "attention_dropout": 0.0,
            "activation_dropout": 0.0,
        },
    }


def preprocess() -> dict[str, Any]:
    """The four blocks of preprocess.json."""
    from pipelines.media import decode

    return {
        "image": parameters.write(patches.DEFAULT),
        "audio": parameters.write(log_mel.DEFAULT),
        "text": parameters.write(text.DEFAULT),
        "limits": parameters.write(decode.InputLimits()),
    }


def special_ids() -> dict[str, int]:
    """The tokenizer's trainer assigns ids to special tokens first, in this order."""
    return {token: place for place, token in enumerate(tokens.SPECIAL)}
