"""A fresh trigger: the attacker gets the very model that is used, and searches anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from benchmark.attacks.triggers import Patch, only_patches
from benchmark.attacks.universal import Search, universal_patch
from benchmark.components import component
from benchmark.models.heads import logits
from benchmark.types import Actor, Expert, Grant, Model, StateDict, Stressed, Threat

if TYPE_CHECKING:
    from benchmark.context import Context

OWN = Grant("train", labels=False)
"""The attacker's own training images; the search asks for no labels."""


@component
class FreshTrigger:
    """A universal patch optimised against the model at hand, in place of the planted trigger.

    Size and place are the planted trigger's, images the attacker's own. Every model of the cell
    gets a patch of its own, from the same start and with the same draws, so that the ASR on the
    defended model stands beside the same adversarial patch's ASR on the defended clean merge: what
    is more there than here is left of the backdoor, the rest is what any model has. [ours]

    Attributes:
        steps: of the search; 0: the random start itself.
        lr: learning rate of Adam on the patch's logits.
        batch: images per step.
        heldout: images that only measure progress.
    """

    version: ClassVar[int] = 1
    actor: ClassVar[Actor] = "attacker"
    steps: Annotated[int, Field(ge=0)]
    lr: Annotated[float, Field(gt=0, le=100)]
    batch: Annotated[int, Field(ge=1)]
    heldout: Annotated[int, Field(ge=1)]

    @property
    def needs(self) -> tuple[Grant, ...]:
        """The attacker's training images."""
        return (OWN,)

    @property
    def named(self) -> tuple[str, ...]:
        """None: the threats name them."""
        return ()

    def accepts(self, threats: Sequence[Threat]) -> str | None:
        """Threats by pasted patches: others have no box to search in."""
        return only_patches(threats)

    def __call__(
        self,
        model: Model,
        base: StateDict,
        experts: Sequence[Expert],
        threats: tuple[Threat, ...],
        ctx: Context,
    ) -> Stressed:
        """Search one patch per threat; the model stays as it is."""
        searched = [self._search(model, i, threat, ctx) for i, threat in enumerate(threats)]
        found = tuple(
            replace(threat, trigger=patch)
            for threat, (patch, _) in zip(threats, searched, strict=True)
        )
        info = {"heldout_log_p": [[list(point) for point in history] for _, history in searched]}
        return Stressed(model, found, info)

    def _search(
        self, model: Model, i: int, threat: Threat, ctx: Context
    ) -> tuple[Patch, list[tuple[int, float]]]:
        """The patch for threat `i`, and (step, mean log p_target on held-out images)."""
        assert isinstance(threat.trigger, Patch)  # accepts() saw to it
        own = (*threat.attackers, threat.task)[0]
        head, planted = ctx.classifier(threat.task), threat.trigger
        return universal_patch(
            lambda batch: logits(ctx.encoder(model.encoder, batch), head),
            ctx.images(own, OWN).images,
            threat.target,
            (planted.size, planted.row, planted.col),
            Search(self.steps, self.lr, self.batch, self.heldout),
            ctx.rng("trigger", i),  # of nothing else: all models of a seed share start and draws
        )
