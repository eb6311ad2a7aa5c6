"""When training may end: asked of clean held-out images, with no trigger, label or test image."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmark.algebra import add
from benchmark.context import Context
from benchmark.optimisation.unlabelled import Unlabelled
from benchmark.types import StateDict, Tensors
from lfpm.choices import Selection
from lfpm.selection import Probes, Trial, choose, fresh_probes, looks, trial

LOOKS = 4
"""Times that training is interrupted for a look, at most; its steps are cut into one part more."""


@dataclass(frozen=True)
class Stopping:
    """The question that every look asks.

    Attributes:
        merged: theta_m.
        probes: fresh prompts, mined on theta_m and held-out images.
        bound: success of the probes at which training may end, in [0,1].
        rule: how lambda_a would be chosen, without probes.
    """

    merged: StateDict
    probes: Probes
    bound: float
    rule: Selection

    def look(self, tau: Tensors, ctx: Context) -> Trial:
        """What adapted probes do at the largest lambda_a of the grid that keeps the agreement."""
        agrees = looks(self.rule, self.merged, self.probes.data, ctx)
        chosen = choose(self.rule, lambda scale: agrees(scale, add(self.merged, tau, scale)))
        weights = add(self.merged, tau, chosen.scale)
        return trial(chosen.scale, weights, self.probes, ctx)

    def enough(self, found: Trial) -> bool:
        """Whether both bounds hold: little is left, and clean predictions are as they were.

        Probes that reach nothing on theta_m cannot tell: with them it is never enough.
        """
        kept = found.agreement >= self.rule.agreement
        return kept and found.reached is not None and found.reached <= self.bound > 0


def stopping(
    rule: Selection, stop: float, merged: StateDict, held: Unlabelled, ctx: Context
) -> Stopping | None:
    """The question, with the probes' success on theta_m as its measure; None if `stop` is 0."""
    if not stop:
        return None
    probes = fresh_probes(rule, merged, held, ctx)
    undefended = trial(0.0, merged, probes, ctx).reached or 0.0
    return Stopping(merged, probes, stop * max(undefended, 0.0), replace(rule, reach=None))


def due(steps: int) -> frozenset[int]:
    """The steps before which a look is taken, of `steps`: never before the first."""
    return frozenset(steps * part // (LOOKS + 1) for part in range(1, LOOKS + 1)) - {0}
