"""How many outer steps a pass budget pays for; counted as the encoder's meter counts.

One image forward and backward is one pass, forward only a third.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmark.errors import BenchError
from benchmark.selection import FORWARD
from lfpm.adversary import UNFITTED
from lfpm.path import count
from lfpm.stopping import LOOKS

if TYPE_CHECKING:
    from lfpm.method import Lfpm


def plan(method: Lfpm, tasks: int, trained_on: int, held_out: int) -> int:
    """The number of outer steps.

    Args:
        method: its passes and every choice that costs some.
        tasks: T.
        trained_on: images of all tasks that tau_a is trained on.
        held_out: images of all tasks that lambda_a is chosen on.

    Raises:
        BenchError: if not even zero steps fit.
    """
    least = cost(method, 0, tasks, trained_on, held_out)
    if least > method.passes:
        raise BenchError(
            f"budget.passes={method.passes} is less than what mining and selection need "
            f"without any step ({least:.0f}); raise it or lower budget.images"
        )
    steps = 0
    while steps < method.descent.max_steps:
        if cost(method, steps + 1, tasks, trained_on, held_out) > method.passes:
            break
        steps += 1
    return steps


def cost(method: Lfpm, steps: int, tasks: int, trained_on: int, held_out: int) -> float:
    """Passes of a whole run with this many steps, at most (the selection may stop early)."""
    fits, rounds = 1, 1
    if steps and method.partition.refresh:
        fits += (steps - 1) // method.partition.refresh
    if steps and method.mining.restart:
        rounds += (steps - 1) // method.mining.restart
    frozen = FORWARD * (trained_on + held_out)
    before = method.mining.scouting + method.mining.warmup
    warmup = rounds * tasks * method.mining.prompts.batch * before
    fitted_on = trained_on if method.partition.fitted else min(trained_on, tasks * UNFITTED)
    own = 0 if method.per_image is None else method.per_image.steps
    report = (FORWARD * 2 + own) * tasks * method.descent.batch
    return (
        frozen
        + report
        + warmup
        + fits * FORWARD * fitted_on
        + steps * per_step(method, tasks)
        + looks(method, tasks, held_out)
        + selection(method, tasks, held_out)
    )


def per_step(method: Lfpm, tasks: int) -> float:
    """Passes of one outer step: mining, and clean and prompted images at every node."""
    mining = method.mining.prompts.batch * method.mining.steps
    images = method.descent.batch
    if method.sharpness.kind == "ascent":
        images += min(method.sharpness.batch, method.descent.batch)
    if method.sharpness.kind == "node_ascent":
        images *= 2
    own = 0
    if method.per_image is not None:
        batches = count(method.path) if method.path.share else 1
        own = method.per_image.steps * batches * method.descent.batch
    return tasks * (mining + own + 2 * count(method.path) * images)


def selection(method: Lfpm, tasks: int, held_out: int) -> float:
    """Passes of choosing lambda_a if the whole grid is walked."""
    rule = method.selection
    if rule.reach is None:
        return _agreements(method, tasks, held_out)
    candidates = 1 + len(rule.grid)
    return _probes(method, tasks) + candidates * _probing(method, tasks, held_out)


def looks(method: Lfpm, tasks: int, held_out: int) -> float:
    """Passes of asking on the way whether training may end."""
    if not method.descent.stop:
        return 0.0
    probing = (1 + LOOKS) * _probing(method, tasks, held_out)
    return _probes(method, tasks) + probing + LOOKS * _agreements(method, tasks, held_out)


def _looked_at(method: Lfpm, tasks: int, held_out: int) -> int:
    return min(held_out, tasks * method.selection.images)


def _agreements(method: Lfpm, tasks: int, held_out: int) -> float:
    """Clean predictions at every lambda_a of the grid."""
    return len(method.selection.grid) * FORWARD * _looked_at(method, tasks, held_out)


def _probes(method: Lfpm, tasks: int) -> float:
    """Mining of fresh probes against theta_m."""
    return tasks * method.selection.probe.batch * method.selection.steps


def _probing(method: Lfpm, tasks: int, held_out: int) -> float:
    """One candidate's meeting with the probes."""
    rule = method.selection
    shown = 2 if rule.probe.goal == "class" else 3
    adapted = tasks * rule.probe.batch * rule.adapt
    return adapted + shown * FORWARD * _looked_at(method, tasks, held_out)
