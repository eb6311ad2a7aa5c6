"""What attacks that fine-tune one contributor's model have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.components import identity
from benchmark.contribution import contribution
from benchmark.store import key_of
from benchmark.types import Expert, Grant, Images, StateDict

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.training import ExtraLoss

TRAIN = Grant("train", labels=True)
"""A contributor's own training images: `Context.images` permutes them, for the honest alike."""


def trained(
    attack: Any,
    base: StateDict,
    honest: Expert,
    data: Images,
    ctx: Context,
    extra_loss: ExtraLoss | None,
    epochs: int | None,
) -> Expert:
    """Fine-tune the contributor's model as its honest twin was, on `data` with `extra_loss`.

    With `epochs` it trains for that many instead of the recipe's: how long is its own affair.

    Batches and adapter are the honest twin's (`contribution`); whatever else an attack draws must
    come from `ctx.rng`. So an attack that changes neither data nor loss returns the honest weights
    bit for bit.
    """
    weights, factors = contribution(
        base, honest.task, data, ctx, epochs=epochs, extra_loss=extra_loss
    )
    inputs = {
        "attack": identity(attack),
        "honest": honest.key,
        "recipe": identity(ctx.recipe),
        "scope": dict(ctx.scope),
        "seed": ctx.seed,
    }
    return Expert(honest.task, weights, key_of("compromised", 1, inputs), factors)


def too_weak(asr: float, least: float) -> str | None:
    """A reason why the backdoor does not count as planted, or None."""
    if asr >= least:
        return None
    return (
        f"the attacker's single model has ASR {asr:.4f} on dev images, below min_asr={least}; "
        "the backdoor was not planted"
    )
