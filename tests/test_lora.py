"""LoRA: products of low rank on the right matrices, exact merge-back, keys of full fine-tuning."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.artifacts import dump_compromise, dump_expert, load_compromise, load_expert
from benchmark.attacks.triggers import fixed_patch
from benchmark.cell import Cell, cell_from
from benchmark.components import build, option
from benchmark.errors import BenchError
from benchmark.models.heads import logits
from benchmark.models.lora import Lora
from benchmark.seeds import generator
from benchmark.training import finetune_lora
from benchmark.types import Compromise, Threat
from tests import tiny
from tests.test_attacks import attack, run
from tests.test_conf import resolved

BASE = tiny.base()
BLOCK = "transformer.resblocks.0"
ATTN = {f"{BLOCK}.attn.in_proj_weight", f"{BLOCK}.attn.out_proj.weight"}
MLP = {f"{BLOCK}.mlp.c_fc.weight", f"{BLOCK}.mlp.c_proj.weight"}


def lora(targets: str = "all", **values: Any) -> Lora:
    small = {"rank": 3, "alpha": 6, "lr": 0.01}
    return build({**option("peft", f"lora_{targets}"), **small, **values}, "peft")


def random_factors(part: Lora, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = generator("factors", seed)
    start = part.start(BASE, rng)
    return {name: torch.randn(value.shape, generator=rng) for name, value in start.items()}


@pytest.mark.parametrize(("targets", "names"), [("attn", ATTN), ("mlp", MLP), ("all", ATTN | MLP)])
def test_the_start_is_the_base_and_a_product_moves_the_targets_alone(targets, names):
    part = lora(targets)
    start = part.start(BASE, generator("a"))
    assert set(part.product(start)) == names
    assert tiny.equal(part.weights(BASE, start), BASE)
    assert all(value.any() for name, value in start.items() if name.endswith("/A"))
    assert tiny.equal(start, part.start(BASE, generator("a")))
    moved = part.weights(BASE, random_factors(part))
    assert {name for name in BASE if not torch.equal(moved[name], BASE[name])} == names


def test_every_packed_matrix_has_a_product_of_its_own():
    part = lora()
    factors = random_factors(part)
    delta = part.product(factors)
    width = BASE[f"{BLOCK}.attn.out_proj.weight"].shape[0]
    packed = f"{BLOCK}.attn.in_proj_weight"
    assert delta[packed].shape == BASE[packed].shape == (3 * width, width)
    for i, matrix in enumerate(delta[packed].split(width)):
        by_hand = 2.0 * factors[f"{packed}/B"][i] @ factors[f"{packed}/A"][i]  # alpha / rank = 2
        assert torch.allclose(matrix, by_hand, atol=1e-5)
        assert torch.linalg.matrix_rank(matrix) == 3
    assert torch.linalg.matrix_rank(delta[packed]) == 9
    for name in delta.keys() - {packed}:
        assert torch.linalg.matrix_rank(delta[name]) == 3


def test_all_three_options_are_valid_on_the_shipped_tower():
    backbone = build(option("backbone", "mini"), "backbone")
    shapes = {name: torch.empty(shape) for name, shape in backbone.encoder().shapes.items()}
    for name in ("lora_attn", "lora_mlp", "lora_all"):
        part = build(option("peft", name), "peft")
        factors = part.start(shapes, generator(0))
        trained = sum(value.numel() for value in factors.values())
        assert 0 < trained < 0.3 * sum(value.numel() for value in shapes.values())


def gradients(part: Lora, factors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in factors.items()}
    images, labels = tiny.split("a", "train")
    scores = logits(tiny.encoder()(part.weights(BASE, leaves), images), tiny.head("a"))
    torch.nn.functional.cross_entropy(scores, labels).backward()
    return {name: value.grad for name, value in leaves.items() if value.grad is not None}


def test_every_trainable_tensor_is_trained():
    """B from the first step; A, whose gradient holds B as a factor, from the second."""
    part = lora()
    start = part.start(BASE, generator("g"))
    first = gradients(part, start)
    assert all(bool(grad.any()) == name.endswith("/B") for name, grad in first.items())
    for taken in (first, gradients(part, {n: v - 0.1 * first[n] for n, v in start.items()})):
        assert taken.keys() == start.keys()
    second = gradients(part, {name: value - 0.1 * first[name] for name, value in start.items()})
    for name, grad in second.items():
        assert all(bool(one.any()) for one in grad), name  # q, k and v each


def test_a_scaled_product_is_a_straight_line_in_weights():
    part = lora()
    factors = random_factors(part)
    full = part.weights(BASE, factors)
    for scale in (0.0, 0.25, 0.5, 1.0, 1.5):
        here = part.weights(BASE, factors, scale)
        for name, value in here.items():
            line = BASE[name] + scale * (full[name] - BASE[name])
            assert torch.allclose(value, line, rtol=1e-6, atol=1e-6 * float(line.abs().max()))
    assert tiny.equal(part.weights(BASE, factors, 0.0), BASE)


def test_a_path_weight_reaches_the_factors_through_the_product():
    """dL/dB at a point of the path is the scale times what it is for a product alone."""
    part, scale = lora("mlp"), 0.3
    factors = random_factors(part)
    name = f"{BLOCK}.mlp.c_fc.weight"
    leaves = {key: value.clone().requires_grad_() for key, value in factors.items()}
    toward = torch.randn(BASE[name].shape, generator=generator("toward"))
    (part.weights(BASE, leaves, scale)[name] * toward).sum().backward()
    by_hand = scale * 2.0 * toward @ factors[f"{name}/A"][0].T
    assert torch.allclose(leaves[f"{name}/B"].grad[0], by_hand, rtol=1e-5, atol=1e-5)


def test_misfits_are_told_in_one_sentence():
    with pytest.raises(BenchError, match=r"peft\.rank=33 is above 32, the smaller side of"):
        lora(rank=33).start(BASE, generator(0))
    with pytest.raises(BenchError, match=r"peft\.targets=all finds no matrix"):
        lora().start({"conv1.weight": torch.zeros(1)}, generator(0))


# -- contributors


def test_a_contribution_is_base_plus_product_bit_for_bit():
    part = lora()
    expert = tiny.honest_expert("a", BASE, peft=part)
    assert expert.factors is not None
    assert tiny.equal(part.weights(BASE, expert.factors), expert.weights)
    assert not tiny.equal(expert.weights, BASE)
    assert tiny.equal(tiny.honest_expert("a", BASE, peft=part).weights, expert.weights)
    kept = load_expert(dump_expert(expert.weights, expert.factors)[0], "a", "k")
    assert kept.factors is not None
    assert tiny.equal(part.weights(BASE, kept.factors), kept.weights)
    plain = load_expert(dump_expert(BASE, None)[0], "a", "k")
    assert plain.factors is None
    assert tiny.equal(plain.weights, BASE)


def test_the_loss_falls_at_the_adapters_own_rate():
    images, labels = tiny.split("a", "train")
    head, part = tiny.head("a"), lora(lr=0.03)
    start = part.start(BASE, generator("s"))
    recipe = tiny.RECIPE
    given = (tiny.encoder(), BASE, head, images, labels, recipe, generator("b"))
    tuned = finetune_lora(*given, lora=part, start=start)
    same = finetune_lora(
        *given[:5], build({**option("finetune", "mini"), **_same(recipe), "lr": 1.0}, "finetune"),
        generator("b"), lora=part, start=start,
    )  # fmt: skip
    assert tiny.equal(tuned, same)  # the recipe's rate plays no part

    def loss(weights):
        scores = logits(tiny.encoder()(weights, images), head)
        return float(torch.nn.functional.cross_entropy(scores, labels))

    assert loss(part.weights(BASE, tuned)) < loss(BASE) - 0.1


def _same(recipe) -> dict[str, Any]:
    names = ("epochs", "min_steps", "weight_decay", "batch", "warmup", "clip", "label_smoothing")
    return {name: getattr(recipe, name) for name in names}


def test_an_attacker_trains_the_adapter_too():
    part = lora()
    honest = {"a": tiny.honest_expert("a", BASE, peft=part)}
    clean = run(attack("badnets", rate=0.0), honest, peft=part).experts["a"]
    assert tiny.equal(clean.weights, honest["a"].weights)
    assert clean.factors is not None
    assert honest["a"].factors is not None
    assert tiny.equal(clean.factors, honest["a"].factors)
    bad = run(attack("badnets", rate=0.5), honest, peft=part).experts["a"]
    changed = {name for name in BASE if not torch.equal(bad.weights[name], BASE[name])}
    assert changed == ATTN | MLP
    threat = Threat(fixed_patch("center", 3, BASE), "a", 1, ("a",))
    kept = load_compromise(*dump_compromise(Compromise({"a": bad}, (threat,))), "key")
    assert kept.experts["a"].factors is not None
    assert tiny.equal(kept.experts["a"].factors, bad.factors or {})
    assert tiny.equal(kept.experts["a"].weights, bad.weights)


# -- keys


def cell(*words: str) -> Cell:
    names = dict.fromkeys(("suite", "peft", "attack", "merge", "defense"), "x")
    config = {key: value for key, value in resolved(*words).items() if key != "experts"}
    return cell_from({**config, "names": names})


def test_full_fine_tuning_leaves_every_key_as_it_was():
    """An adapter is an input of its own; without it the inputs are those from before the group."""
    full, adapted = cell(), cell("peft=lora_all")
    for stage in ("expert", "scope"):
        one, other = (
            made.expert("signs")[2] if stage == "expert" else made.scope(("signs",))
            for made in (full, adapted)
        )
        assert "peft" not in one
        assert {key: value for key, value in other.items() if key != "peft"} == one
        assert other["peft"]["values"]["rank"] == 16
    assert full.key != adapted.key
    assert cell("peft=lora_all", "peft.lr=0.002").key != adapted.key
    assert full.head("signs") == adapted.head("signs")
    assert full.model_key("pretrained") == adapted.model_key("pretrained")


# -- an independent oracle


def test_peft_computes_the_same():
    """Features and merged weights of the whole tower; peft's q, k and v share one A.

    peft 0.21.2 adds out_proj's product twice when it merges attention, so that one is left at 0.
    """
    peft = pytest.importorskip("peft", reason="peft is an optional oracle: pip install peft")
    part = lora()
    factors = random_factors(part)
    packed = f"{BLOCK}.attn.in_proj_weight/A"
    factors[packed] = factors[packed][:1].expand(3, -1, -1).clone()
    factors[f"{BLOCK}.attn.out_proj.weight/B"].zero_()
    tower = tiny.BACKBONE.build(0).visual
    tower.load_state_dict(BASE)
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=["attn", "c_fc", "c_proj"])
    adapted = peft.get_peft_model(tower, config).eval()
    for name, value in adapted.named_parameters():
        if "lora_" in name:
            value.data = theirs(name, factors)
    images = torch.rand(4, 3, tiny.SIDE, tiny.SIDE, generator=generator("i"))
    ours = part.weights(BASE, factors)
    with torch.no_grad():
        features = adapted((images - 0.5) / 0.25)
        assert torch.allclose(features, tiny.encoder()(ours, images), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(features, tiny.encoder()(BASE, images), rtol=1e-2, atol=1e-2)
    merged = adapted.merge_and_unload().state_dict()
    assert merged.keys() == BASE.keys()
    for name, value in merged.items():
        assert torch.allclose(value, ours[name], rtol=1e-5, atol=1e-5), name


def theirs(name: str, factors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Our factor under one of peft's names, ...attn.base_layer.out_proj.lora_A.default.weight."""
    inner = name.removeprefix("base_model.model.").replace("base_layer.", "")
    module, letter = inner.split(".lora_")
    owner = f"{module}.in_proj_weight" if module.endswith(".attn") else f"{module}.weight"
    value = factors[f"{owner}/{letter[0]}"]
    return value[0].clone() if letter[0] == "A" else value.flatten(0, 1).clone()
