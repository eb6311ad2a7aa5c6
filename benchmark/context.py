"""What a component may see and do: its only way to data and disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from benchmark.errors import AccessDenied
from benchmark.history import Watch, unwatched
from benchmark.models.heads import behind
from benchmark.seeds import generator
from benchmark.store import Artifact
from benchmark.types import Grant, Images, StateDict

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from benchmark.models.encoder import Encoder
    from benchmark.models.heads import Head
    from benchmark.models.lora import Lora
    from benchmark.training import Recipe

Progress = Callable[[int, int], None]
"""Called with (done, total)."""


def handing_order(seed: int, task: str, split: str, available: int) -> Tensor:
    """The permutation (N,) in which images of a split are handed out, the same for all methods."""
    import torch

    return torch.randperm(available, generator=generator(seed, "images", task, split))


@dataclass(frozen=True)
class Context:
    """One component's view of the benchmark.

    Attributes:
        role: e.g. ("defense", "lfpm"); part of the name of every random draw.
        seed: the cell's seed.
        encoder: the image tower as a function of (weights, images); counts the images it sees.
        heads: task -> (C,D) zero-shot head, rows times the logit scale. Contributors train
            against these; for what a merged model says of an image ask `classifier`.
        recipe: how contributors fine-tune; the public knowledge of everyone.
        peft: the adapter that contributors train instead of every weight; None: full fine-tuning.
        device: where tensors should live.
        granted: what the component declared in `needs`.
        visible: tasks whose images it may ask for (an attacker: only its own); of others it sees
            what a grant names with `only`.
        scope: plain JSON naming the suite; part of every stage's key.
        progress: called with (done, total) on long work.
        adapters: task -> the adapter that the model at hand brings for it, for a component that is
            handed one: a defence the undefended merge, a stress the model it changes.
        captions: task -> class names of the public pre-training captions, for attacks that say
            `reads_captions`; of a victim that is not its own an attacker knows the target's alone.
        watch: told what is measured on the way (step, name -> value), for curves to look at; no
            result may depend on it.
    """

    role: tuple[str, ...]
    seed: int
    encoder: Encoder
    heads: Mapping[str, Tensor]
    recipe: Recipe
    peft: Lora | None
    device: str
    granted: tuple[Grant, ...]
    visible: frozenset[str]
    scope: Mapping[str, Any]
    progress: Progress
    _split: Callable[[str, str], tuple[Tensor, Tensor]]
    _stage: Callable[[str, int, Mapping[str, Any], Callable[[], Artifact]], Artifact]
    adapters: Mapping[str, StateDict] = field(default_factory=dict)
    captions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    watch: Watch = unwatched
    _text: Callable[[Sequence[str], Sequence[str]], Tensor] | None = None

    def classifier(self, task: str) -> Head:
        """The task's head as the model at hand uses it: behind its adapter, where it has one.

        A defence that merges other experts than it was given narrows its context to the `adapters`
        of what it then has.
        """
        return behind(self.heads[task], self.adapters.get(task))

    def rng(self, *name: str | int) -> torch.Generator:
        """A generator that depends on the seed, the component and `name` only.

        Not on the experts: an attacked merge and the clean one it is compared with share their
        draws, and a cached stage never shifts a later draw.
        """
        return generator(self.seed, *self.role, *name)

    def images(self, task: str, grant: Grant) -> Images:
        """Images of `task`, drawn without replacement by a permutation all methods share.

        A smaller `per_task` is a prefix of a larger one. Raises AccessDenied beyond `needs`.
        """
        who = "/".join(self.role)
        held = [one for one in self.granted if one.covers(grant)]
        if not held:
            raise AccessDenied(f"{who} asked for {grant}, which its `needs` do not declare")
        named = {one.only[0] for one in held if one.only}
        if task not in self.visible | named or (grant.only and grant.only[0] != task):
            raise AccessDenied(f"{who} may not see images of task '{task}'")
        images, labels = self._split(task, grant.split)
        order = handing_order(self.seed, task, grant.split, len(images))
        if grant.only:
            order = order[labels[order] == grant.only[1]]
        order = order[: grant.per_task]
        return Images(
            images[order].to(self.device), labels[order].to(self.device) if grant.labels else None
        )

    def text_head(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """The zero-shot head (C,D) of any names: the pre-trained text tower is public."""
        if self._text is None:
            raise AccessDenied(f"{'/'.join(self.role)} has no text tower at hand: run it as a cell")
        return self._text(names, templates)

    def features(self, model: StateDict, images: Tensor, batch: int = 500) -> Tensor:
        """Features (N,D) of images under `model`, without gradient, in batches."""
        import torch

        with torch.no_grad():
            parts = [self.encoder(model, chunk) for chunk in images.split(batch)]
        return torch.cat(parts)

    def stage(
        self, name: str, version: int, inputs: Mapping[str, Any], make: Callable[[], Artifact]
    ) -> Artifact:
        """Run `make` once for these inputs, ever; the suite and the seed are added to them."""
        keyed = {**inputs, "scope": self.scope, "seed": self.seed, "role": list(self.role)}
        return self._stage(name, version, keyed, make)

    def narrowed(self, **changes: Any) -> Context:
        """A copy with some attributes replaced."""
        return replace(self, **changes)
