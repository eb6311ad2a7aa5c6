"""Suites choose backbone, recipe, budget and setting; a setting gives options their words."""

import json
from functools import cache

import pytest
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from benchmark.cell import cell_from
from benchmark.components import CONF, build, filled, identity, option, options, raw_option
from benchmark.config import plan, register_datasets
from benchmark.cropping import RATIO, boxes, random_crops
from benchmark.measured import image_keys
from tests.small import ROOT

SUITES = options("suite")
PUBLISHED = [name for name in SUITES if name.startswith("vit")]


@cache
def composed(*words: str) -> dict:
    register_datasets()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("run", list(words))
    node = OmegaConf.to_container(tree, resolve=True)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items() if key != "dataset"}


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_brings_all_that_goes_with_it(name):
    made = composed(f"suite={name}", "attack=badmerging_off", "defense=lfpm")
    tasks, token = made["suite"]["tasks"], made["backbone"]["model"]["vision_cfg"]["patch_size"]
    assert {made["attack"]["adversary"], made["attack"]["victim_task"]} <= set(tasks)
    assert made["setting"]["token"] == token
    assert made["defense"]["mining"]["prompts"]["patch_size"] == [token, token]
    assert made["setting"].keys() == raw_option("setting", "mini").keys()
    assert made["suite"]["granted"] == made["budget"]["images"]
    if name in PUBLISHED:
        recipe = build(made["finetune"], "finetune")
        assert set(tasks) <= recipe.epochs_of.keys()
        assert made["backbone"]["name"].replace("-", "").lower().startswith(name.split("_")[0])


def test_budget_and_setting_can_still_be_chosen():
    made = composed("suite=vit_b32_6", "budget=demo", "setting.adversary=pets", "attack.size=9")
    assert made["budget"] == raw_option("budget", "demo")
    assert (made["attack"]["adversary"], made["attack"]["size"]) == ("pets", 9)


def test_an_option_alone_means_what_it_means_on_the_standard_suite():
    mini = raw_option("setting", "mini")
    for group in ("attack", "defense", "stress"):
        for name in options(group):
            text = json.dumps(raw_option(group, name))
            assert "${setting." not in json.dumps(option(group, name))
            worth = {f"${{setting.{key}}}": value for key, value in mini.items()}
            assert filled(json.loads(text), worth) == option(group, name)
    assert option("attack", "badmerging_on") == composed()["attack"]


def test_cells_of_before_are_found(tmp_path):
    """Settings, crops and epochs per task are in no key of the embedded suite."""
    made = plan(["-m", "experiment=demo", "seed=0", f"store={tmp_path}"])
    assert made is not None
    records = {path.stem for path in (ROOT / "results/demo/records").glob("*.json")}
    assert {cell_from(config).key for config in made.configs} <= records


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    made = plan([f"store={tmp_path_factory.mktemp('plans')}"])
    assert made is not None
    return made.configs[0]


def test_an_experts_key_knows_its_own_epochs_only(cell):
    plain = cell_from(cell)
    recipe = {**cell["finetune"], "epochs_of": {"signs": 9}}
    other = cell_from({**cell, "finetune": recipe})
    assert other.expert("flags") == plain.expert("flags")
    assert other.expert("signs") != plain.expert("signs")
    assert other.finetune.of("signs").epochs == 9
    assert other.finetune.of("flags") == plain.finetune


def test_the_precision_of_a_measurement_is_in_its_key_alone(cell):
    plain = cell_from(cell)
    half = cell_from({**cell, "suite": {**cell["suite"], "precision": "bfloat16"}})
    assert half.merged("attacked") == plain.merged("attacked")
    assert half.evaluation("main") != plain.evaluation("main")
    told = {**image_keys(plain, ("signs",)), "precision": "bfloat16"}
    assert image_keys(half, ("signs",)) == told


def test_an_option_of_a_recipe_is_named_only_where_it_changes_something():
    node = option("finetune", "mini")
    before = identity(build(node, "finetune"))["values"]
    assert not {"epochs_of", "crop"} & before.keys()
    cropped = identity(build({**node, "crop": 0.9}, "finetune"))["values"]
    assert cropped == {**before, "crop": 0.9}


@given(least=st.floats(0.05, 1), seed=st.integers(0, 99))
def test_crops_stay_inside_and_keep_the_area_they_promise(least, seed):
    maps = boxes(50, least, torch.Generator().manual_seed(seed))
    wide, tall, across, down = maps[:, 0, 0], maps[:, 1, 1], maps[:, 0, 2], maps[:, 1, 2]
    assert (across.abs() + wide <= 1 + 1e-9).all()
    assert (down.abs() + tall <= 1 + 1e-9).all()
    area = wide * tall
    assert (area <= 1 + 1e-9).all()
    whole = (wide < 1 - 1e-9) & (tall < 1 - 1e-9)
    assert (area[whole] >= least - 1e-9).all()
    ratio = wide / tall
    assert ((ratio <= RATIO + 1e-9) & (ratio >= 1 / RATIO - 1e-9)).all()


def test_a_crop_is_the_resized_box():
    """An image that is linear in both directions stays so, but for a tenth of a pixel."""
    side = 40
    ramp = torch.linspace(0, 1, side)
    rows = [ramp.expand(side, side), ramp[:, None].expand(side, side)]
    image = torch.stack([*rows, 1 - rows[1]])
    found = random_crops(image[None], 0.5, torch.Generator().manual_seed(3))[0]
    ((wide, _, across), (_, tall, down)) = boxes(1, 0.5, torch.Generator().manual_seed(3))[0]
    places = (2 * torch.arange(side, dtype=torch.float64) + 1) / side - 1

    def at(scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        return (((scale * places + shift + 1) * side - 1) / 2 / (side - 1)).float()

    inner = slice(4, -4)
    assert (found[0, 10] - at(wide, across))[inner].abs().max() < 2e-3
    assert (found[1, :, 10] - at(tall, down))[inner].abs().max() < 2e-3
    assert (found[1] + found[2] - 1)[inner, inner].abs().max() < 2e-3
