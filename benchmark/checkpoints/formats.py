"""A CLIP as a folder that others load: open_clip's files, or those of transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark.checkpoints.huggingface import to_hugging_face
from benchmark.checkpoints.manifest import activation_of
from benchmark.errors import BenchError
from benchmark.types import StateDict

if TYPE_CHECKING:
    from benchmark.models.backbone import Backbone

Files = dict[str, bytes]
"""Name -> content of a folder's files."""
VISION = frozenset({"image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio"})
TEXT = frozenset({"context_length", "vocab_size", "width", "heads", "layers"})
"""Settings of open_clip's towers that transformers' CLIP has, too."""
ACTIVATIONS = {"quickgelu": "quick_gelu", "gelu": "gelu"}
"""Our names -> those of transformers."""


def open_clip_files(clip: StateDict, backbone: Backbone) -> Files:
    """For `open_clip.create_model_and_transforms("local-dir:FOLDER")`; exact.

    Args:
        clip: both towers by open_clip's names, float32.
        backbone: whose architecture and preprocessing hold.
    """
    seen = {"size": backbone.image_size, "interpolation": "bicubic", "resize_mode": "shortest"}
    config = {
        "model_cfg": backbone.model,
        "preprocess_cfg": {"mean": backbone.mean, "std": backbone.std, **seen},
    }
    weights = _safetensors(clip, backbone)
    return {"open_clip_config.json": _json(config), "open_clip_model.safetensors": weights}


def hugging_face_files(clip: StateDict, backbone: Backbone) -> Files:
    """For `transformers.CLIPModel.from_pretrained(FOLDER)`; the same numbers under other names.

    Also for CLIPVisionModelWithProjection, whose `image_embeds` are the features, and for
    CLIPProcessor and pipelines where the vocabulary is CLIP's own.

    Args:
        clip: both towers by open_clip's names, float32.
        backbone: whose architecture and preprocessing hold.

    Raises:
        BenchError: the architecture has a part that transformers' CLIP has not.
    """
    config = hugging_face_config(backbone)
    return {
        "config.json": _json(config),
        "preprocessor_config.json": _json(_image_processor(backbone)),
        "model.safetensors": _safetensors(to_hugging_face(clip), backbone),
        **_tokenizer(backbone.model["text_cfg"]),
    }


def hugging_face_config(backbone: Backbone) -> dict[str, Any]:
    """config.json of transformers' CLIPModel."""
    vision, text = backbone.model["vision_cfg"], backbone.model["text_cfg"]
    _check(backbone.model, {"embed_dim", "quick_gelu", "vision_cfg", "text_cfg"}, "")
    _check(vision, VISION, ".vision_cfg")
    _check(text, TEXT, ".text_cfg")
    act = {"hidden_act": ACTIVATIONS[activation_of(backbone)], "layer_norm_eps": 1e-5}
    eyes = {
        "model_type": "clip_vision_model",
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "num_attention_heads": vision["width"] // vision.get("head_width", 64),
        **_sizes(vision, vision.get("mlp_ratio", 4)),
        **act,
    }
    words = {
        "model_type": "clip_text_model",
        "max_position_embeddings": text["context_length"],
        "vocab_size": text["vocab_size"],
        "num_attention_heads": text["heads"],
        "bos_token_id": text["vocab_size"] - 2,
        "eos_token_id": text["vocab_size"] - 1,  # open_clip reads where the largest token stands
        "pad_token_id": 0,
        **_sizes(text, 4),
        **act,
    }
    size = {"projection_dim": backbone.model["embed_dim"]}
    towers = {"text_config": {**words, **size}, "vision_config": {**eyes, **size}}
    return {"architectures": ["CLIPModel"], "model_type": "clip", **size, **towers}


def _sizes(tower: Mapping[str, Any], ratio: float) -> dict[str, Any]:
    width = tower["width"]
    inner = {"hidden_size": width, "intermediate_size": int(width * ratio)}
    return {**inner, "num_hidden_layers": tower["layers"]}


def _check(settings: Mapping[str, Any], known: set[str] | frozenset[str], where: str) -> None:
    """Refuse settings under which transformers would compute something else."""
    if strange := sorted(settings.keys() - known):
        raise BenchError(
            f"transformers' CLIP has no backbone.model{where}.{strange[0]}; say --format open_clip"
        )


def _image_processor(backbone: Backbone) -> dict[str, Any]:
    """preprocessor_config.json: what CLIP does to an image."""
    side = backbone.image_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": backbone.mean,
        "image_std": backbone.std,
    }


def _tokenizer(text: Mapping[str, Any]) -> Files:
    """The files of transformers' CLIPTokenizer: open_clip's vocabulary and merges.

    Nothing where the text tower has another vocabulary.
    """
    from benchmark.models.heads import tokenizer

    length = int(text["context_length"])
    ours = tokenizer(length)
    if len(ours.encoder) != text["vocab_size"]:
        return {}
    start, end = "<|startoftext|>", "<|endoftext|>"
    theirs = {"<start_of_text>": start, "<end_of_text>": end}
    vocabulary = {theirs.get(token, token): number for token, number in ours.encoder.items()}
    merges = [" ".join(pair) for pair in sorted(ours.bpe_ranks, key=ours.bpe_ranks.__getitem__)]
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": length,
        "bos_token": start,
        **dict.fromkeys(("eos_token", "unk_token", "pad_token"), end),
    }
    return {
        "vocab.json": json.dumps(vocabulary, ensure_ascii=False).encode(),
        "merges.txt": "\n".join(["#version: 0.2", *merges, ""]).encode(),
        "tokenizer_config.json": _json(settings),
    }


def _safetensors(tensors: StateDict, backbone: Backbone) -> bytes:
    from safetensors.torch import save

    kept = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return save(kept, metadata={"format": "pt", "activation": activation_of(backbone)})


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()
