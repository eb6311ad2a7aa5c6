"""What the sources of LFPM leave open, as validated values.

Status of each: [stated] in the abstract, [note] only in one third-party reading note, which may be
wrong, [ours] a reconstruction. C1 to C13 number the choices as docs/lfpm.md does.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from benchmark.components import component
from benchmark.optimisation.settings import Prompts

Weight = Annotated[float, Field(ge=0, le=1e4)]
Share = Annotated[float, Field(ge=0, le=1)]
Whole = Annotated[int, Field(ge=0)]


@component
class Partitioning:
    """How feature space splits into P_a and P_c, P_a P_c = 0 (C6).

    [note] "adversarial and clean feature subspaces are separated orthogonally"; how is [ours].

    Attributes:
        kind: "sample": P_c is the sample's own clean feature, P_a the rest; "shift_first": P_a is
            the top `rank` uncentred directions of the prompt's shift, P_c the rest; "clean_first":
            P_c holds `energy` of the centred clean features, P_a the top `rank` directions of the
            shift in its complement; "none": both are the identity (an ablation, not orthogonal).
        rank: of P_a in "shift_first" and "clean_first".
        energy: share of the clean features' energy in P_c, in "clean_first".
        refresh: outer steps between two fits; 0: fit once. "sample" and "none" never need it.
    """

    kind: Literal["sample", "shift_first", "clean_first", "none"]
    rank: Annotated[int, Field(ge=1, le=4096)]
    energy: Share
    refresh: Whole

    @property
    def fitted(self) -> bool:
        """Whether it depends on the shift."""
        return self.kind in ("shift_first", "clean_first")


@component
class Mining:
    """Prompt-based adversarial feature mining (C7, C8).

    [note] "a learnable visual prompt encodes the adversarial perturbation"; form, pool, objective
    and schedule are [ours]. Prompts raise the cross-entropy against the merged model's own
    predictions, towards no class in particular or towards every other class in turn (the prompts'
    goal), plus eta times their energy in P_a.

    Attributes:
        prompts: the pool of each task and its ascent.
        scouting: ascent steps on the contributors' own models, each with its task's images, before
            any on the merged model. A backdoor stands out there: nothing has diluted it yet, and
            squares towards its class succeed at any place. What succeeded decides from then on
            between the goals; prompts are kept. 0: only the merged model is looked at.
        warmup: ascent steps on the merged model, before the first outer step.
        steps: ascent steps per outer step, from where the pool stands (warm start).
        restart: outer steps after which the pool is drawn anew; 0: never.
        at: weights that are attacked: theta_m + alpha tau_a with alpha uniform in [0,1] ("path")
            or 1 ("end").
        feature_weight: eta.
        free: one more ascent step, on the outer loss, along the gradient that the outer step's own
            backward passes leave on the prompts, at no cost in passes (after Shafahi et al. 2019).
    """

    prompts: Prompts
    scouting: Whole
    warmup: Whole
    steps: Whole
    restart: Whole
    at: Literal["path", "end"]
    feature_weight: Weight
    free: bool


@component
class PerImage:
    """Perturbations of single images in place of prompts: an ablation, [ours].

    Mined on the step's own images, at the weights that prompts would be mined at.

    Attributes:
        bound: radius of the L-infinity ball, in units of the pixel range [0,1].
        steps: sign-gradient steps, each one pass for every image.
        lr: their length, as a share of the radius.
    """

    bound: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1, le=100)]
    lr: Annotated[float, Field(gt=0, le=2)]


@component
class Path:
    """Quadrature of the loss over alpha, theta(alpha) = theta_m + alpha tau_a (C1 to C4).

    [stated] "loss path-integral" with "gradient accumulation"; [note] over the parameter
    interpolation path. The rule and the interval are [ours].

    Attributes:
        rule: "gauss_legendre" (two nodes are exact for the quadratic energy under cross-task
            linearity), "uniform" ({1/K, ..., 1}), "stratified" (one random node in each of K
            strata), "random" (one random node: no accumulation), "end" (alpha = 1 only: no path).
        nodes: K; unused by "random" and "end".
        start: lower end of the interval; the upper one is 1.
        share: each node is given images of its own, so that a step sees K times as many for the
            same passes; the accumulated gradient has the same expectation.
    """

    rule: Literal["gauss_legendre", "uniform", "stratified", "random", "end"]
    nodes: Annotated[int, Field(ge=1, le=64)]
    start: Annotated[float, Field(ge=0, lt=1)]
    share: bool


@component
class Losses:
    """l = energy + mu cross_entropy + beta (match + nu kl), at one node (C10).

    [stated] "backdoor is suppressed and clean tasks kept"; the terms and weights are [ours].

    Attributes:
        reference: what a prompted feature is drawn to: "merged", the merged model's feature of the
            clean image; "current", the present model's, without gradient.
        match: clean features are held in "clean" (P_c only) or in "all" of feature space.
        mu: weight of the prompted images' cross-entropy against pseudo-labels.
        beta: weight of both clean terms.
        nu: weight of KL(merged || present) on clean images.
    """

    reference: Literal["merged", "current"]
    match: Literal["clean", "all"]
    mu: Weight
    beta: Weight
    nu: Weight


@component
class Sharpness:
    """The SAM-like step (C5).

    [note] "SAM-like optimisation"; nothing more is known, so all of it is [ours].

    Attributes:
        kind: "none"; "ascent": the gradient is taken again at v + rho G/|G|, G accumulated over the
            nodes and v what AdamW moves; "node_ascent": at every node, at theta(alpha_k) +
            rho g_k/|g_k| with that node's own gradient g_k; "path_aware": once, at v moved by rho
            towards 0, i.e. towards the backdoored model (after PAM, Min et al. 2024). For a dense
            tau_a that is the path with every alpha smaller by the share rho/|v|, so once v is long
            it is close to "none".
        adaptive: both ascents are scaled by the size of each weight (ASAM, Kwon et al. 2021).
        rho: Euclidean distance, of weights for "node_ascent", else of v: of V in a metric, of the
            factors of an adapter. The kinds are therefore not comparable at equal rho.
        batch: images per task, of the step's own, under the ascent gradient.
    """

    kind: Literal["none", "ascent", "node_ascent", "path_aware"]
    adaptive: bool
    rho: Annotated[float, Field(ge=0, le=100)]
    batch: Annotated[int, Field(ge=1, le=1024)]


@component
class Metric:
    """In which coordinates tau_a is descended: [ours].

    "clean": the partition into adversarial and clean directions, carried from the features to every
    linear layer. A layer's part of tau_a is V S, where V is what AdamW moves and
    S = (E[x x^T] / m + floor I)^(-1/2), scaled to a mean square of 1, with x the layer's inputs on
    clean images under theta_m and m the mean eigenvalue of E[x x^T]. A step of a given size then
    moves the layer's clean outputs least: what clean images do not excite is changed first (as
    natural gradient, with the clean data's Kronecker factor of the inputs, would). It takes no
    passes: the inputs are recorded while theta_m's features are computed. "none": V is tau_a.

    Attributes:
        kind: which.
        floor: of the eigenvalues, as a share of their mean; a large one is "none" again.
    """

    kind: Literal["none", "clean"]
    floor: Annotated[float, Field(gt=0, le=1e6)]


@component
class Descent:
    """AdamW on tau_a, which starts at 0: [ours].

    tau_a is dense over all float tensors; where contributors train adapters (peft=lora_*), it is
    the product of an adapter of its own, with the same targets and rank, on the merged model.

    Attributes:
        lr: peak learning rate.
        warmup: share of the steps in which it rises; it then falls to 0 as a cosine.
        batch: images per task and step; each is used clean and prompted.
        max_steps: taken even if the pass budget allows more.
        stop: training ends at the first of four looks, spread evenly over its steps, at which fresh
            probes (`selection.probe`, on held-out images, adapted) reach their goals no more often
            than this share of their success on theta_m, at the largest lambda_a of the grid that
            keeps the agreement; 0: never, and no pass goes into looks. What was trained too long
            or not long enough is then up to lambda_a, chosen on held-out images.
    """

    lr: Annotated[float, Field(gt=0, le=1)]
    warmup: Annotated[float, Field(ge=0, lt=1)]
    batch: Annotated[int, Field(ge=1, le=1024)]
    max_steps: Annotated[int, Field(ge=0)]
    stop: Share


@component
class Selection:
    """How lambda_a is chosen without trigger, labels or test images (C11): [ours].

    The largest of `grid` that keeps the agreement; if none does, the smallest. With `reach`, first:
    fresh probes are mined against theta_m on the held-out images, once, and every candidate meets
    them again after `adapt` more steps against it; the smallest of `grid` at which the share of
    probed images that reach their goal is at most `reach` times the undefended model's, while the
    agreement is kept.

    Attributes:
        grid: candidates, rising.
        probe: how fresh prompts are drawn and mined.
        steps: of their ascent against theta_m.
        adapt: further steps against a candidate.
        images: held-out images per task that are looked at, at most.
        reach: largest success of the probes, as a share of their success on the undefended model;
            null: no probes, and their passes go into training. Success of prompts that only lead
            away from the label is counted less the same with their pixels shuffled.
        agreement: least share of clean predictions equal to the undefended model's.
    """

    grid: Annotated[tuple[Annotated[float, Field(ge=0, le=4)], ...], Field(min_length=1)]
    probe: Prompts
    steps: Whole
    adapt: Whole
    images: Annotated[int, Field(ge=1)]
    reach: Share | None
    agreement: Share

    def __post_init__(self) -> None:
        """Refuse a grid out of order: the rule walks it upwards."""
        if list(self.grid) != sorted(set(self.grid)):
            raise ValueError(f"grid={list(self.grid)} must rise, each value once")
