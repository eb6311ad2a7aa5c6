"""Contrastive pre-training of the embedded suite's CLIP on captioned images in the easy style."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from benchmark.data.generate import Dataset, generate
from benchmark.models.heads import tokenizer
from benchmark.training import cosine_rate

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from benchmark.models.backbone import Backbone, Pretraining

SPLIT = "pretrain"


def pretrain(
    backbone: Backbone,
    datasets: Mapping[str, Dataset],
    rng: Generator,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Tensor]:
    """Trains both towers from scratch.

    Deviations from CLIP (Radford et al. 2021): a batch holds far more images than there are
    captions, so the loss classifies each image among the different captions of its batch (image to
    text only); the temperature is fixed.

    Args:
        backbone: Architecture and recipe.
        datasets: Tasks by name; those without a "pretrain" split are left out, and so never seen.
        rng: Draws the first weights, the order of the images and the captions.
        progress: Called with (steps done, steps in all).

    Returns:
        Full CLIP state dict, rounded to float16 (that is how it is shipped) and given as float32.
    """
    import torch

    if backbone.pretrain is None:
        raise ValueError("this backbone has no pre-training recipe")
    model = backbone.build(seed=int(torch.randint(2**31, (), generator=rng)))
    images, classes, captions = _corpus(datasets)
    tokens = tokenizer(int(backbone.model["text_cfg"]["context_length"]))
    table = torch.stack([tokens(prompts) for prompts in captions], dim=1)
    pixels = images.float().div_(255)
    pixels.sub_(torch.tensor(backbone.mean).view(1, 3, 1, 1))
    pixels.div_(torch.tensor(backbone.std).view(1, 3, 1, 1))
    with torch.no_grad():
        model.logit_scale.fill_(backbone.pretrain.temperature).log_()
    model.logit_scale.requires_grad_(False)
    _optimise(model, pixels, classes, table, backbone.pretrain, rng, progress)
    return {name: value.half().float() for name, value in model.state_dict().items()}


def _corpus(datasets: Mapping[str, Dataset]) -> tuple[Tensor, Tensor, list[list[str]]]:
    """All images, their class in the joint list of classes, and the captions [template][class].

    Every task has the same number of templates: shorter lists are repeated.
    """
    import torch

    seen = {name: data for name, data in datasets.items() if SPLIT in data.sizes}
    variants = max(len(data.templates) for data in seen.values())
    captions: list[list[str]] = [[] for _ in range(variants)]
    images, classes = [], []
    for data in seen.values():
        pixels, labels = generate(data, SPLIT, processes=os.cpu_count() or 1)
        images.append(torch.from_numpy(pixels))
        classes.append(torch.from_numpy(labels) + len(captions[0]))
        for variant, prompts in enumerate(captions):
            template = data.templates[variant % len(data.templates)]
            prompts.extend(template.replace("{}", name) for name in data.classnames)
    return torch.cat(images), torch.cat(classes), captions


def _optimise(
    model,
    pixels: Tensor,
    classes: Tensor,
    table: Tensor,
    recipe: Pretraining,
    rng: Generator,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Runs AdamW.

    `pixels` are normalised; `table` (classes, templates, context) holds every caption's tokens.
    """
    import torch
    from torch.nn.functional import cross_entropy, normalize

    model.train()
    optimiser = torch.optim.AdamW(
        (value for value in model.parameters() if value.requires_grad),
        lr=recipe.lr,
        betas=(0.9, 0.98),
        weight_decay=recipe.weight_decay,
    )
    per_epoch = len(pixels) // recipe.batch
    total = recipe.epochs * per_epoch
    for step in range(total):
        if step % per_epoch == 0:
            order = torch.randperm(len(pixels), generator=rng)
        first = step % per_epoch * recipe.batch
        chosen = order[first : first + recipe.batch]  # pyright: ignore[reportPossiblyUnbound]
        present, targets = classes[chosen].unique(return_inverse=True)
        # One template per class and step: two captions of a class would be negatives.
        variant = torch.randint(table.shape[1], (len(present),), generator=rng)
        text = normalize(model.encode_text(table[present, variant]), dim=-1)
        image = normalize(model.visual(pixels[chosen]), dim=-1)
        loss = cross_entropy(recipe.temperature * image @ text.T, targets)
        optimiser.param_groups[0]["lr"] = cosine_rate(recipe.lr, recipe.warmup, step, total)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimiser.step()
        if progress is not None:
            progress(step + 1, total)
    model.eval()
