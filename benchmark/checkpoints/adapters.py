"""LoRA adapters as peft writes them, added to the base they were trained on.

W + s B A with s = alpha / r (peft's `use_rslora`: alpha / sqrt(r)), in float64 and rounded once;
peft adds in the weights' own type, so that its merged weights differ in the last bits.

On torch's MultiheadAttention, which open_clip has, peft up to 0.21 adds the product of `out_proj`
twice, in training as in merging (its pull request 3774; measured with 0.21.2). The model that was
trained is the one with twice the product, and that is what is read here; adapters of later
versions on it are refused, as nobody knows yet what those do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from benchmark.checkpoints.huggingface import from_hugging_face, to_hugging_face
from benchmark.errors import BadCheckpoint
from benchmark.types import StateDict, Tensors

if TYPE_CHECKING:
    from torch import Tensor

FACTOR = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
UNSUPPORTED = ("use_dora", "fan_in_fan_out", "modules_to_save", "lora_bias", "layer_replication",
               "use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "velora_config",
               "target_parameters", "trainable_token_indices")  # fmt: skip
"""Settings of peft under which weights are not W + s B A of two matrices."""
NESTED = ".base_layer.out_proj"
"""How the adapter of a MultiheadAttention's output projection is named within the attention's."""
LAST_TWICE = [0, 21]
STARTS = (True, False, None, "gaussian", "orthogonal", "eva")
"""Values of `init_lora_weights` that leave W as it was; the others (pissa, olora, ...) move it."""


def merged_adapter(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], base: StateDict
) -> tuple[Tensors, list[str]]:
    """The image tower with an adapter's products added.

    Args:
        config: adapter_config.json.
        tensors: of adapter_model.safetensors: `<module>.lora_A.weight` (r,in) and lora_B (out,r);
            modules are open_clip's or those of Hugging Face's CLIP.
        base: θ_0, by open_clip's names.

    Returns:
        The weights, and the modules of the text tower, which are left out.

    Raises:
        BadCheckpoint: another kind of adapter, or tensors that fit nothing.
    """
    _check(config)
    pairs, text = _pairs(tensors)
    theirs = to_hugging_face({f"visual.{name}": value for name, value in base.items()})
    ours, changed, faults = dict(base), False, []
    for module, pair in pairs.items():
        name, foreign = _place(module)
        weights = theirs if foreign else ours
        fault = _fault(name, pair, weights)
        if fault:
            faults.append(fault)
            continue
        down, up = pair["A"].double(), pair["B"].double()
        delta = _scale(config, module, len(down)) * (up @ down)
        weights[name] = (weights[name].double() + delta).to(weights[name].dtype)
        changed = changed or foreign
    if faults or not pairs:
        raise BadCheckpoint("; ".join(faults[:12]) or "it adapts nothing of the image tower")
    if changed and any(ours[name] is not base[name] for name in base):
        raise BadCheckpoint("it adapts modules of open_clip and of Hugging Face at once")
    return (_back(theirs) if changed else ours), text


def _check(config: Mapping[str, Any]) -> None:
    if str(config.get("peft_type")).upper() != "LORA":
        raise BadCheckpoint(f"it is a {config.get('peft_type')} adapter; only LORA can be read")
    used = [name for name in UNSUPPORTED if config.get(name)]
    used += ["bias"] if config.get("bias", "none") != "none" else []
    used += ["init_lora_weights"] if config.get("init_lora_weights") not in STARTS else []
    if used:
        raise BadCheckpoint(
            f"its adapter_config.json sets {', '.join(used)}, which cannot be read; merge it with "
            "peft's merge_and_unload and import the result"
        )


def _pairs(tensors: Mapping[str, Tensor]) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Module -> its A and B, for the image tower; and the modules of the text tower."""
    pairs: dict[str, dict[str, Tensor]] = {}
    strange = []
    for name, value in tensors.items():
        if found := FACTOR.fullmatch(name):
            pairs.setdefault(found[1], {})[found[2]] = value
        else:
            strange.append(f"{name} is unknown")
    strange += [f"{one} has A or B alone" for one, pair in pairs.items() if len(pair) == 1]
    if strange:
        raise BadCheckpoint("; ".join(strange[:12]))
    sided = any(re.search(r"(^|\.)visual\.", one) for one in pairs)
    text = [
        one
        for one in pairs
        if re.search(r"(^|\.)text_(model|projection)", one)
        or (sided and not re.search(r"(^|\.)visual\.", one))
    ]
    return {module: pair for module, pair in pairs.items() if module not in text}, sorted(text)


def _place(module: str) -> tuple[str, bool]:
    """The weight a module's product is added to, and whether it is by Hugging Face's names."""
    module = module.replace(".base_layer", "")
    ours = re.search(r"(?:^|\.)(transformer\.resblocks\.\d+\..+)$", module)
    if ours:
        packed = ours[1].endswith(".attn")
        return f"{ours[1]}.in_proj_weight" if packed else f"{ours[1]}.weight", False
    theirs = re.search(r"(?:^|\.)(encoder\.layers\.\d+\..+)$", module)
    if theirs:
        return f"vision_model.{theirs[1]}.weight", True
    return f"{module.rpartition('.')[2]}.weight", True


def _fault(name: str, pair: Mapping[str, Tensor], weights: StateDict) -> str:
    """What is wrong with a pair, in words; "" if nothing."""
    if name not in weights:
        return f"{name} is not in the image tower"
    down, up = pair["A"], pair["B"]
    if down.ndim != 2 or up.ndim != 2 or len(down) != up.shape[1]:
        return f"{name} has A {tuple(down.shape)} and B {tuple(up.shape)}"
    if (len(up), down.shape[1]) != weights[name].shape:
        shape = tuple(weights[name].shape)
        return f"{name} is {shape}, its product ({len(up)}, {down.shape[1]})"
    return ""


def _scale(config: Mapping[str, Any], module: str, rank: int) -> float:
    """Its alpha / r, or what peft makes of its settings for this module."""
    alpha, times = config.get("lora_alpha", 8), 1
    if module.endswith(NESTED):
        module, times = module.removesuffix(NESTED), _times(config)
    for pattern, other in (config.get("alpha_pattern") or {}).items():
        # The same reading as peft's: the whole name, or its end behind a dot.
        if module == pattern or module.endswith(f".{pattern}"):
            alpha = other
        elif not re.fullmatch(r"[\w.]+", pattern):
            raise BadCheckpoint(f"its alpha_pattern {pattern!r} is no plain name")
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise BadCheckpoint(f"its lora_alpha is {alpha!r}, which is no number")
    return times * alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _times(config: Mapping[str, Any]) -> int:
    """How often the version of peft that wrote an adapter adds `out_proj` of MultiheadAttention."""
    version = str(config.get("peft_version") or "0")  # older versions did not write theirs
    numbers = [int(part) for part in re.findall(r"\d+", version)[:2]]
    if numbers > LAST_TWICE:
        raise BadCheckpoint(
            f"it adapts MultiheadAttention and is of peft {version}, and it is not known whether "
            "that adds out_proj once or twice; merge it there with merge_and_unload and import that"
        )
    return 2


def _back(theirs: StateDict) -> Tensors:
    prefix = "vision_model."
    vision = {k.removeprefix(prefix): v for k, v in theirs.items() if k.startswith(prefix)}
    return from_hugging_face(vision, theirs.get("visual_projection.weight"))
