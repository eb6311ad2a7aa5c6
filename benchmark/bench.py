"""One cell's stages, computed: data, heads, experts, attack, merge, defence, evaluations.

Each method loads what it needs through the store, so calling any of them computes exactly what is
missing.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from benchmark.artifacts import (
    dump_compromise,
    dump_expert,
    dump_model,
    load_compromise,
    load_expert,
    load_model,
    load_stressed,
)
from benchmark.cell import Cell, Stage
from benchmark.checkpoints.manifest import load_imported
from benchmark.components import role
from benchmark.context import Context, Progress
from benchmark.contribution import contribution
from benchmark.data.generate import generate
from benchmark.history import History
from benchmark.implanting import judged
from benchmark.measuring import measure, measure_curve
from benchmark.memoised import Incompatible, Memoised
from benchmark.models.backbone import image_tower
from benchmark.models.heads import zero_shot_head
from benchmark.pretraining import pretrain
from benchmark.store import Artifact, Store, key_of
from benchmark.stressing import stress
from benchmark.types import Expert, Grant, Merge, Model, Stressed

if TYPE_CHECKING:
    from torch import Tensor

    from benchmark.types import Compromise


class Bench:
    """The torch side of a cell."""

    def __init__(
        self, cell: Cell, store: Store, device: str = "cpu", progress: Progress | None = None
    ) -> None:
        self.cell = cell
        self.store = store
        self.device = device
        self.progress: Progress = progress or (lambda done, total: None)
        self._splits: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._history = History()  # of the innermost stage that is being made

    def _stage(self, stage: Stage, make: Callable[[], Artifact]) -> Artifact:
        name, version, inputs = stage
        started, before = time.monotonic(), self._images()
        outer, self._history = self._history, History()

        def measure() -> dict[str, Any]:
            seconds, images = time.monotonic() - started, self._images() - before
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            spent = {"seconds": seconds, "images_per_s": images / seconds, "peak_memory_mib": peak}
            curves = self._history.plain()
            rounded = {name: round(value, 3) for name, value in spent.items()}
            return {"images": images, **rounded, **({"history": curves} if curves else {})}

        try:
            return self.store.stage(name, version, inputs, make, measure)
        finally:
            self._history = outer

    def _watch(self, step: int, values: Mapping[str, float | Tensor]) -> None:
        self._history.note(step, values)

    def _images(self) -> int:
        return self.encoder.forward_images + self.encoder.backward_images

    # -- shared by many cells --

    def split(self, task: str, split: str) -> tuple[Tensor, Tensor]:
        """Images (N,3,S,S) uint8 and labels (N,) int64 of a split, in stored order."""

        def make() -> Artifact:
            dataset = self.cell.datasets[task]
            images, labels = generate(dataset, split, processes=1, progress=self.progress)
            return {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}, {}

        if (task, split) not in self._splits:
            mapped = getattr(self.cell.datasets[task], "mapped", None)
            if mapped is not None:
                images, labels = map(torch.from_numpy, mapped(split))
                self._splits[task, split] = images, labels
            else:
                tensors, _ = self._stage(self.cell.data(task, split), make)
                self._splits[task, split] = tensors["images"], tensors["labels"]
        return self._splits[task, split]

    @cached_property
    def clip(self) -> dict[str, Tensor]:
        """The full pre-trained CLIP: shipped, or made by the pre-training stage."""
        backbone = self.cell.backbone
        if backbone.weights is not None:
            return backbone.load()

        def make() -> Artifact:
            data = {task: self.cell.datasets[task] for task in self.cell.pretrain_tasks}
            rng = torch.Generator().manual_seed(0)  # as the shipped weights were made
            return pretrain(backbone, data, rng, progress=self.progress), {}

        return self._stage(self.cell.pretrain(), make)[0]

    def pretrained(self) -> None:
        """Run the pre-training stage if the backbone has no weights of its own."""
        _ = self.clip

    @cached_property
    def base(self) -> dict[str, Tensor]:
        """θ_0: the image tower's pre-trained weights."""
        return {name: value.to(self.device) for name, value in image_tower(self.clip).items()}

    @cached_property
    def encoder(self) -> Any:
        """The image tower as a function of its weights."""
        return self.cell.backbone.encoder(self.device)

    def head(self, task: str) -> Tensor:
        """The zero-shot head (C,D) of a task, rows times the logit scale."""

        def make() -> Artifact:
            data = self.cell.datasets[task]
            return {"head": self.text_head(data.classnames, data.templates)}, {}

        return self._stage(self.cell.head(task), make)[0]["head"].to(self.device)

    def text_head(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """The zero-shot head (C,D) of any class names; on the CPU, not kept."""
        return zero_shot_head(self.clip, self.cell.backbone, names, templates)

    def expert(self, task: str) -> Expert:
        """An honest contributor's weights, or what was imported in their place."""

        def make() -> Artifact:
            if task in self.cell.imported:
                return dump_expert(load_imported(self.cell.imported[task], self.base), None)
            everything = Grant("train", labels=True)
            ctx = self.context(("finetune",), (everything,), (task,))
            return dump_expert(*contribution(self.base, task, ctx.images(task, everything), ctx))

        stage = self.cell.expert(task)
        return load_expert(self._on_device(self._stage(stage, make)[0]), task, key_of(*stage))

    def _on_device(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in weights.items()}

    def context(
        self, role: tuple[str, ...], needs: tuple[Grant, ...], tasks: tuple[str, ...]
    ) -> Context:
        """What a component may see: images of `tasks` within `needs`, and their heads."""
        return Context(
            role=role,
            seed=self.cell.seed,
            encoder=self.encoder,
            heads={task: self.head(task) for task in tasks},
            recipe=self.cell.finetune,
            peft=self.cell.peft.adapter,
            device=self.device,
            granted=needs,
            visible=frozenset(tasks),
            scope=self.cell.scope(tasks),
            progress=self.progress,
            _split=self.split,
            _stage=self.store.stage,
            watch=self._watch,
            _text=self.text_head,
        )

    # -- this cell --

    def compromise(self) -> Compromise:
        """The attackers' experts, by task, and the threats they carry."""
        attack, stage = self.cell.attack, self.cell.compromise()

        def make() -> Artifact:
            tasks = self.cell.attack_tasks
            ctx = self.context(role("attack", attack), attack.needs, tasks)
            owned = frozenset(attack.adversaries or dict(self.cell.victims))
            honest = {task: self.expert(task) for task in attack.adversaries}
            # Of a victim that is not its own it does not even have the head.
            heads = {task: head for task, head in ctx.heads.items() if task in owned}
            ctx = replace(ctx, visible=owned, heads=heads, captions=self.cell.captions)
            return dump_compromise(attack(self.base, honest, attack.adversaries, ctx))

        tensors, info = self._stage(stage, make)
        return load_compromise(self._on_device(tensors), info, key_of(*stage))

    def implanted(self) -> str | None:
        """The attack's own verdict on dev images: None, or why the backdoor is not there."""
        return self._stage(self.cell.implanted(), lambda: judged(self))[1]["reason"]

    def experts(self, side: str) -> list[Expert]:
        """The experts merged on one of `cell.SIDES`, in the suite's order."""
        wanted = self.cell.expert_keys(side)
        replaced = self.compromise().experts if side == "attacked" else {}
        return [replaced.get(task) or self.expert(task) for task in wanted]

    def merge_context(self) -> Context:
        """The merge's own view, whoever calls it."""
        merge = self.cell.merge
        return self.context(role("merge", merge), merge.needs, self.cell.suite.tasks)

    def merged(self, side: str) -> Model:
        """The undefended merge."""

        def make() -> Artifact:
            experts = self.experts(side)
            if reason := self.cell.merge.accepts(experts):
                raise Incompatible(reason)
            return dump_model(self.cell.merge(self.base, experts, self.merge_context()))

        return self._model(*self._stage(self.cell.merged(side), make))

    def defended(self, side: str) -> Model:
        """The defended merge."""
        defense, stage = self.cell.defense, self.cell.defended(side)
        if stage == self.cell.merged(side):
            return self.merged(side)

        def make() -> Artifact:
            if reason := defense.accepts(self.cell.merge):
                raise Incompatible(reason)
            model = self.merged(side)
            memoised: Merge = Memoised(self, side, model)  # type: ignore[assignment]
            ctx = self.context(role("defense", defense), defense.needs, self.cell.suite.tasks)
            served = ctx.narrowed(adapters=model.adapters)
            return dump_model(defense(memoised, self.base, self.experts(side), served))

        return self._model(*self._stage(stage, make))

    def _model(self, tensors: Mapping[str, Tensor], info: Mapping[str, Any]) -> Model:
        return load_model(self._on_device(tensors), info)

    def model(self, subject: str) -> Model:
        """One of `cell.subjects()`."""
        model: dict[str, Callable[[], Model]] = {
            "main": lambda: self.defended("attacked"),
            "undefended": lambda: self.merged("attacked"),
            "pretrained": lambda: Model(self.base),
            "clean_merge": lambda: self.merged("clean"),
            "defended_clean_merge": lambda: self.defended("clean"),
            "honest_single": lambda: Model(self.expert(self.cell.single_task).weights),
            "attacker_single": lambda: self._attacker(),
            "without_attacker": lambda: self.merged("without"),
        }
        return model[subject]()

    def _attacker(self) -> Model:
        return Model(self.compromise().experts[self.cell.single_task].weights)

    def stressed(self, subject: str) -> Stressed:
        """A subject and its threats as they are measured: after the stress, if there is one."""
        model, stage = self.model(subject), self.cell.stressed(subject)
        if stage is None:
            return Stressed(model, self.compromise().threats)
        tensors, info = self._stage(stage, lambda: stress(self, model))
        return load_stressed(self._on_device(tensors), info, model)

    def evaluation(self, subject: str) -> None:
        """Measure a subject; counts go to the artifact's info."""
        self._stage(self.cell.evaluation(subject), lambda: measure(self, subject))

    def curve(self) -> None:
        """Measure the line from the undefended to the defended merge, as the suite asks."""
        if (stage := self.cell.curve()) is not None:
            self._stage(stage, lambda: measure_curve(self))
