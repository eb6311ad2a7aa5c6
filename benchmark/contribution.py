"""How a contributor fine-tunes, honest or not: the same images, batches and adapter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from benchmark.seeds import generator
from benchmark.types import Images, StateDict, Tensors

if TYPE_CHECKING:
    from benchmark.context import Context
    from benchmark.training import ExtraLoss


def contribution(
    base: StateDict,
    task: str,
    data: Images,
    ctx: Context,
    *,
    epochs: int | None = None,
    extra_loss: ExtraLoss | None = None,
) -> tuple[Tensors, Tensors | None]:
    """Fine-tune as the recipe says: every weight, or the factors of `ctx.peft`.

    Two calls that differ in nothing but data and loss see the same batches and start from the same
    factors, whoever calls: the generators are those of (seed, task).

    Args:
        base: weights to start from.
        task: whose head is trained against.
        data: labelled training images.
        ctx: with the encoder, the head, the recipe and the adapter.
        epochs: in place of the recipe's; None: the recipe's.
        extra_loss: see `benchmark.training.finetune`.

    Returns:
        The weights and, with an adapter, its factors: weights = `ctx.peft.weights(base, factors)`.
    """
    from benchmark.training import finetune, finetune_lora

    assert data.labels is not None  # contributors are granted them
    recipe = ctx.recipe.of(task)
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    rng = generator(ctx.seed, "finetune", task)
    given = (ctx.encoder, base, ctx.heads[task], data.images, data.labels, recipe, rng)
    if ctx.peft is None:
        weights = finetune(*given, extra_loss=extra_loss, progress=ctx.progress, watch=ctx.watch)
        return weights, None
    start = ctx.peft.start(base, generator(ctx.seed, "lora", task))
    factors = finetune_lora(
        *given,
        lora=ctx.peft,
        start=start,
        extra_loss=extra_loss,
        progress=ctx.progress,
        watch=ctx.watch,
    )
    return ctx.peft.weights(base, factors), factors
