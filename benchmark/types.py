"""The nouns of the benchmark: what attacks, merges and defences are handed, and what they return.

Nothing here imports torch at run time, so every component can be built and validated before torch
is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmark.attacks.threat_model import ThreatModel
    from benchmark.context import Context

StateDict: TypeAlias = "Mapping[str, Tensor]"
"""Weights of one image tower: float32, open_clip's names without the `visual.` prefix."""

Tensors: TypeAlias = "dict[str, Tensor]"
Place = Literal["before", "during", "after"]
Actor = Literal["attacker", "user"]


@dataclass(frozen=True, slots=True)
class Expert:
    """One contributor's upload.

    `weights` are the fine-tuned weights themselves, not their difference to the base: subtraction
    in float32 is lossy, so whoever needs a task vector subtracts in float64. `key` is opaque and
    stands for the weights in cache keys. `factors` holds LoRA's A and B where there are any.
    """

    task: str
    weights: StateDict
    key: str
    factors: StateDict | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """What a merge or a defence returns.

    Attributes:
        encoder: merged weights of the image tower.
        adapters: per task, `down` and `up`: what stands between the encoder's features and this
            task's head (`benchmark.models.heads.adapted`).
        artifacts: by-products worth keeping (an anti-backdoor task vector, mined prompts).
        info: plain JSON: what was chosen and why, passes used. It lands in the record.
    """

    encoder: StateDict
    adapters: Mapping[str, StateDict] = field(default_factory=dict)
    artifacts: StateDict = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Trigger(Protocol):
    """A map from images to triggered images, in pixel space.

    Rebuilt from its own artifact: `type(trigger)(**tensors, **settings)` must equal it.
    """

    def __call__(self, images: Tensor) -> Tensor:
        """Trigger images (B,3,H,W) float in [0,1], before normalisation; same shape and range."""
        ...

    def shuffled(self, rng: torch.Generator) -> Trigger:
        """The occlusion control: the same trigger with its pixels permuted in place."""
        ...

    def tensors(self) -> Tensors:
        """Tensors that rebuild this trigger."""
        ...

    def settings(self) -> dict[str, Any]:
        """Plain JSON that rebuilds this trigger."""
        ...


@dataclass(frozen=True, slots=True)
class Threat:
    """One planted (or pretended) backdoor: images of `task` with `trigger` should go to `target`.

    `attackers` are the tasks whose contributors planted it; empty for a reference trigger.
    """

    trigger: Trigger
    task: str
    target: int
    attackers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compromise:
    """The experts an attack replaced (by task) and the threats they carry.

    `info` is plain JSON about the attack (how far the upload is from an honest one); it lands in
    the record.
    """

    experts: Mapping[str, Expert]
    threats: tuple[Threat, ...]
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Stressed:
    """What a stress returns.

    Attributes:
        model: the model that is measured; the very object that came in where nothing changed.
        threats: what it is measured with, one for each that came in: same task, target, attackers.
        info: plain JSON; it lands in the record.
    """

    model: Model
    threats: tuple[Threat, ...]
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Grant:
    """A right to see images. There is no way to ask for test images.

    Attributes:
        split: "train" or "dev".
        labels: whether the true labels come along.
        per_task: at most this many images per task; None means the whole split.
        only: (task, class): images of that class of that task only, whoever owns the task; how
            many of them, `per_task` says.
    """

    split: Literal["train", "dev"]
    labels: bool
    per_task: int | None = None
    only: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        """Refuse the test split, which no component may ever see."""
        if self.split not in ("train", "dev"):
            raise ValueError(f"Grant.split is 'train' or 'dev', not {self.split!r}")

    def __str__(self) -> str:
        """E.g. "300 unlabelled dev images per task"."""
        count = "all" if self.per_task is None else str(self.per_task)
        whose = "per task" if self.only is None else "of task '{}', class {}".format(*self.only)
        return f"{count} {'' if self.labels else 'un'}labelled {self.split} images {whose}"

    def covers(self, asked: Grant) -> bool:
        """Whether holding this grant allows what `asked` asks for."""
        enough = self.per_task is None or (
            asked.per_task is not None and asked.per_task <= self.per_task
        )
        same = self.split == asked.split and self.only in (None, asked.only)
        return same and enough and (self.labels or not asked.labels)


@dataclass(frozen=True, slots=True)
class Images:
    """Images (N,3,H,W) uint8 and, where granted, labels (N,) int64."""

    images: Tensor
    labels: Tensor | None


class Component(Protocol):
    """A frozen value built from one YAML file; calling it mutates nothing."""

    version: ClassVar[int]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """What it may see; reaching for more raises `AccessDenied`."""
        ...


class Attack(Component, Protocol):
    """Replaces experts with compromised ones."""

    threat_model: ClassVar[ThreatModel]
    """What the attacker knows, controls and needs, in words."""

    @property
    def adversaries(self) -> tuple[str, ...]:
        """Tasks whose contributor is the attacker; the only tasks whose images it may see."""
        ...

    @property
    def victim(self) -> tuple[str, int]:
        """(task, target class) that the backdoor is aimed at."""
        ...

    # An attack that plants several backdoors has `victims`, a tuple of all their (task, target).

    def __call__(
        self,
        base: StateDict,
        honest: Mapping[str, Expert],
        adversaries: tuple[str, ...],
        ctx: Context,
    ) -> Compromise:
        """Plant the backdoor; `honest` holds the adversaries' own clean experts, by task."""
        ...

    def implanted(self, controls: Mapping[str, Any]) -> str | None:
        """None if planted, else the reason why not, judged on dev images of the adversary."""
        ...


class Merge(Component, Protocol):
    """One encoder out of several experts."""

    cost: ClassVar[str]
    """Time and memory of T experts of P weights, in a line for `ls merges -v`."""

    def __call__(self, base: StateDict, experts: Sequence[Expert], ctx: Context) -> Model:
        """Merge; keys, shapes and dtypes are those of `base`."""
        ...

    def accepts(self, experts: Sequence[Expert]) -> str | None:
        """None, or the reason why these experts cannot be merged this way."""
        ...


class Defense(Component, Protocol):
    """Wraps a merge: before (drop an expert), during (replace it) or after (repair its result)."""

    place: ClassVar[Place]
    # A defence that returns the merge itself may say `transparent = True`: nothing is stored twice.

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        """Return the defended merge. The `merge` that comes in is memoised."""
        ...

    def accepts(self, merge: Merge) -> str | None:
        """None, or the reason why this merge cannot be defended this way (the cell is skipped)."""
        ...


class Stress(Component, Protocol):
    """What an attacker or a user does between a defence and an evaluation.

    It is done alike to the defended merge, the undefended and the clean ones and the pre-trained
    model, with the same draws, so that every stressed number has its controls.
    """

    actor: ClassVar[Actor]
    """Whose images it may see: the attackers' own tasks', or those of all merged tasks."""
    # A stress that changes nothing may say `transparent = True`: nothing is stored twice.

    @property
    def named(self) -> tuple[str, ...]:
        """Tasks that its values name; each must be merged."""
        ...

    def __call__(
        self,
        model: Model,
        base: StateDict,
        experts: Sequence[Expert],
        threats: tuple[Threat, ...],
        ctx: Context,
    ) -> Stressed:
        """Change the model or its threats; `experts` are the honest contributors', of all tasks."""
        ...

    def accepts(self, threats: Sequence[Threat]) -> str | None:
        """None, or the reason why these threats cannot be stressed so (the cell is skipped)."""
        ...
