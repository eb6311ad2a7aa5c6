"""Visual prompts: learnable perturbations that always leave valid pixels.

A prompt lives in pixel space [0,1], before normalisation, like the triggers it stands in for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmark.optimisation.members import Drawn, drawn
from benchmark.optimisation.settings import Prompts

DECAY = (0.8, 0.95)
"""Of Adam's means; shorter than usual, because a member is updated a few dozen times only."""
MEMORY = 0.7
"""Share of the running mean `Pool.success` that a step keeps."""
UNKNOWN = 0.5
"""Success of a member that was never tried."""
LEAST = 0.02
"""Added to every success where arms are drawn by it, so that none is given up."""
PRIOR = 1.0
"""Tries that the member's own success counts for in the success of one of its places."""


@dataclass(frozen=True)
class Given:
    """Which prompt each image of a batch gets, where, and to which end.

    Attributes:
        members: (B,) rows of the pool.
        shifts: (B,2) rows and columns that a moving member is shifted by.
        goals: per task (b,) the class aimed at; None where the goal is only to leave the label.
    """

    members: Tensor
    shifts: Tensor
    goals: tuple[Tensor, ...] | None

    def rows(self, chosen: Tensor) -> Given:
        """The same for some rows of the batch; goals are for mining and stay behind."""
        return Given(self.members[chosen], self.shifts[chosen], None)


