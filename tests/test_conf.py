"""The config tree is tested: every option composes, builds and says no to nonsense."""

import copy
import dataclasses
import json
from functools import cache
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from benchmark.cell import cell_from
from benchmark.components import CONF, _read, build, identity, locate, option, options
from benchmark.config import _compose, _expand, plan, register_datasets
from benchmark.errors import BenchError
from benchmark.listing import listing
from benchmark.types import Grant

COMPONENTS = (
    "backbone",
    "finetune",
    "peft",
    "dataset",
    "attack",
    "merge",
    "defense",
    "stress",
    "diagnosis",
    "tracker",
)
ALL = [(group, name) for group in COMPONENTS for name in options(group)]
METHODS = [(g, n) for g, n in ALL if g in ("attack", "merge", "defense", "stress")]


def resolved(*words: str) -> dict:
    """A fresh copy; composing takes a quarter of a second, and most tests here want the same."""
    return copy.deepcopy(_resolved(*words))


@cache
def _resolved(*words: str) -> dict:
    register_datasets()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        tree = compose("run", list(words))
        node = OmegaConf.to_container(tree, resolve=True, throw_on_missing=True)
    assert isinstance(node, dict)
    return {str(key): value for key, value in node.items()}


def node_of(group: str, name: str) -> dict:
    if group == "dataset":
        return option(group, name)
    return resolved(f"{group}={name}")[group]


def test_every_group_has_options():
    assert all(options(group) for group in (*COMPONENTS, "suite", "experiment", "table"))


@pytest.mark.parametrize(("group", "name"), ALL)
def test_option_composes_and_builds(group, name):
    part = build(node_of(group, name), group)
    assert dataclasses.is_dataclass(part)
    assert isinstance(type(part).version, int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        part.anything = None


@pytest.mark.parametrize(("group", "name"), ALL)
def test_every_value_is_in_the_yaml(group, name):
    node = node_of(group, name)
    cls = locate(node["_target_"])
    fields = {field.name for field in dataclasses.fields(cls) if field.init}
    assert fields == node.keys() - {"_target_"}
    defaults = [f.name for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING]
    assert not defaults


@pytest.mark.parametrize(("group", "name"), ALL)
def test_unknown_keys_are_refused_in_one_sentence(group, name):
    with pytest.raises(BenchError, match=rf"unknown key {group}\.nonsense") as caught:
        build({**node_of(group, name), "nonsense": 1}, group)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("group", "name"), METHODS)
def test_methods_declare_what_they_see_and_say_what_they_are(group, name):
    part = build(node_of(group, name), group)
    assert all(isinstance(grant, Grant) for grant in part.needs)
    assert (type(part).__doc__ or "").strip()
    named = identity(part)["values"].keys() | getattr(part, "neutral", {}).keys()
    assert named == {f.name for f in dataclasses.fields(part)}


def test_no_two_yamls_are_the_same_component():
    nodes = [json.dumps(option(group, name), sort_keys=True) for group, name in METHODS]
    assert len(nodes) == len(set(nodes))


@pytest.mark.parametrize("name", options("experiment"))
def test_experiments_have_a_header_and_compose(name, tmp_path):
    text = (CONF / "experiment" / f"{name}.yaml").read_text()
    for word in ("# @package _global_", "# Reproduces:", "# Cost:", "# Command:"):
        assert word in text, f"{name}.yaml lacks the header line {word}"
    made = plan(["-m", f"experiment={name}", f"store={tmp_path}"])
    assert made is not None
    cells = [cell_from(config) for config in made.configs]
    assert len({cell.key for cell in cells}) == len(cells) > 1


def test_a_plan_is_kept_and_is_the_same(tmp_path):
    words = ["-m", "merge=glob(*)", "seed=0,1", f"store={tmp_path}"]
    first = plan(words)
    assert list((tmp_path / "plans").iterdir())
    second = plan(words)
    assert first == second
    assert first is not None
    assert len(first.configs) == 2 * len(options("merge"))


SWEEPS = {
    "experiment=demo": True,
    "experiment=demo defense=none seed=range(0,3)": True,
    "experiment=phenomena": True,
    "experiment=heldout_defenses defense=none,ft attack.adversary=flags": True,
    "merge=glob(t*)": True,
    "merge=ties,task_arithmetic merge.scale=0.5": True,
    "attack=badnets merge.scale=0.1,0.2": True,
    "peft=full,lora_all attack=badnets seed=0,1": True,
    "merge=lines,ties": True,
    "defense=lfpm,lfpm_canary,transfer": True,
    "attack=badnets attack.size='${setting.frame}' seed=0,1": True,
    "attack=badnets attack.size='${oc.env:NOWHERE,4}' seed=0,1": False,
    "merge=lines merge@merge.inner=ties seed=0,1": False,
    "merge=lines merge@merge.inner=ties,simple_average": False,
    "suite=mini,mini_6": False,
    "seed=5 seed=0,1": False,
    "dataset.signs.seed=1,2": False,
}


@pytest.mark.parametrize("words", SWEEPS)
def test_the_short_cut_gives_what_hydra_gives(words):
    argv = ["-m", *words.split()]
    short = _expand(argv)
    assert (short is not None) == SWEEPS[words]
    if short is not None:
        assert short == _compose(argv)


