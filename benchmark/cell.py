"""A cell: one combination of suite, attack, merge, defence and seed, and the keys of all it needs.

Keys are computed from values alone, without torch: planning, resuming and `status` are cheap.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from benchmark.aims import check_attack, known_captions
from benchmark.checkpoints.manifest import Imported, imported_experts
from benchmark.components import build, identity
from benchmark.errors import BenchError, nearest
from benchmark.measured import check_images, curve_inputs, image_keys
from benchmark.once import once
from benchmark.store import canonical, key_of
from benchmark.stressing import check_stress, stress_inputs
from benchmark.suite import Suite

Stage = tuple[str, int, dict[str, Any]]
"""What `key_of` and `Store.stage` take: a stage's name, its version, its inputs."""

COMPONENTS = ("backbone", "finetune", "peft", "attack", "merge", "defense", "stress")
SIDES = ("clean", "attacked", "without")
"""Which experts are merged: all honest, with the attackers' uploads, without the attackers."""


@dataclass(frozen=True, eq=False)
class Cell:
    """Built components of one cell; `config` is the resolved plain config it came from."""

    config: Mapping[str, Any] = field(repr=False)
    suite: Suite
    datasets: Mapping[str, Any]
    backbone: Any
    finetune: Any
    peft: Any
    attack: Any
    merge: Any
    defense: Any
    stress: Any
    seed: int
    names: Mapping[str, str]
    imported: Mapping[str, Imported] = field(default_factory=dict)

    # -- stages shared by many cells --

    @once
    def data(self, task: str, split: str) -> Stage:
        """The stage that holds one split of one task as uint8 arrays."""
        return "data", 1, {"dataset": identity(self.datasets[task]), "split": split}

    @cached_property
    def base_key(self) -> str:
        """The pre-trained weights: a shipped file by its sha256, else the pre-training stage."""
        return self.backbone.weights_sha256() or key_of(*self.pretrain())

    def pretrain(self) -> Stage:
        """The stage that makes the pre-trained weights."""
        data = {task: key_of(*self.data(task, "pretrain")) for task in self.pretrain_tasks}
        return "pretrain", 1, {"backbone": identity(self.backbone), "data": data}

    @cached_property
    def pretrain_tasks(self) -> tuple[str, ...]:
        """Tasks of the suite that have a pre-training split."""
        return tuple(t for t, data in self.datasets.items() if data.sizes.get("pretrain", 0) > 0)

    @once
    def head(self, task: str) -> Stage:
        """The stage of a task's zero-shot head."""
        data = self.datasets[task]
        words = {"classnames": list(data.classnames), "templates": list(data.templates)}
        return "head", 1, {"base": self.base_key, "backbone": identity(self.backbone), **words}

    @cached_property
    def contribution(self) -> dict[str, Any]:
        """How contributors fine-tune, in keys: an adapter is named only where there is one."""
        return self._contribution(self.finetune)

    def _contribution(self, recipe: Any) -> dict[str, Any]:
        adapter = self.peft.adapter
        return {"recipe": identity(recipe), **({"peft": identity(adapter)} if adapter else {})}

    @once
    def expert(self, task: str) -> Stage:
        """The stage of a contributor's weights: fine-tuned here, or imported (by its content)."""
        if task in self.imported:
            return "imported", 1, {"sha256": self.imported[task].sha256}
        inputs = {
            "head": key_of(*self.head(task)),
            "train": key_of(*self.data(task, "train")),
            **self._contribution(self.finetune.of(task)),
            "seed": self.seed,
        }
        return "expert", 1, inputs

    # -- stages of this cell --

    @once
    def scope(self, tasks: tuple[str, ...]) -> dict[str, Any]:
        """What a component's own stages depend on beside their inputs: data, heads, recipe."""
        return {
            "heads": {task: key_of(*self.head(task)) for task in tasks},
            "data": {task: identity(self.datasets[task]) for task in tasks},
            **self.contribution,
        }

    @cached_property
    def victims(self) -> tuple[tuple[str, int], ...]:
        """(task, target class) of every backdoor; most attacks plant one."""
        return getattr(self.attack, "victims", (self.attack.victim,))

    @cached_property
    def attack_tasks(self) -> tuple[str, ...]:
        """Tasks whose heads an attack may use: those of its adversaries and its victims."""
        return tuple(dict.fromkeys((*self.attack.adversaries, *dict(self.victims))))

    @cached_property
    def captions(self) -> dict[str, tuple[str, ...]]:
        """Task -> class names that the attack may know, if it reads captions."""
        return known_captions(self)

    @once
    def compromise(self) -> Stage:
        """The stage of the attack: replaced experts and triggers."""
        inputs: dict[str, Any] = {
            "attack": identity(self.attack),
            "scope": self.scope(self.attack_tasks),
            "experts": {task: key_of(*self.expert(task)) for task in self.attack.adversaries},
            "seed": self.seed,
        }
        if self.captions:
            inputs["captions"] = self.captions
        return "attack", 1, inputs

    def implanted(self) -> Stage:
        """The stage that judges on dev images whether the backdoor was planted."""
        return "implanted", 1, {"attack": key_of(*self.compromise())}

    @once
    def expert_keys(self, side: str) -> dict[str, str]:
        """Task -> key of the expert that is merged, for one of SIDES."""
        keys = {task: key_of(*self.expert(task)) for task in self.suite.tasks}
        for task in self.attack.adversaries:
            if side == "attacked":
                keys[task] = f"{key_of(*self.compromise())}/{task}"
            elif side == "without":
                del keys[task]
        return keys

    @once
    def merged(self, side: str) -> Stage:
        """The stage of the undefended merge."""
        inputs = {
            "merge": identity(self.merge),
            "experts": self.expert_keys(side),
            "scope": self.scope(self.suite.tasks) if self.merge.needs else self.base_key,
            "seed": self.seed,
        }
        return "merge", 1, inputs

    @once
    def defended(self, side: str) -> Stage:
        """The stage of the defended merge; a transparent defence is the merge itself."""
        if getattr(self.defense, "transparent", False):
            return self.merged(side)
        inputs = {
            "defense": identity(self.defense),
            "merge": key_of(*self.merged(side)),
            "scope": self.scope(self.suite.tasks),
            "seed": self.seed,
        }
        return "defend", 1, inputs

    @once
    def stressed(self, subject: str) -> Stage | None:
        """The stage of a subject's model and threats after the stress; None: nothing changes."""
        inputs = stress_inputs(self, subject)
        return None if inputs is None else ("stress", 1, inputs)

    @once
    def evaluation(self, subject: str) -> Stage:
        """The stage of one evaluation; `subject` is one of `subjects()`."""
        tasks, stressed = self.evaluated_tasks(subject), self.stressed(subject)
        inputs = {
            "model": self.model_key(subject),
            "threats": key_of(*self.compromise()),
            "heads": {task: key_of(*self.head(task)) for task in tasks},
            "settings": {
                "flip_images": self.suite.flip_images,
                "clean_images": self.suite.clean_images,
            },
            **image_keys(self, tasks),
            **({"stressed": key_of(*stressed)} if stressed else {}),
        }
        return "evaluation", 1, inputs

    @once
    def curve(self) -> Stage | None:
        """The stage of the line from undefended to defended; None if either has no such line."""
        inputs = curve_inputs(self)
        return None if inputs is None else ("curve", 1, inputs)

    # -- what is evaluated --

    def subjects(self) -> tuple[str, ...]:
        """The model of the row (`main`) and its controls."""
        always = ("main", "undefended", "pretrained", "clean_merge", "defended_clean_merge")
        if not self.attack.adversaries:
            return (*always, "honest_single")
        return (*always, "honest_single", "attacker_single", "without_attacker")

    def model_stage(self, subject: str) -> Stage | None:
        """The stage that holds a subject's weights; None for the pre-trained model."""
        stages: dict[str, Callable[[], Stage | None]] = {
            "main": lambda: self.defended("attacked"),
            "undefended": lambda: self.merged("attacked"),
            "pretrained": lambda: None,
            "clean_merge": lambda: self.merged("clean"),
            "defended_clean_merge": lambda: self.defended("clean"),
            "honest_single": lambda: self.expert(self.single_task),
            "attacker_single": self.compromise,
            "without_attacker": lambda: self.merged("without"),
        }
        return stages[subject]()

    @property
    def single_task(self) -> str:
        """Whose single model is measured: the first adversary's, or the victim's."""
        return (*self.attack.adversaries, self.attack.victim[0])[0]

    def model_key(self, subject: str) -> str:
        """The key of a subject's weights."""
        stage = self.model_stage(subject)
        return self.base_key if stage is None else key_of(*stage)

    def evaluated_tasks(self, subject: str) -> tuple[str, ...]:
        """Single models are measured on the attackers' and the victim's tasks only."""
        return self.attack_tasks if subject.endswith("_single") else self.suite.tasks

    @cached_property
    def key(self) -> str:
        """The cell's address: component versions, resolved values and parents' keys."""
        inputs: dict[str, Any] = {
            "evaluations": {name: key_of(*self.evaluation(name)) for name in self.subjects()},
            "implanted": key_of(*self.implanted()),
        }
        if (curve := self.curve()) is not None:
            inputs["curve"] = key_of(*curve)
        return key_of("record", 1, inputs)


