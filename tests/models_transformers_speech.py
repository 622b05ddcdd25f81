"""Hugging Face folders that hear, made once and kept in the cache: Whisper tiny.en, and a small model trained here.

`whisper` has the weights of `tests.models_speech.whisper`, written as Transformers has them. `ctc` is a wav2vec2 of
half a million weights that was taught the clips by heart: there is no trained one in a package.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tests import models, models_speech
from tests.models_transformers import save

REVISION = 1
"""Raise it when a builder changes, so that models in the cache are made anew."""

LEARNED = {
    "goforward": "GO FORWARD TEN METERS",
    "0930": "HE MIGHT EVEN HAVE BEEN MADE AMIABLE HIMSELF",
}
"""What the small model has learned to hear."""


def whisper() -> Path:
    """Whisper tiny.en, which knows English alone."""
    return _path("whisper")


def ctc() -> Path:
    """A small wav2vec2 that hears `LEARNED`."""
    return _path("ctc")


def _path(name: str) -> Path:
    return models.built(f"transformers-speech-{version('transformers')}-{REVISION}", name, _BUILDERS[name], folder=True)


# --- Whisper --------------------------------------------------------------------------------------------------------

_TOKENIZER = {
    "tokenizer_class": "WhisperTokenizer",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
    "model_max_length": 1024,
}
FEATURES = {
    "feature_extractor_type": "WhisperFeatureExtractor",
    "feature_size": 80,
    "sampling_rate": 16_000,
    "hop_length": 160,
    "n_fft": 400,
    "chunk_length": 30,
    "padding_value": 0.0,
    "return_attention_mask": False,
}


def _whisper(folder: Path) -> None:
    import torch
    import transformers

    source = models_speech.whisper()
    told = json.loads((source / "config.json").read_text())
    weights = models_speech.weights()
    positions, width = weights["decoder/position_encodings/encodings"].shape
    layers = {part: sum(f"{part}/layer_{i}/ffn/layer_norm/beta" in weights for i in range(99)) for part in _PARTS}
    tokens = {"bos_token_id": 50256, "eos_token_id": 50256, "pad_token_id": 50256, "decoder_start_token_id": 50257}
    config = transformers.WhisperConfig(
        vocab_size=len(weights["decoder/embeddings/weight"]),
        num_mel_bins=weights["encoder/conv1/weight"].shape[1],
        d_model=width,
        max_target_positions=positions,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=int(weights["encoder/num_heads"]),
        decoder_attention_heads=int(weights["decoder/num_heads"]),
        encoder_ffn_dim=len(weights["encoder/layer_0/ffn/linear_0/bias"]),
        decoder_ffn_dim=len(weights["decoder/layer_0/ffn/linear_0/bias"]),
        **tokens,
    )
    model = transformers.WhisperForConditionalGeneration(config)
    own = {name: torch.from_numpy(value.astype(np.float32)) for name, value in _renamed(weights)}
    own["proj_out.weight"] = own["model.decoder.embed_tokens.weight"]
    model.load_state_dict(own)
    model.half()  # as they are stored
    model.generation_config = transformers.GenerationConfig(
        alignment_heads=told["alignment_heads"],
        suppress_tokens=told["suppress_ids"],
        begin_suppress_tokens=told["suppress_ids_begin"],
        is_multilingual=False,
        max_initial_timestamp_index=50,
        max_length=448,
        no_timestamps_token_id=50362,
        prev_sot_token_id=50360,
        return_timestamps=False,
        **tokens,
    )
    save(model, folder)
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER))
    (folder / "preprocessor_config.json").write_text(json.dumps(FEATURES))


_PARTS = ("encoder", "decoder")


def _renamed(weights: dict[str, np.ndarray[Any, Any]]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """The weights by Transformers' names, with queries, keys and values apart."""
    for name, value in weights.items():
        if not value.ndim:
            continue
        part, _, rest = name.partition("/")
        place, _, kind = rest.rpartition("/")
        kind = {"gamma": "weight", "beta": "bias", "encodings": "weight"}.get(kind, kind)
        layer, _, inner = place.partition("/")
        if not layer.startswith("layer_") or layer == "layer_norm":
            named = {"embeddings": "embed_tokens", "position_encodings": "embed_positions"}.get(place, place)
            yield f"model.{part}.{named}.{kind}", value
            continue
        names = _LAYER[inner]
        for one, piece in zip(names, np.split(value, len(names)), strict=True):
            if not one.endswith("k_proj") or kind == "weight":  # keys have no bias
                yield f"model.{part}.layers.{layer.removeprefix('layer_')}.{one}.{kind}", piece


_LAYER = {
    "self_attention/layer_norm": ("self_attn_layer_norm",),
    "self_attention/linear_0": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "self_attention/linear_1": ("self_attn.out_proj",),
    "attention/layer_norm": ("encoder_attn_layer_norm",),
    "attention/linear_0": ("encoder_attn.q_proj",),
    "attention/linear_1": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
    "attention/linear_2": ("encoder_attn.out_proj",),
    "ffn/layer_norm": ("final_layer_norm",),
    "ffn/linear_0": ("fc1",),
    "ffn/linear_1": ("fc2",),
}


# --- CTC ------------------------------------------------------------------------------------------------------------

_LETTERS = "ETAONIHSRDLUMWCFGYPBVK'XJQZ"


def ctc_folder(folder: Path, architecture: str = "Wav2Vec2ForCTC", **settings: Any) -> Any:
    """An untrained model of a family with such heads; returns it, and its feature extractor and tokenizer."""
    import torch
    import transformers

    torch.manual_seed(0)
    vocabulary = {token: i for i, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", "|", *_LETTERS))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))
    masked = settings.get("feat_extract_norm") == "layer"
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=masked)
    cls = getattr(transformers, architecture)
    sizes: dict[str, Any] = {
        "vocab_size": len(vocabulary),
        "hidden_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 192,
        "conv_dim": (64,) * 7,
        "num_conv_pos_embeddings": 16,
        "num_conv_pos_embedding_groups": 4,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "feat_proj_dropout": 0.0,
        "activation_dropout": 0.0,
        "final_dropout": 0.0,
        "layerdrop": 0.0,
        "mask_time_prob": 0.0,
        "ctc_zero_infinity": True,
        "pad_token_id": 0,
    }
    model = cls(cls.config_class(**{**sizes, **settings}))
    save(model, folder)
    extractor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model, extractor, tokenizer


def _ctc(folder: Path) -> None:
    """Learns some clips by heart: each of its letters, where it is said."""
    import torch

    model, extractor, tokenizer = ctc_folder(folder)
    inputs = [
        extractor(models_speech.sound(name), sampling_rate=16_000, return_tensors="pt").input_values for name in LEARNED
    ]
    targets = [torch.tensor([tokenizer(text).input_ids]) for text in LEARNED.values()]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=_MOST_STEPS)
    model.train()
    for step in range(_MOST_STEPS):
        worst = 0.0
        for values, labels in zip(inputs, targets, strict=True):
            optimizer.zero_grad()
            loss = model(input_values=values, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            worst = max(worst, float(loss))
        schedule.step()
        if step > 100 and worst < 0.5:
            break
    save(model.eval(), folder)


_MOST_STEPS = 800
_BUILDERS: dict[str, Callable[[Path], None]] = {"whisper": _whisper, "ctc": _ctc}
