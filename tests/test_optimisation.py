"""Prompts, mining and displacements: what several defences share."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmark.algebra import norm
from benchmark.components import build
from benchmark.optimisation.mining import gain, mine
from benchmark.optimisation.prompts import (
    LEAST,
    MEMORY,
    PRIOR,
    UNKNOWN,
    Given,
    new_pool,
    shuffled,
)
from benchmark.optimisation.sam import displacement, moved
from benchmark.optimisation.settings import Prompts
from benchmark.optimisation.unlabelled import Unlabelled
from benchmark.seeds import generator

SETTINGS = {
    "_target_": "benchmark.optimisation.settings.Prompts",
    "frames": 1,
    "fulls": 1,
    "patches": 2,
    "goal": "away",
    "focus": 0.0,
    "aim": 0.0,
    "places": "fixed",
    "stride": 4,
    "frame_width": 3,
    "bound": 0.1,
    "patch_size": [2, 4],
    "start": 0.5,
    "optimiser": "adam",
    "lr": 0.3,
    "batch": 4,
    "temperature": 10.0,
}


def prompts(**changes) -> Prompts:
    return build({**SETTINGS, **changes}, "prompts")


class Linear:
    """An encoder f = W x, with W (D,3HW) as its only weight."""

    def __call__(self, weights, images):
        images = images.float() / 255 if images.dtype == torch.uint8 else images
        return images.flatten(1) @ weights["w"].T


def linear_world(size=8, dim=5):
    rng = generator("linear world")
    weights = {"w": torch.randn(dim, 3 * size * size, generator=rng)}
    heads = {name: torch.randn(4, dim, generator=rng) for name in ("one", "two")}
    shape = (9, 3, size, size)
    images = {
        name: torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng) for name in heads
    }
    features = {name: Linear()(weights, every) for name, every in images.items()}
    return weights, Unlabelled(heads, images, features)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 1000), optimiser=st.sampled_from(["adam", "sign"]), steps=st.integers(0, 4)
)
def test_prompted_images_are_valid_and_keep_to_mask_and_bound(seed, optimiser, steps):
    rng = generator(seed)
    chosen = prompts(optimiser=optimiser)
    pool = new_pool(chosen, (3, 5), 12, rng)
    members = torch.arange(8)
    for _ in range(steps):
        pool = pool.step(torch.randn(pool.values.shape, generator=rng) * 5, members)
    images = torch.rand(8, 3, 12, 12, generator=rng)
    prompted = pool.apply(images, Given(members, torch.zeros(8, 2, dtype=torch.long), None))
    assert prompted.min() >= 0
    assert prompted.max() <= 1
    outside = (pool.masks[members] == 0).expand_as(images)
    assert torch.equal(prompted[outside], images[outside])
    full = [1, 5]
    assert (prompted[full] - images[full]).abs().max() <= chosen.bound + 1e-6
    for patch in (2, 3, 6, 7):
        inside = pool.masks[patch].expand(3, -1, -1) == 1
        assert torch.equal(prompted[patch][inside], pool.values[patch][inside])
        side = round(float(pool.masks[patch].sum()) ** 0.5)
        assert 2 <= side <= 4
        assert pool.masks[patch].sum() == side**2
    frame = pool.masks[0, 0]
    assert frame.sum() == 12 * 12 - 6 * 6
    assert frame[3:9, 3:9].sum() == 0


def labels(*counts, classes=4, seed="labels"):
    rng = generator(seed)
    return [torch.randint(classes, (count,), generator=rng) for count in counts]


def test_each_image_gets_a_prompt_of_its_own_task():
    pool = new_pool(prompts(), (4, 4, 4), 8, generator("pool"))
    given = pool.assign(labels(8, 8, 8), generator("assign"))
    assert given.goals is None
    assert not given.shifts.any(), "fixed members stay where they are"
    for task, part in enumerate(given.members.split(8)):
        assert torch.equal(part.unique(), torch.arange(4) + 4 * task)
        assert part.bincount(minlength=12)[4 * task :].max() == 2


@pytest.mark.parametrize("focus", [0.0, 2.0])
def test_a_goal_is_never_the_class_already_predicted(focus):
    pool = new_pool(prompts(goal="class", focus=focus), (3, 5), 8, generator("pool"))
    assert pool.sizes == (12, 20)
    own = labels(60, 60, classes=3)
    given = pool.assign(own, generator("assign"))
    assert given.goals is not None
    for task, (goal, label) in enumerate(zip(given.goals, own, strict=True)):
        assert (goal != label).all()
        assert len(goal.unique()) == (3, 5)[task]
        assert torch.equal((given.members[60 * task :][:60] - 12 * task) // 4, goal)


def everyone(pool):
    """Every member once, at its first place."""
    return Given(torch.arange(len(pool.values)), pool.offset.clone(), None)


@pytest.mark.parametrize("focus", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("aim", [0.0, 2.0])
def test_goals_and_members_that_succeed_are_drawn_more_often(focus, aim):
    pool = new_pool(prompts(goal="class", focus=focus, aim=aim), (4,), 8, generator("pool"))
    for _ in range(40):
        pool = pool.noted(everyone(pool), torch.arange(16) == 5)
    assert pool.success[5] > 0.99
    assert pool.reached == pytest.approx(1 / 16, abs=1e-3)
    chosen = pool.assign([torch.full((4000,), 3)], generator("assign")).members
    best, rest = (0.25 + LEAST) ** focus, LEAST**focus
    assert (chosen // 4 == 1).float().mean() == pytest.approx(best / (best + 2 * rest), abs=0.03)
    own, other = (1 + LEAST) ** aim, LEAST**aim
    among = chosen[chosen // 4 == 1]
    assert (among == 5).float().mean() == pytest.approx(own / (own + 3 * other), abs=0.04)


def test_places_where_a_member_succeeds_are_drawn_more_often():
    chosen = prompts(frames=0, fulls=0, patches=1, patch_size=[4, 4], places="moving", stride=4)
    pool = new_pool(replace(chosen, goal="class", aim=1.0), (2,), 8, generator("pool"))
    corners = torch.tensor([[0, 0], [0, 4], [4, 0], [4, 4]])
    for _ in range(40):
        pool = pool.noted(
            Given(torch.zeros(4, dtype=torch.long), corners, None), torch.arange(4) == 2
        )
    shifts = pool.assign([torch.ones(4000, dtype=torch.long)], generator("assign")).shifts
    won = (PRIOR * 0.25 + 1 / 0.3) / (PRIOR + 1 / 0.3) + LEAST
    lost = PRIOR * 0.25 / (PRIOR + 1 / 0.3) + LEAST
    share = (shifts == corners[2]).all(1).float().mean()
    assert share == pytest.approx(won / (won + 3 * lost), abs=0.03)


def test_mining_with_a_model_for_each_task_is_mining_each_task_with_its_own():
    one, data = linear_world()
    two = {"w": one["w"].flip(0) * 2}
    start = new_pool(prompts(goal="class", focus=0.0), data.classes, 8, generator("pool"))

    def mined(weights):
        return mine(Linear(), weights, data, start, 5, generator("mine"))  # type: ignore[arg-type]

    both, first, second = mined([one, two]), mined(one), mined(two)
    split = start.sizes[0]
    assert torch.allclose(both.values[:split], first.values[:split], atol=1e-6)
    assert torch.allclose(both.values[split:], second.values[split:], atol=1e-6)
    assert not torch.allclose(both.values, first.values, atol=1e-3)


def test_what_was_scouted_decides_between_goals_ever_after():
    pool = new_pool(prompts(goal="class", focus=2.0), (3,), 8, generator("pool"))
    for _ in range(40):
        pool = pool.noted(everyone(pool), torch.arange(12) // 4 == 1)
    moved = pool.moved_on()
    assert torch.equal(moved.values, pool.values), "prompts are kept"
    two = Given(torch.tensor([4, 5]), torch.zeros(2, 2, dtype=torch.long), None)
    seen = moved.noted(two, torch.tensor([True, False]))
    expected = (MEMORY * UNKNOWN + (1 - MEMORY) + MEMORY * UNKNOWN) / 2
    assert moved.reached == UNKNOWN
    assert seen.reached == pytest.approx(expected), "of those that were tried alone"
    for _ in range(40):
        moved = moved.noted(everyone(moved), torch.arange(12) // 4 == 0)
    chosen = moved.assign([torch.full((2000,), 2)], generator("assign")).members
    assert (chosen // 4 == 1).float().mean() > 0.98
    assert moved.reached == pytest.approx(1 / 3, abs=1e-3), "reached is of the present weights"


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), patches=st.integers(1, 9), side=st.integers(1, 8))
def test_moving_patches_lie_whole_inside_and_on_their_grid(seed, patches, side):
    changes = {"frames": 0, "fulls": 0, "patches": patches, "patch_size": [side, side]}
    chosen = prompts(places="moving", stride=4, **changes)
    pool = new_pool(chosen, (4,), 8, generator(seed))
    given = pool.assign(labels(16), generator(seed, "assign"))
    images = torch.zeros(16, 3, 8, 8)
    shown = pool.apply(images, given, torch.ones_like(pool.values))
    assert (shown.sum((1, 2, 3)) == 3 * side * side).all(), "nothing is cut off or wraps round"
    corner = (shown[:, 0] > 0).flatten(1).float().argmax(1)
    assert torch.equal(torch.stack([corner // 8, corner % 8], 1), given.shifts)
    assert ((given.shifts - pool.offset[given.members]) % 4 == 0).all()


def test_four_moving_patches_of_a_stride_cover_every_alignment_of_half_a_stride():
    chosen = prompts(frames=0, fulls=0, patches=4, patch_size=[4, 4], places="moving", stride=4)
    pool = new_pool(chosen, (2,), 16, generator("pool"))
    assert sorted(map(tuple, pool.offset.tolist())) == [(0, 0), (0, 2), (2, 0), (2, 2)]
    assert pool.places.tolist()[0] == [4, 4]


@pytest.mark.parametrize("goal", ["away", "class"])
def test_mining_raises_its_gain_and_repeats(goal):
    weights, data = linear_world()
    chosen = prompts(lr=0.1, goal=goal)
    start = new_pool(chosen, data.classes, 8, generator("pool"))
    found = mine(Linear(), weights, data, start, 20, generator("mine"))  # type: ignore[arg-type]
    again = mine(Linear(), weights, data, start, 20, generator("mine"))  # type: ignore[arg-type]
    assert torch.equal(found.values, again.values)
    assert not start.steps.any()
    batch, _ = data.first(8).first(8)
    given = start.assign(batch.labels, generator("given"))

    def gained(pool):
        features = Linear()(weights, pool.apply(batch.images, given))
        return float(gain(batch.logits(features), batch, given))

    assert gained(found) > gained(start) + 0.1
    mixed = shuffled(found, generator("shuffle"))
    inside = found.masks[0, 0] == 1
    same = mixed.values[0][:, inside].sort(1).values - found.values[0][:, inside].sort(1).values
    assert same.abs().max() == 0
    assert not torch.equal(mixed.values, found.values)


def test_members_that_were_not_given_do_not_move():
    pool = new_pool(prompts(), (4, 4), 8, generator("pool"))
    gradient = torch.ones_like(pool.values)
    moved_on = pool.step(gradient, torch.tensor([1, 5, 5]))
    still = torch.tensor([0, 2, 3, 4, 6, 7])
    for name in ("values", "first", "second", "steps"):
        assert torch.equal(getattr(moved_on, name)[still], getattr(pool, name)[still])
    assert moved_on.steps.tolist() == [0, 1, 0, 0, 0, 1, 0, 0]


def test_extra_term_steers_the_ascent():
    weights, data = linear_world()
    chosen = prompts()
    pool = new_pool(chosen, data.classes, 8, generator("pool"))
    args = (Linear(), weights, data, pool, 3)
    plain = mine(*args, generator("mine"))  # type: ignore[arg-type]
    steered = mine(*args, generator("mine"), lambda f, batch: 100 * f[:, 0].mean())  # type: ignore[arg-type]
    assert not torch.equal(plain.values, steered.values)


def test_batches_hold_equally_many_of_each_task_and_their_own_predictions():
    _, data = linear_world()
    batch = data.draw(12, generator("draw"))
    assert batch.per_task == 12
    assert all(
        torch.equal(scores.argmax(1), labels)
        for scores, labels in zip(batch.logits(batch.features), batch.labels, strict=True)
    )
    few, rows = batch.first(2)
    assert torch.equal(rows, torch.tensor([0, 1, 12, 13]))
    assert torch.equal(few.images, batch.images[rows])


def test_displacement_has_length_rho():
    direction = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    assert norm(direction) == pytest.approx(5)
    assert norm(displacement(direction, 0.05)) == pytest.approx(0.05)
    assert torch.equal(moved(direction, displacement(direction, 0.0))["a"], direction["a"])


@pytest.mark.parametrize(
    "wrong", [{"frames": 0, "fulls": 0, "patches": 0}, {"patch_size": [4, 2]}, {"bound": 0.0}]
)
def test_impossible_pools_are_refused(wrong):
    with pytest.raises(Exception, match="prompts"):
        prompts(**wrong)


@pytest.mark.parametrize(("patches", "side", "share"), [(16, 8, 1.0), (9, 10, 900 / 1024)])
def test_patches_leave_no_place_out(patches, side, share):
    chosen = prompts(frames=0, fulls=0, patches=patches, patch_size=[side, side])
    pool = new_pool(chosen, (4,), 32, generator("tiles"))
    assert pool.masks.sum(0).max() == 1  # cells do not overlap
    assert pool.masks.mean(0).sum() * patches / 1024 == pytest.approx(share)