@cache
def _built(node: str, where: str) -> Any:
    """Cells of a sweep share most components; each is built (and its identity taken) once."""
    return build(json.loads(node), where)


def sized_for(dataset: Mapping[str, Any], backbone: Any) -> dict[str, Any]:
    """A data set's config whose images, if it leaves their size open, are the backbone's."""
    open_size = "image_size" in dataset and dataset["image_size"] is None
    return {**dataset, **({"image_size": backbone.image_size} if open_size else {})}


def cell_from(config: Mapping[str, Any]) -> Cell:
    """Build and cross-check every component of a resolved plain config.

    Raises:
        BenchError: one sentence naming field and value, before any weight is loaded.
    """
    suite = build({**config["suite"], "_target_": "benchmark.suite.Suite"}, "suite")
    known = config["dataset"]
    for task in suite.tasks:
        if task not in known:
            raise BenchError(f"suite.tasks has no data set '{task}'{nearest(task, known)}")
    parts = {name: _built(canonical(config[name]), name) for name in COMPONENTS}
    sized = {task: sized_for(known[task], parts["backbone"]) for task in suite.tasks}
    datasets = {task: _built(canonical(sized[task]), f"dataset.{task}") for task in suite.tasks}
    seed = config["seed"]
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise BenchError(f"seed={seed!r} is not valid: give a whole number from 0")
    given = imported_experts(config.get("experts", {}), suite.tasks, parts["backbone"])
    whole = {"suite": suite, "datasets": datasets, "seed": seed, "imported": given, **parts}
    cell = Cell(config=config, names=config["names"], **whole)
    check_attack(cell)
    check_images(cell)
    check_stress(cell)
    return cell
