"""Base weights: where they lie, how they are read, and whose activation they need."""

import json
import pickle
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from benchmark.components import build, identity, option, options
from benchmark.errors import BadCheckpoint, BenchError
from benchmark.models.backbone import Backbone
from benchmark.models.published import published
from benchmark.models.weights import hub_file, locate_weights, read_weights
from tests import tiny

PUBLISHED = [name for name in options("backbone") if option("backbone", name)["name"]]
STATE = {name: value.detach() for name, value in tiny.BACKBONE.build(0).state_dict().items()}
REPO, FILE = "timm/vit_base_patch32_clip_224.openai", "open_clip_model.safetensors"


def toy(**values) -> Backbone:
    """The tiny backbone with other values."""
    node = {one.name: getattr(tiny.BACKBONE, one.name) for one in fields(Backbone)}  # type: ignore[arg-type]
    return build({"_target_": "benchmark.models.backbone.Backbone", **node, **values}, "backbone")


def cached(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """A Hugging Face cache as its own client lays it out, with one file in it."""
    repo = folder / f"models--{REPO.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc123")
    (repo / "snapshots" / "abc123").mkdir(parents=True)
    save_file(state, repo / "snapshots" / "abc123" / FILE)
    return repo / "snapshots" / "abc123" / FILE


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_backbones_are_what_open_clip_builds(name):
    node = option("backbone", name)
    (folder,) = find_spec("open_clip").submodule_search_locations  # type: ignore[union-attr]
    theirs = json.loads((Path(folder) / "model_configs" / f"{node['name']}.json").read_text())
    assert node["model"] == theirs
    assert node["image_size"] == theirs["vision_cfg"]["image_size"]
    entries = published(hub_file(node["weights"])[0])
    assert node["name"] in {model for model, _ in entries}
    for _, entry in entries:
        assert entry["quick_gelu"] is True
        assert (entry["mean"], entry["std"]) == (tuple(node["mean"]), tuple(node["std"]))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_name_pins_the_activation(name):
    node = option("backbone", name)
    other = {**node["model"], "quick_gelu": False}
    with pytest.raises(BenchError, match=r"set backbone\.model\.quick_gelu=true"):
        build({**node, "model": other}, "backbone")
    plain = node["name"].removesuffix("-quickgelu")
    with pytest.raises(BenchError, match="with no quick_gelu"):
        build({**node, "name": plain}, "backbone")
    build({**node, "name": plain, "model": other}, "backbone")


def test_weights_of_the_hub_are_looked_up_and_never_fetched(hub):
    weights = f"hub:{REPO}/{FILE}"
    with pytest.raises(BenchError, match=f"hf download {REPO} {FILE}"):
        locate_weights(weights)
    path = cached(hub, STATE)
    assert locate_weights(weights).samefile(path)
    for wrong in ("hub:timm", "hub:timm/x", "hub:timm/x/"):
        with pytest.raises(BenchError, match="hub:OWNER/REPO/FILE"):
            toy(weights=wrong)


def test_published_weights_need_their_activation_and_their_pixels(hub):
    """The repository is OpenAI's, so open_clip's entry says quick_gelu and the channel means."""
    cached(hub, STATE)
    mean, std = (option("backbone", "vit_b32")[field] for field in ("mean", "std"))
    right = {"weights": f"hub:{REPO}/{FILE}", "mean": mean, "std": std}
    model = {**tiny.MODEL, "quick_gelu": True}
    loaded = toy(**right, model=model).load()
    assert all(torch.equal(loaded[name], value) for name, value in STATE.items())
    with pytest.raises(BadCheckpoint, match=r"trained with quick_gelu=true.*=false; set"):
        toy(**right).load()
    with pytest.raises(BadCheckpoint, match=r"backbone\.mean is not that of"):
        toy(**{**right, "mean": (0.5, 0.5, 0.5)}, model=model).load()


def test_a_file_that_states_its_activation_is_believed(tmp_path):
    path = tmp_path / "stated.safetensors"
    save_file(STATE, path, {"activation": "quickgelu"})
    with pytest.raises(BadCheckpoint, match="made with quickgelu"):
        toy(weights=str(path)).load()
    toy(weights=str(path), model={**tiny.MODEL, "quick_gelu": True}).load()


def as_safetensors(path: Path) -> Path:
    save_file(STATE, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def as_state_dict(path: Path) -> Path:
    torch.save(STATE, path)
    return path


def as_training_checkpoint(path: Path) -> Path:
    state = {f"module.{name}": value for name, value in STATE.items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": state}, path)
    return path


def as_script(path: Path) -> Path:
    """As OpenAI's own files: a scripted module in float16, with three numbers in its state."""

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for name in ("input_resolution", "context_length", "vocab_size"):
                self.register_buffer(name, torch.tensor(7))

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image

    module = Plain()
    for name, value in STATE.items():
        *folders, last = name.split(".")
        place: torch.nn.Module = module
        for folder in folders:
            if not hasattr(place, folder):
                place.add_module(folder, torch.nn.Module())
            place = getattr(place, folder)
        place.register_buffer(last, value.half())
    torch.jit.save(torch.jit.script(module), str(path))
    return path


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "write", [as_safetensors, as_state_dict, as_training_checkpoint, as_script]
)
def test_every_published_form_is_read(write, tmp_path):
    path = write(tmp_path / "weights.pt")
    found = read_weights(path)
    exact = STATE if write is not as_script else {n: v.half().float() for n, v in STATE.items()}
    assert found.keys() == exact.keys()
    assert all(value.dtype == torch.float32 for value in found.values())
    assert all(torch.equal(found[name], value) for name, value in exact.items())
    toy(weights=str(path)).load()


def test_files_that_are_no_weights_are_refused_and_nothing_in_them_runs(tmp_path):
    marker = tmp_path / "ran"

    class Malicious:
        def __reduce__(self):
            return (Path.touch, (marker,))

    path = tmp_path / "weights.pt"
    for content in ({"a": Malicious()}, [1, 2], {"a": 1}, {}):
        torch.save(content, path)
        with pytest.raises(BadCheckpoint, match=str(path)):
            read_weights(path)
    path.write_bytes(pickle.dumps({"a": Malicious()}, protocol=2))
    with pytest.raises(BadCheckpoint):
        read_weights(path)
    page = tmp_path / "page.safetensors"
    page.write_text("<!doctype html>")
    with pytest.raises(BadCheckpoint, match="not a safetensors file"):
        read_weights(page)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content", [b'{"a":', b"hello", b"", pickle.dumps({"a": open}, protocol=2)]
)
def test_what_is_said_of_a_strange_file_advises_nothing_unsafe(content, tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    with pytest.raises(BadCheckpoint) as raised:
        read_weights(path)
    said = str(raised.value)
    assert said.startswith(f"{path} cannot be read as weights (it is no ")
    assert "weights_only" not in said


def test_in_keys_the_content_of_a_file_stands_for_its_path(tmp_path):
    paths = [tmp_path / name for name in ("one.safetensors", "two.safetensors")]
    for path in paths:
        save_file(STATE, path)
    first, second = (toy(weights=str(path)) for path in paths)
    assert identity(first) == identity(second)
    assert first.weights_sha256() == second.weights_sha256() == identity(first)["values"]["weights"]
    save_file({**STATE, "visual.proj": STATE["visual.proj"] + 1}, paths[1])
    assert identity(first) != identity(second)
    shipped = build(option("backbone", "mini"), "backbone")
    assert identity(shipped)["values"]["weights"] == "package:mini.safetensors"
