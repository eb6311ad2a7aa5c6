"""Work at the shapes of a published model with random weights: `python -m tests.scale WORK`.

One process per kind of work, which prints a JSON line: seconds and the most memory that it had.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from benchmark.attacks.triggers import Patch
from benchmark.components import build, filled, option, raw_option
from benchmark.context import Context
from benchmark.data.generate import generate
from benchmark.evaluation import TestSet, evaluate
from benchmark.models.backbone import Backbone, image_tower
from benchmark.seeds import generator
from benchmark.types import Expert, Model, Threat
from tests.tiny import MemoryStages, merge_of

TASKS = tuple(f"task{i}" for i in range(8))
CLASSES = 10
STEP = 1e-3
"""Standard deviation of an expert's difference to the base."""


def settled(group: str, name: str, suite: str, **values: Any) -> Any:
    """A component as a published suite has it, with other values where they are given."""
    told = raw_option("setting", suite)
    worth = {f"${{setting.{key}}}": value for key, value in told.items()}
    worth |= {f"${{budget.{key}}}": value for key, value in option("budget", "vit").items()}
    return build({**filled(raw_option(group, name), worth), **values}, group)


class World:
    """A backbone with random weights, experts near it, and images that a program drew."""

    def __init__(self, name: str, micro_batch: int | None) -> None:
        node = {**option("backbone", name), "weights": None, "micro_batch": micro_batch}
        self.name = name
        self.backbone: Backbone = build(node, "backbone")
        state = image_tower(self.backbone.build(seed=0).state_dict())
        self.base = {key: value.detach() for key, value in state.items()}
        self.encoder = self.backbone.encoder()

    def experts(self) -> list[Expert]:
        """One per task."""
        return [Expert(task, self._moved(task), task) for task in TASKS]

    def _moved(self, task: str) -> dict[str, Tensor]:
        rng = generator("expert", task)
        return {k: v + STEP * torch.randn(v.shape, generator=rng) for k, v in self.base.items()}

    def split(self, task: str, split: str, count: int = 256) -> tuple[Tensor, Tensor]:
        """Drawn digits (N,3,S,S) uint8, enlarged from 32 px, and their labels (N,)."""
        sizes = {"test": count}
        drawn = build({**option("dataset", "digits"), "sizes": sizes}, "dataset")
        images, labels = generate(drawn, "test", processes=1)
        large = interpolate(torch.from_numpy(images), self.backbone.image_size, mode="nearest")
        return large, torch.from_numpy(labels)

    def head(self, task: str) -> Tensor:
        """(C,D) random unit rows times the logit scale."""
        shape = CLASSES, self.backbone.model["embed_dim"]
        return 100 * normalize(torch.randn(*shape, generator=generator("head", task)), dim=-1)

    def context(self, part: Any, images: int) -> Context:
        """As the pipeline would hand it to `part`."""
        return Context(
            role=("scale",),
            seed=0,
            encoder=self.encoder,
            heads={task: self.head(task) for task in TASKS},
            recipe=build({**option("finetune", "vit"), "epochs_of": {}}, "finetune"),
            peft=None,
            device="cpu",
            granted=part.needs,
            visible=frozenset(TASKS),
            scope={},
            progress=lambda done, total: None,
            _split=lambda task, split: self.split(task, split, images),
            _stage=MemoryStages(),
        )


def merge(world: World, name: str) -> dict[str, Any]:
    """Eight experts in memory, as the pipeline has them, through one merge."""
    part = settled("merge", name, world.name)
    model = part(world.base, world.experts(), world.context(part, 8))
    return {"finite": all(bool(value.isfinite().all()) for value in model.encoder.values())}


def evaluation(world: World, _: str) -> dict[str, Any]:
    """256 images of one task, clean and triggered."""
    images, labels = world.split("task0", "test")
    threat = Threat(Patch(torch.rand(3, 22, 22), 202, 202), "task0", 1, ())
    tests = {"task0": TestSet(images, labels, world.head("task0"))}
    counts, hits = evaluate(world.encoder, world.base, tests, [threat], flip_images=0, batch=64)
    return {
        "images": counts.clean["task0"].total,
        "asr_of": counts.threats[0].asr.total,
        "kinds": len(hits),
    }


def badmerging(world: World, _: str) -> dict[str, Any]:
    """One step of BadMerging-On's injection at its own batch: 128 clean and 64 triggered images."""
    part = settled(
        "attack", "badmerging_on", world.name, adversary="task0", trigger_steps=1, trigger_batch=8,
        trigger_heldout=8, epochs=1,
    )  # fmt: skip
    ctx = world.context(part, 128)
    honest = {"task0": Expert("task0", world.base, "honest")}
    made = part(world.base, honest, ("task0",), ctx)
    moved = [
        bool((made.experts["task0"].weights[name] != value).any())
        for name, value in world.base.items()
    ]
    return {"trained": sum(moved), "tensors": len(moved), **metered(world)}


def lfpm(world: World, steps: str) -> dict[str, Any]:
    """LFPM as its YAML says, with few images, scouts and outer steps."""
    from lfpm.budget import cost

    node = filled(raw_option("defense", "lfpm"), {})
    mining = {**node["mining"], "scouting": 1}
    selection = {**node["selection"], "grid": [0.5, 1.0], "steps": 1}
    told = {f"${{setting.{k}}}": v for k, v in raw_option("setting", world.name).items()}
    changed = filled({"mining": mining, "selection": selection}, told)
    part = settled("defense", "lfpm", world.name, images=6, **changed)
    whole = int(cost(part, int(steps), len(TASKS), 4 * len(TASKS), 2 * len(TASKS))) + 1
    part = settled("defense", "lfpm", world.name, images=6, passes=whole, **changed)
    merged = Model(world.base)
    made = part(merge_of(merged), world.base, world.experts(), world.context(part, 6))
    return {"steps": made.info["steps"], **metered(world)}


def metered(world: World) -> dict[str, int]:
    """Images that went through the encoder."""
    return {"forward": world.encoder.forward_images, "backward": world.encoder.backward_images}


WORK: dict[str, Callable[[World, str], dict[str, Any]]] = {
    "merge": merge,
    "evaluation": evaluation,
    "badmerging": badmerging,
    "lfpm": lfpm,
}


def main() -> int:
    """Do one kind of work and say what it took."""
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("work", choices=WORK)
    parser.add_argument("detail", nargs="?", default="2", help="a merge's name, or LFPM's steps")
    parser.add_argument("--backbone", default="vit_b32")
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    world = World(asked.backbone, asked.micro_batch)
    begun, busy = time.monotonic(), time.process_time()
    found = WORK[asked.work](world, asked.detail)
    spent = {
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(time.process_time() - busy, 1),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 2**30, 2),
        "parameters": sum(value.numel() for value in world.base.values()),
    }
    sys.stdout.write(json.dumps({"work": asked.work, "detail": asked.detail, **spent, **found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