def test_an_option_added_later_is_named_only_where_it_changes_something():
    ties = option("merge", "ties")
    before = identity(build(ties, "merge"))
    assert "scope" not in before["values"]
    legacy = identity(build({**ties, "scope": "openclip_legacy"}, "merge"))
    assert legacy["values"] == {**before["values"], "scope": "openclip_legacy"}


def test_an_option_made_of_others_is_read_with_them():
    lines = option("merge", "lines")
    assert lines["inner"] == option("merge", "task_arithmetic")
    assert lines == resolved("merge=lines")["merge"]
    chosen = resolved("merge=lines", "merge@merge.inner=ties")["merge"]
    assert chosen == {**lines, "inner": option("merge", "ties")}


def test_a_part_of_a_component_is_swept_as_such(tmp_path):
    words = ["-m", "merge=lines", "merge@merge.inner=ties,dare_ta", f"store={tmp_path}"]
    made = plan(words)
    assert made is not None
    inner = [option("merge", name) for name in ("ties", "dare_ta")]
    assert [config["merge"]["inner"] for config in made.configs] == inner
    assert {config["names"]["merge"] for config in made.configs} == {"lines"}


def test_pyproject_ships_every_yaml():
    assert not list(CONF.rglob("*.yml"))
    assert Path(CONF / "run.yaml").exists()


BAD = {
    "merge=tis": "unknown merge 'tis' (did you mean 'ties'?)",
    "merg=ties": "unknown key merg (did you mean 'merge'?)",
    "merge.scael=1": "unknown key merge.scael (did you mean 'merge.scale'?)",
    "merge.scale=abc": "merge.scale='abc' is not valid",
    "merge.scale=-1": "merge.scale=-1 is not valid",
    "attack.target=99": "attack.target=99: task 'signs' has classes 0 to 11",
    "attack.adversary=sings": "attack.adversary=sings is not among the merged tasks",
    "suite.tasks=[signs]": "suite.tasks=['signs'] is not valid",
    "suite.tasks=[signs,flgas]": "suite.tasks has no data set 'flgas' (did you mean 'flags'?)",
    "merge.density=0.95 merge=breadcrumbs merge.outliers=0.1": "are more than the whole",
    "attack=badmerging_on attack.r_min=0.9 attack.r_max=0.5": "attack is not valid: r_min=0.9 is",
    "defense=lfpm defense.selection.grid=[0.5,0.4]": "is not valid: grid=[0.5, 0.4] must rise",
    "attack=badmerging_on attack.place=[1,99]": "a trigger of 6 px at [1, 99] does not fit images",
    "attack=several attack.plants=[{adversary:signs,target:1,place:center,size:40}]": "of 40 px",
    "merge=dare_ta merge.drop=1": "merge.drop=1 is not valid",
    "merge=simple_average merge.scale=1": "the chosen merge has no 'scale'",
    "experiment=demo": "experiment=demo is a sweep: add -m to run it",
    "seed=-1": "seed=-1 is not valid",
    "seed=x": "seed='x' is not valid",
    "merge=ties,task_arithmetic": "add -m",
    "attack=badnets attack.size='${attack.sise}'": "Interpolation key 'attack.sise' not found",
    "-m attack=badnets attack.size='${attack.size}' seed=0,1": "Recursive interpolation",
    "merge=[ties": "'merge=[ties' is not in Hydra's override grammar",
    "backbone.weights=/nowhere.safetensors": "cannot be read",
}


def test_every_file_is_read_as_hydra_reads_it():
    """1e-9 is text to YAML 1.1: a cell planned by the short cut would differ from Hydra's."""
    for path in sorted(CONF.rglob("*.yaml")):
        theirs = OmegaConf.to_container(OmegaConf.load(path), resolve=False) or {}
        assert repr(_read(path)) == repr(theirs), path.name


def test_options_are_told_apart_where_they_are_listed():
    for group in ("attacks", "merges", "defenses", "pefts", "stresses", "datasets", "launchers"):
        lines = listing(group).splitlines()
        summaries = [line.split(None, 1)[1] for line in lines]
        twice = {one for one in summaries if summaries.count(one) > 1}
        assert not twice, f"{group}: {twice}"


def test_some_options_of_a_group_can_be_asked_for():
    named = [line.split()[0] for line in listing("merges", ["ties", "dare_*"]).splitlines()]
    assert named == ["dare_ta", "dare_ties", "ties"]
    with pytest.raises(BenchError, match=r"nothing in merges is called 'tis' .did you mean 'ties'"):
        listing("merges", ["ties", "tis"])


def key_of_words(words: list[str]) -> str:
    made = plan(words)
    assert made is not None
    return cell_from(made.configs[0]).key


@pytest.mark.parametrize("word", BAD)
def test_bad_words_die_early_in_one_sentence(word, tmp_path):
    with pytest.raises(BenchError) as caught:
        key_of_words([*word.split(), f"store={tmp_path}"])
    assert BAD[word] in str(caught.value)
    assert "\n" not in str(caught.value)
