"""A world of toys: a real open_clip tower of 20 thousand weights, random heads, coloured images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.context import Context
from benchmark.contribution import contribution
from benchmark.models.backbone import Backbone, image_tower
from benchmark.models.encoder import Encoder
from benchmark.models.lora import Lora
from benchmark.seeds import generator
from benchmark.store import Artifact, key_of
from benchmark.training import Recipe
from benchmark.types import Expert, Grant, Model, StateDict

SIDE = 16
CLASSES = 4
TASKS = ("a", "b", "c")
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": SIDE, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16,
    },
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 1, "layers": 1},
}  # fmt: skip
BACKBONE = Backbone(
    model=MODEL,
    weights=None,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    logit_scale=20.0,
    image_size=SIDE,
    pretrain=None,
    name=None,
    precision="float32",
    micro_batch=None,
    compiled=False,
)
RECIPE = Recipe(
    epochs=1, min_steps=6, lr=1e-3, weight_decay=0.1, batch=16, warmup=0.1, clip=1.0,
    label_smoothing=0.0, epochs_of={}, crop=1.0,
)  # fmt: skip
TRAIN = Grant("train", labels=True)


def encoder() -> Encoder:
    """A fresh encoder with its meter at zero."""
    return BACKBONE.encoder()


def base(seed: int = 0) -> dict[str, Tensor]:
    """Random weights of the image tower."""
    state = image_tower(BACKBONE.build(seed).state_dict())
    return {name: value.detach().clone() for name, value in state.items()}


def head(task: str, classes: int = CLASSES) -> Tensor:
    """(C,16) random unit rows times the logit scale."""
    return normalize(torch.randn(classes, 16, generator=generator("head", task)), dim=-1) * 20.0


def split(task: str, name: str, count: int = 48, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Noisy images (N,3,16,16) uint8 whose brightness and tint give the class (N,) away."""
    rng = generator("tiny", task, name)
    labels = torch.randint(classes, (count,), generator=rng)
    tint = torch.rand(classes, 3, 1, 1, generator=generator("tint", task)) * 150
    noise = torch.rand(count, 3, SIDE, SIDE, generator=rng) * 100
    return (tint[labels] + noise).to(torch.uint8), labels


@dataclass
class MemoryStages:
    """`Context._stage` without a disk; `made` names the stages that were computed, in order."""

    kept: dict[str, Artifact] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)

    def __call__(
        self, name: str, version: int, inputs: Mapping[str, Any], make: Callable[[], Artifact]
    ) -> Artifact:
        key = key_of(name, version, inputs)
        if key not in self.kept:
            self.made.append(name)
            self.kept[key] = make()
        return self.kept[key]


def context(
    part: Any = None,
    *,
    role: tuple[str, ...] = ("test",),
    seed: int = 0,
    tasks: tuple[str, ...] = TASKS,
    visible: tuple[str, ...] | None = None,
    granted: tuple[Grant, ...] | None = None,
    images: int = 48,
    recipe: Recipe = RECIPE,
    peft: Lora | None = None,
    stages: Any = None,
) -> Context:
    """A context as the pipeline would hand to `part`, with images from memory.

    Args:
        part: the component; its `needs` are granted unless `granted` is given.
        role: names the component's draws.
        seed: the cell's seed.
        tasks: which have heads and images.
        visible: tasks whose images may be asked for; None means all.
        granted: instead of the component's needs.
        images: size of every split.
        recipe: how contributors fine-tune.
        peft: the adapter they train, if any.
        stages: called like `Store.stage`; None means a fresh `MemoryStages`.
    """
    needs = part.needs if granted is None and part is not None else granted or ()
    return Context(
        role=role,
        seed=seed,
        encoder=encoder(),
        heads={task: head(task) for task in tasks},
        recipe=recipe,
        peft=peft,
        device="cpu",
        granted=needs,
        visible=frozenset(tasks if visible is None else visible),
        scope={"suite": "tiny", "images": images},
        progress=lambda done, total: None,
        _split=lambda task, name: split(task, name, images),
        _stage=stages or MemoryStages(),
    )


def honest_expert(task: str, weights: StateDict, *, seed: int = 0, **settings: Any) -> Expert:
    """An expert fine-tuned by the pipeline's convention (same images, same generator)."""
    ctx = context(granted=(TRAIN,), seed=seed, **settings)
    weights, factors = contribution(weights, task, ctx.images(task, TRAIN), ctx)
    return Expert(task, weights, f"honest-{task}-{seed}", factors)


def random_experts(weights: StateDict, tasks: tuple[str, ...] = TASKS) -> list[Expert]:
    """Experts a small random step away from the base; no training."""
    experts = []
    for task in tasks:
        rng = generator("expert", task)
        moved = {
            name: value + 0.05 * torch.randn(value.shape, generator=rng)
            for name, value in weights.items()
        }
        experts.append(Expert(task, moved, f"random-{task}"))
    return experts


def lora_experts(weights: StateDict, part: Lora, tasks: tuple[str, ...] = TASKS) -> list[Expert]:
    """Experts a small random product away from the base; no training."""
    experts = []
    for task in tasks:
        rng = generator("lora expert", task)
        factors = {
            name: 0.1 * torch.randn(value.shape, generator=rng)
            for name, value in part.start(weights, rng).items()
        }
        moved = part.weights(weights, factors)
        experts.append(Expert(task, moved, f"lora-{task}", factors))
    return experts


def copied(weights: StateDict) -> dict[str, Tensor]:
    """An independent copy, to compare with after a call."""
    return {name: value.clone() for name, value in weights.items()}


def equal(first: StateDict, second: StateDict) -> bool:
    """Same names, and every tensor bit for bit (but for the sign of zero)."""
    same_names = first.keys() == second.keys()
    return same_names and all(torch.equal(value, second[name]) for name, value in first.items())


def merge_of(model: Model) -> Any:
    """A merge that returns the same model whatever it is given, as the pipeline's memo does."""
    return lambda base, experts, ctx: model
