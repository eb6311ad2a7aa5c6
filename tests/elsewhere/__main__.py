"""`python -m tests.elsewhere`: write the checkpoints again (needs transformers and peft).

A CLIP of 20 thousand weights as transformers saves it (whole, and its vision model alone), LoRA
adapters of peft on it and on the open_clip model of `tests.tiny`, and in answers.safetensors the
images, the base and the features that transformers, peft and open_clip compute.
"""

import shutil
from pathlib import Path

import peft
import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel

from tests import tiny

HERE = Path(__file__).parent
ALIKE = {"hidden_act": "gelu"}
VISION = {
    "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 16, "patch_size": 8, **ALIKE,
}  # fmt: skip
TEXT = {
    "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1,
    "vocab_size": 64, "max_position_embeddings": 8, "eos_token_id": 63, "bos_token_id": 62,
    "pad_token_id": 0, **ALIKE,
}  # fmt: skip


def shaken(model, seed):
    """Every weight moved, so that no bias is 0 and no two tensors are alike."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.1 * torch.randn(value.shape, generator=rng))
    return model.eval()


def adapted(model, **settings):
    """A LoRA model whose B is not 0."""
    made = peft.get_peft_model(model, peft.LoraConfig(r=2, lora_alpha=6, **settings))
    rng = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_" in name:
                value.copy_(0.1 * torch.randn(value.shape, generator=rng))
    return made.eval()


def saved(model, folder):
    """Save, without the card that peft and transformers write."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    for path in folder.iterdir():
        if path.suffix not in (".json", ".safetensors") or path.name.startswith("generation"):
            path.unlink()


@torch.no_grad()
def main():
    torch.manual_seed(3)
    images = torch.rand(4, 3, 16, 16)
    answers = {"images": images}
    config = CLIPConfig(vision_config=VISION, text_config=TEXT, projection_dim=16)
    clip = shaken(CLIPModel(config), 1)
    saved(clip, HERE / "clip")
    features = clip.vision_model(images).pooler_output
    answers["clip"] = clip.visual_projection(features)
    tokens = torch.tensor([[62, 5, 9, 63, 0, 0, 0, 0], [62, 7, 63, 0, 0, 0, 0, 0]])
    answers |= {
        "tokens": tokens,
        "text": clip.text_projection(clip.text_model(tokens).pooler_output),
    }
    vision = CLIPVisionModel(config.vision_config)
    vision.load_state_dict(
        {k.removeprefix("vision_model."): v for k, v in clip.vision_model.state_dict().items()}
    )
    saved(vision, HERE / "vision")
    model = adapted(clip, target_modules=r"vision_model.*(q_proj|out_proj|fc1)", use_rslora=True)
    saved(model, HERE / "lora_hugging_face")
    merged = model.merge_and_unload()
    answers["lora_hugging_face"] = merged.visual_projection(
        merged.vision_model(images).pooler_output
    )
    ours = shaken(tiny.BACKBONE.build(0), 2)
    answers |= {f"base/{name}": value.clone() for name, value in ours.state_dict().items()}
    model = adapted(ours, target_modules=["attn", "c_fc", "c_proj"], alpha_pattern={"c_fc": 3})
    saved(model, HERE / "lora_open_clip")
    merged = model.merge_and_unload()
    answers["lora_open_clip"] = merged.visual(images)
    answers |= {
        f"merged/{name}": value.clone() for name, value in merged.visual.state_dict().items()
    }
    save_file(
        {name: one.contiguous() for name, one in answers.items()}, HERE / "answers.safetensors"
    )


main()
