"""Per-task adapters: every place that turns a model's features into scores applies them."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.artifacts import dump_model, load_model
from benchmark.attacks.triggers import Patch
from benchmark.bench import Bench
from benchmark.components import build, locate, option, options
from benchmark.context import Context
from benchmark.curve import between
from benchmark.errors import BenchError
from benchmark.evaluation import TestSet, evaluate
from benchmark.measuring import measure
from benchmark.models.heads import Adapted, adapted, behind, logits
from benchmark.seeds import generator
from benchmark.selection import dev_parts, mean_accuracy
from benchmark.store import Store
from benchmark.stress.finetune_after import FinetuneAfter
from benchmark.stress.fresh_trigger import FreshTrigger
from benchmark.stressing import stress
from benchmark.types import Compromise, Grant, Model, Stressed, Threat
from tests import tiny

BASE = tiny.base()
EXPERTS = tiny.random_experts(BASE)
MERGED = EXPERTS[0].weights
WIDTH = 16
THREAT = Threat(Patch(torch.rand(3, 4, 4, generator=generator("p")), 12, 12), "a", 1, ("a",))


def turning() -> dict[str, Tensor]:
    """The adapter with z = f - 2 relu(f) + 2 relu(-f) = -f, exactly."""
    eye = torch.eye(WIDTH)
    return {"down": torch.cat([eye, -eye]), "up": torch.cat([2 * eye, -2 * eye], dim=1)}


TURNED = Model(MERGED, {task: turning() for task in tiny.TASKS})
OPPOSITE = {task: -tiny.head(task) for task in tiny.TASKS}
"""Scores of -f against a head are those of f against its opposite, bit for bit."""


def test_an_adapter_is_the_formula_and_off_it_is_the_identity():
    rng = torch.Generator().manual_seed(0)
    features, head = torch.randn(5, WIDTH, generator=rng), tiny.head("a")
    down, up = torch.randn(3, WIDTH, generator=rng), torch.randn(WIDTH, 3, generator=rng)
    by_hand = torch.stack([f - up @ (down @ f).clamp(min=0) for f in features])
    assert torch.allclose(adapted(features, down, up), by_hand, atol=1e-5)
    scores = logits(features, behind(head, {"down": down, "up": up}))
    assert torch.allclose(scores, normalize(by_hand, dim=-1) @ head.T, atol=1e-4)
    off = behind(head, {"down": down, "up": torch.zeros_like(up)})
    assert torch.equal(logits(features, off), logits(features, head))
    assert behind(head, None) is head
    assert len(off) == len(head)
    turned = adapted(features, turning()["down"], turning()["up"])
    assert torch.equal(turned, -features)


@pytest.mark.parametrize("shapes", [((3, 8), (16, 3)), ((3, 16), (3, 16)), ((3, 16), (16, 4))])
def test_an_adapter_of_another_width_is_refused(shapes: tuple[tuple[int, int], tuple[int, int]]):
    adapter = {"down": torch.zeros(shapes[0]), "up": torch.zeros(shapes[1])}
    with pytest.raises(BenchError, match=r"an adapter has down \(r,16\) and up \(16,r\)"):
        behind(tiny.head("a"), adapter)
    with pytest.raises(BenchError, match="an adapter has down"):
        behind(tiny.head("a"), {"down": torch.zeros(3, 16)})


def test_the_classifier_is_the_head_behind_the_adapter_of_its_task():
    ctx = tiny.context().narrowed(adapters={"a": turning()})
    assert isinstance(ctx.classifier("a"), Adapted)
    assert torch.equal(ctx.heads["a"], tiny.head("a"))
    assert ctx.classifier("b") is ctx.heads["b"]


# -- evaluation --


def sets(heads: dict[str, Tensor]) -> dict[str, TestSet]:
    return {task: TestSet(*tiny.split(task, "test", 30), heads[task]) for task in ("a", "b")}


def test_an_evaluation_behind_adapters_is_that_of_the_turned_features():
    plain = {task: tiny.head(task) for task in tiny.TASKS}
    found = evaluate(
        tiny.encoder(), MERGED, sets(plain), [THREAT], adapters=TURNED.adapters, flip_images=20
    )
    wanted = evaluate(tiny.encoder(), MERGED, sets(OPPOSITE), [THREAT], flip_images=20)
    assert found[0] == wanted[0]
    assert all(torch.equal(found[1][name], hit) for name, hit in wanted[1].items())
    without, _ = evaluate(tiny.encoder(), MERGED, sets(plain), [THREAT], flip_images=20)
    assert found[0].clean["a"] != without.clean["a"]
    only_b = {"b": turning()}
    half, _ = evaluate(
        tiny.encoder(), MERGED, sets(plain), [THREAT], adapters=only_b, flip_images=20
    )
    assert half.clean == {"a": without.clean["a"], "b": found[0].clean["b"]}
    assert half.threats[0].asr == without.threats[0].asr


def test_adapters_survive_the_store():
    tensors, info = dump_model(TURNED)
    again = load_model(tensors, info)
    assert all(tiny.equal(again.adapters[task], turning()) for task in tiny.TASKS)
    assert tiny.equal(again.encoder, MERGED)


def test_the_line_between_models_blends_their_adapters():
    bare = Model(BASE)
    for start, end in ((bare, TURNED), (TURNED, bare), (TURNED, TURNED)):
        first, last = between(start, end, 0.0), between(start, end, 1.0)
        assert tiny.equal(first.encoder, start.encoder)
        assert tiny.equal(last.encoder, end.encoder)
        for found, wanted in ((first, start), (last, end)):
            if wanted.adapters:
                assert tiny.equal(found.adapters["a"], turning())
            else:
                assert not found.adapters["a"]["up"].any()
    assert torch.equal(between(bare, TURNED, 0.5).adapters["a"]["up"], turning()["up"] / 2)
    assert between(bare, Model(MERGED), 0.5).adapters == {}


# -- what a defence or a stress makes of a model with adapters --


def near(first: Any, second: Any) -> bool:
    """Whether two pieces of plain JSON are equal up to rounding."""
    if isinstance(second, dict):
        return first.keys() == second.keys() and all(near(first[k], second[k]) for k in second)
    if isinstance(second, list | tuple):
        return len(first) == len(second) and all(map(near, first, second))
    return first == (pytest.approx(second, abs=1e-5) if isinstance(second, float) else second)


TRIVIAL = {"NoDefense", "TaskVector"}
"""Defences that turn no features into scores."""
CONTRIBUTORS = {"Ibvs", "Transfer"}
"""Defences that also act as a contributor or on another merge, whose heads have no adapters."""
BUDGET = {"${budget.images}": 12, "${budget.passes}": 500}
TOY: dict[str, Any] = {"task": "b", "size": 4, "trigger_size": 4, "checks": 1, "scales": [0.5, 1.0]}


def node_of(name: str) -> dict[str, Any]:
    """The values of a defence with a small budget; parts from other options are left out."""
    node = {k: v for k, v in option("defense", name).items() if k != "defaults"}
    small = {k: BUDGET.get(str(v), TOY.get(k, v)) for k, v in node.items()}
    if "mining" in node:
        # Scouting looks at contributors, whose heads have no adapters.
        small["mining"] = {**node["mining"], "scouting": 0}
        small["passes"] = 1200
    if "source" in fields_of(node):
        small["source"] = node_of("lfpm")
    if "origin" in fields_of(node):
        small["origin"] = option("merge", "task_arithmetic")
    return small


def fields_of(node: dict[str, Any]) -> set[str]:
    return {field.name for field in dataclasses.fields(locate(node["_target_"]))}


def one_of_each_class() -> dict[str, str]:
    """Class -> the first option of it."""
    targets = {name: option("defense", name).get("_target_", "") for name in options("defense")}
    return {target.rpartition(".")[2]: name for name, target in reversed(targets.items()) if target}


DEFENCES = {kind: name for kind, name in one_of_each_class().items() if kind not in TRIVIAL}


def defended(name: str, model: Model, heads: dict[str, Tensor] | None = None) -> Model:
    part = build(node_of(name), "defense")
    ctx = tiny.context(part).narrowed(adapters=model.adapters)
    if heads:
        ctx = ctx.narrowed(heads=heads)
    return part(tiny.merge_of(model), BASE, EXPERTS, ctx)


@pytest.mark.parametrize("name", [n for kind, n in DEFENCES.items() if kind not in CONTRIBUTORS])
def test_a_defence_asks_the_model_it_is_given(name: str):
    """What it makes of -f before a head is what it makes of f before the opposite head."""
    found, wanted = defended(name, TURNED), defended(name, Model(MERGED), OPPOSITE)
    assert found.encoder.keys() == wanted.encoder.keys()
    for key, value in wanted.encoder.items():
        assert torch.allclose(found.encoder[key], value, atol=1e-6), key
    assert near({**found.info, "merge": 0}, {**wanted.info, "merge": 0})
    assert all(tiny.equal(found.adapters[task], turning()) for task in tiny.TASKS)


@pytest.mark.parametrize("name", [DEFENCES[kind] for kind in sorted(CONTRIBUTORS)])
def test_a_defence_passes_adapters_on(name: str):
    found = defended(name, TURNED)
    assert all(tiny.equal(found.adapters[task], turning()) for task in tiny.TASKS)


def test_ibvs_judges_clean_accuracy_behind_the_adapters():
    (_, turned), *_ = defended("ibvs", TURNED).info["accuracy"]
    part = build(node_of("ibvs"), "defense")
    _, select = dev_parts(tiny.context(part), list(tiny.TASKS), part.needs[0])
    wanted = mean_accuracy(tiny.context(part).narrowed(heads=OPPOSITE), MERGED, select)
    assert turned == pytest.approx(wanted)


@dataclasses.dataclass
class Spy:
    """A defence or a stress that keeps the context it is called with."""

    seen: list[Context] = dataclasses.field(default_factory=list)
    needs: tuple[Grant, ...] = ()
    version: int = 1
    actor: str = "user"

    def accepts(self, _: Any) -> None:
        return None

    def __call__(self, *args: Any) -> Any:
        self.seen.append(args[-1])
        return args[0](*args[1:]) if len(args) == 4 else Stressed(args[0], args[3])


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Any:
    """A Bench without data, whose merge brings adapters."""
    cell = SimpleNamespace(
        defense=Spy(),
        stress=Spy(),
        merge=Spy(),
        suite=SimpleNamespace(
            tasks=tiny.TASKS, clean_images=None, flip_images=4, evaluate="test", precision=None
        ),
        victims=(("a", 1),),
        defended=lambda side: ("defend", 1, {}),
        merged=lambda side: ("merge", 1, {}),
        evaluated_tasks=lambda subject: ("a", "b"),
        stressed=lambda subject: None,
        attack_tasks=("a",),
    )
    made = Bench(cell, Store(tmp_path))  # type: ignore[arg-type]
    monkeypatch.setattr(made, "merged", lambda side: TURNED)
    monkeypatch.setattr(made, "experts", lambda side: EXPERTS)
    monkeypatch.setattr(made, "expert", lambda task: EXPERTS[0])
    monkeypatch.setattr(made, "context", lambda *_: tiny.context())
    monkeypatch.setattr(made, "compromise", lambda: Compromise({}, (THREAT,)))
    monkeypatch.setattr(made, "head", tiny.head)
    monkeypatch.setattr(made, "split", lambda task, split: tiny.split(task, split, 30))
    made.__dict__.update(base=BASE, encoder=tiny.encoder())
    return made


def test_the_pipeline_hands_adapters_to_defence_stress_and_evaluation(bench: Any):
    model = bench.defended("clean")
    assert all(tiny.equal(model.adapters[task], turning()) for task in tiny.TASKS)
    stress(bench, model)
    for spy in (bench.cell.defense, bench.cell.stress):
        assert isinstance(spy.seen[0].classifier("b"), Adapted)
    _, counts = measure(bench, "clean_merge")
    plain = {task: TestSet(*tiny.split(task, "test", 30), tiny.head(task)) for task in ("a", "b")}
    wanted, _ = evaluate(
        tiny.encoder(), MERGED, plain, [THREAT], adapters=TURNED.adapters, flip_images=4
    )
    assert counts == dataclasses.asdict(wanted)


def test_stresses_use_the_model_behind_its_adapters():
    recipe = {"steps": 2, "batch": 8}
    patches = {"steps": 2, "lr": 0.1, "batch": 8, "heldout": 4}
    for part in (FinetuneAfter(tasks=None, **recipe), FreshTrigger(**patches)):
        ctx = tiny.context(part)
        behind_them = ctx.narrowed(adapters=TURNED.adapters)
        found = part(TURNED, BASE, EXPERTS, (THREAT,), behind_them)
        opposite = ctx.narrowed(heads=OPPOSITE)
        wanted = part(Model(MERGED), BASE, EXPERTS, (THREAT,), opposite)
        assert near(found.info, wanted.info)
        for key, value in wanted.model.encoder.items():
            assert torch.allclose(found.model.encoder[key], value, atol=1e-6)
        for one, other in zip(found.threats, wanted.threats, strict=True):
            assert torch.allclose(one.trigger.tensors()["patch"], other.trigger.tensors()["patch"])