@dataclass(frozen=True)
class Pool:
    """M prompts of several tasks and the state of the ascent on them.

    Attributes:
        settings: how they were drawn and are mined.
        sizes: members of each task; a task's follow one another, goal by goal.
        values: (M,3,H,W), within [low, high] and zero off the mask; a moving member's content is
            kept in the upper left corner.
        masks: (M,1,H,W) of zeros and ones.
        pasted: (M,1,1,1): 1 where the prompt replaces pixels, 0 where it is added and clipped.
        low: (M,1,1,1) least value.
        high: (M,1,1,1) largest value.
        offset: (M,2) least shift of a moving member, 0 of the others.
        places: (M,2) how many places it has along each axis, 1 of the others.
        first: (M,3,H,W) Adam's mean of the gradient.
        second: (M,3,H,W) Adam's mean of its square.
        steps: (M,) steps that each member took.
        success: (M,) running mean of the share of images that reached their goal while mined.
        tries: (M,P) images that a member had at each of its places, row by row; older ones fade.
        hits: (M,P) those of them that reached their goal.
        scouted: (M,) success on other weights before these, which decides between goals.
    """

    settings: Prompts
    sizes: tuple[int, ...]
    values: Tensor
    masks: Tensor
    pasted: Tensor
    low: Tensor
    high: Tensor
    offset: Tensor
    places: Tensor
    first: Tensor
    second: Tensor
    steps: Tensor
    success: Tensor
    tries: Tensor
    hits: Tensor
    scouted: Tensor | None = None

    def assign(self, labels: Sequence[Tensor], rng: torch.Generator) -> Given:
        """A member of its own task for every image, drawn on the CPU.

        Args:
            labels: per task (b,): the predictions that prompts are to overturn.
            rng: draws goals, members and places.
        """
        members, places, goals, start = [], [], [], 0
        per_goal = self.settings.members
        for size, own in zip(self.sizes, labels, strict=True):
            count = len(own)
            if self.settings.goal == "class":
                within, place = self._other(own.cpu(), slice(start, start + size), rng)
                goals.append((within // per_goal).to(own.device))
                members.append(start + within)
                places.append(place)
            else:
                turn = int(torch.randint(per_goal, (), generator=rng))
                members.append(start + (torch.arange(count) + turn) % per_goal)
                uniform = torch.rand(count, generator=rng)
                places.append((uniform * self.places[members[-1]].prod(1)).long())
            start += size
        chosen, place = torch.cat(members), torch.cat(places)
        along = self.places[chosen][:, 1]
        step = torch.stack([place // along, place % along], 1)
        return Given(
            chosen, self.offset[chosen] + step * self.settings.stride, tuple(goals) or None
        )

    def apply(self, images: Tensor, given: Given, values: Tensor | None = None) -> Tensor:
        """Prompted images.

        Args:
            images: (B,3,H,W) in [0,1].
            given: a prompt and its place for every image.
            values: used instead of the pool's own, to differentiate by them.
        """
        where = given.members.to(images.device)
        content = (self.values if values is None else values)[where]
        masks = self.masks[where]
        if bool(given.shifts.any()):
            content, masks = _shifted(content, given.shifts), _shifted(masks, given.shifts)
        kept = images * (1 - masks * self.pasted[where])
        return (kept + masks * content).clamp(0, 1)

    def step(self, gradient: Tensor, members: Tensor) -> Pool:
        """One ascent step of these members along `gradient` (M,3,H,W), onto range and mask."""
        used = torch.zeros(len(self.values), 1, 1, 1, device=gradient.device)
        used[members.to(gradient.device)] = 1.0
        gradient, steps = gradient * self.masks, self.steps + used.flatten().cpu()
        count = steps.view(-1, 1, 1, 1).clamp_min(1).to(gradient.device)
        first = self.first.lerp(gradient, (1 - DECAY[0]) * used)
        second = self.second.lerp(gradient.square(), (1 - DECAY[1]) * used)
        if self.settings.optimiser == "sign":
            move = gradient.sign()
        else:
            spread = (second / (1 - DECAY[1] ** count)).sqrt() + 1e-12
            move = first / (1 - DECAY[0] ** count) / spread
        values = self.values + used * self.settings.lr * (self.high - self.low) / 2 * move
        values = torch.maximum(torch.minimum(values, self.high), self.low) * self.masks
        return replace(self, values=values, first=first, second=second, steps=steps)

    def noted(self, given: Given, hits: Tensor) -> Pool:
        """With the running means of success brought up to date by hits (B,), bool."""
        members, won = given.members, hits.float().cpu()
        ones = torch.ones(len(members))
        counts = torch.zeros_like(self.success).index_add_(0, members, ones)
        gained = torch.zeros_like(self.success).index_add_(0, members, won)
        moved = MEMORY * self.success + (1 - MEMORY) * gained / counts.clamp_min(1)
        arms = (members, self._place(given))
        fresh = torch.zeros_like(self.tries).index_put_(arms, ones, accumulate=True)
        kept = torch.where(fresh > 0, MEMORY, 1.0)
        return replace(
            self,
            success=torch.where(counts > 0, moved, self.success),
            tries=self.tries * kept + fresh,
            hits=(self.hits * kept).index_put_(arms, won, accumulate=True),
        )

    def moved_on(self) -> Pool:
        """The same prompts for other weights; what succeeded so far stays the odds of the goals."""
        return replace(
            self,
            success=torch.full_like(self.success, UNKNOWN),
            tries=torch.zeros_like(self.tries),
            hits=torch.zeros_like(self.hits),
            scouted=self.success,
        )

    @property
    def reached(self) -> float:
        """Mean success of the members tried on the present weights, in [0,1]; else `UNKNOWN`."""
        tried = self.tries.sum(1) > 0
        return float(self.success[tried].mean()) if tried.any() else UNKNOWN

    def _place(self, given: Given) -> Tensor:
        """(B,) numbers of the places, row by row, that these members were shifted to."""
        step = (given.shifts - self.offset[given.members]) // self.settings.stride
        return step[:, 0] * self.places[given.members][:, 1] + step[:, 1]

    def _odds(self, task: slice) -> Tensor:
        """(m,P) of a task's members and their places: the odds of each goal, shared out within it.

        At equal success every member of a goal has an equal share, and every place of a member.
        """
        per_goal, aim = self.settings.members, self.settings.aim
        success = PRIOR * self.success[task, None] + self.hits[task]
        arms = (success / (PRIOR + self.tries[task]) + LEAST) ** aim
        count = self.places[task].prod(1)[:, None]
        arms = torch.where(torch.arange(arms.shape[1]) < count, arms / count, 0.0)
        shared = arms.unflatten(0, (-1, per_goal))
        shared = shared / shared.sum((1, 2), keepdim=True)
        suspect = (self._suspicion(task) + LEAST) ** self.settings.focus
        return (suspect[:, None, None] * shared).flatten(0, 1)

    def _suspicion(self, task: slice) -> Tensor:
        """(G,) mean success of each goal's members, before `moved_on` if that was called."""
        known = self.success if self.scouted is None else self.scouted
        return known[task].view(-1, self.settings.members).mean(1)

    def _other(self, own: Tensor, task: slice, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(b,) members, counted within their task, that aim at another class than `own`; places."""
        odds = self._odds(task)
        aims = torch.arange(len(odds)) // self.settings.members
        allowed = (aims != own[:, None])[..., None] * odds
        arm = torch.multinomial(allowed.flatten(1), 1, generator=rng)[:, 0]
        return arm // odds.shape[1], arm % odds.shape[1]


def _shifted(values: Tensor, shifts: Tensor) -> Tensor:
    """Each image of (B,C,H,W) rolled by its (rows, columns) of (B,2)."""
    moves = [tuple(shift) for shift in shifts.tolist()]
    return torch.stack([one.roll(by, (1, 2)) for one, by in zip(values, moves, strict=True)])


def new_pool(
    settings: Prompts, classes: Sequence[int], size: int, rng: torch.Generator, device: str = "cpu"
) -> Pool:
    """A fresh pool for several tasks.

    Args:
        settings: how many members of which kind, and for which goals.
        classes: of each task.
        size: side of the images in pixels.
        rng: draws start values, sizes and places, on the CPU.
        device: where the pool then lives.
    """
    goals = [count if settings.goal == "class" else 1 for count in classes]
    found: list[Drawn] = [one for _ in range(sum(goals)) for one in drawn(settings, size, rng)]
    masks = torch.stack([one.mask for one in found])
    pasted, high = (
        torch.tensor(column).view(-1, 1, 1, 1)
        for column in ([one.pasted for one in found], [one.high for one in found])
    )
    low = high * (pasted - 1)
    uniform = torch.rand(len(found), 3, size, size, generator=rng)
    width = (high - low) * torch.where(pasted == 1, 1.0, settings.start)
    values = ((low + high) / 2 + (uniform - 0.5) * width) * masks
    still = torch.zeros_like(values).to(device)
    places = torch.tensor([one.places for one in found])
    unseen = torch.zeros(len(found), int(places.prod(1).max()))
    return Pool(
        settings=settings,
        sizes=tuple(count * settings.members for count in goals),
        values=values.to(device),
        masks=masks.to(device),
        pasted=pasted.to(device),
        low=low.to(device),
        high=high.to(device),
        offset=torch.tensor([one.offset for one in found]),
        places=places,
        first=still,
        second=still,
        steps=torch.zeros(len(found)),
        success=torch.full((len(found),), UNKNOWN),
        tries=unseen,
        hits=unseen,
    )


def shuffled(pool: Pool, rng: torch.Generator) -> Pool:
    """The occlusion control: the same pixels, permuted within each mask."""
    values = pool.values.clone()
    for prompt, mask in zip(values, pool.masks, strict=True):
        inside = mask[0] == 1
        pixels = prompt[:, inside]
        prompt[:, inside] = pixels[:, torch.randperm(pixels.shape[1], generator=rng)]
    return replace(pool, values=values)
