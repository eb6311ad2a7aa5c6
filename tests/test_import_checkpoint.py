"""Checkpoints from elsewhere: read to the bit, or refused by name, and never run."""

import io
import json
import pickle
import sys
import types
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from benchmark.__main__ import main
from benchmark.bench import Bench
from benchmark.cell import cell_from
from benchmark.checkpoints.adapters import merged_adapter
from benchmark.checkpoints.archives import open_stream, open_zip
from benchmark.checkpoints.huggingface import from_hugging_face, to_hugging_face
from benchmark.checkpoints.importing import LICENCE, Wish, import_checkpoint
from benchmark.checkpoints.inert import Made, read_pickle
from benchmark.checkpoints.manifest import imported_experts, lineage, load_imported
from benchmark.checkpoints.tree import tensors_of
from benchmark.components import build, option
from benchmark.config import plan
from benchmark.errors import BadCheckpoint, BenchError
from benchmark.models.backbone import image_tower
from benchmark.store import Store, key_of
from tests import tiny
from tests.small import ROOT
from tests.tiny import copied, equal

ELSEWHERE = Path(__file__).parent / "elsewhere"
ANSWERS = load_file(ELSEWHERE / "answers.safetensors")
TASKS = ("cars", "signs")
GELU = Wish("cars", activation="gelu")


def clip(seed: int = 0) -> dict:
    return copied(tiny.BACKBONE.build(seed).state_dict())


@pytest.fixture
def backbone(tmp_path):
    """The tiny backbone with random weights as its base."""
    save_file(clip(), tmp_path / "base.safetensors")
    return replace(tiny.BACKBONE, weights=str(tmp_path / "base.safetensors"))


@pytest.fixture
def take(backbone, tmp_path):
    """Import a file; the weights that were written."""

    def run(path: Path, wish: Wish = GELU, encoder=backbone) -> dict:
        out = tmp_path / "out" / "cars.safetensors"
        told = import_checkpoint(path, wish, encoder, TASKS, out)
        assert told["file"] == str(out)
        return load_file(out)

    return run


def save_old(value: object, path: Path) -> None:
    with warnings.catch_warnings():  # that a class's source cannot be found
        warnings.simplefilter("ignore")
        torch.save(value, path, _use_new_zipfile_serialization=False)


SAVES = {"zip": torch.save, "stream": save_old}


@pytest.fixture
def whole():
    """A model as task_vectors pickles it, of a class in a module that is gone when it is read."""
    from torchvision import transforms

    class ImageEncoder(torch.nn.Module):
        pass

    module = types.ModuleType("src.modeling")
    module.ImageEncoder = ImageEncoder  # type: ignore[attr-defined]
    ImageEncoder.__module__, ImageEncoder.__qualname__ = "src.modeling", "ImageEncoder"
    sys.modules |= {"src": types.ModuleType("src"), "src.modeling": module}
    model = ImageEncoder()
    model.model = tiny.BACKBONE.build(1)
    del model.model.transformer  # as they do
    normalise = transforms.Normalize(tiny.BACKBONE.mean, tiny.BACKBONE.std)
    size = transforms.Resize(16, interpolation=transforms.InterpolationMode.BICUBIC)
    model.val_preprocess = transforms.Compose([size, transforms.ToTensor(), normalise])
    model.cache_dir = None
    yield model
    for name in ("src", "src.modeling"):
        sys.modules.pop(name, None)


def forget() -> None:
    for name in ("src", "src.modeling"):
        del sys.modules[name]


# -- the reader of pickles --


def nothing_stored(pid: object) -> object:
    raise ValueError("no id is known")


def keys() -> st.SearchStrategy:
    return st.one_of(st.none(), st.booleans(), st.integers(), st.text(), st.floats(allow_nan=False))


PLAIN = st.recursive(
    st.one_of(keys(), st.binary()),
    lambda one: st.one_of(
        st.lists(one), st.tuples(one), st.tuples(one, one, one, one), st.dictionaries(keys(), one)
    ),
    max_leaves=20,
)


@given(value=PLAIN, protocol=st.integers(3, 5))
def test_plain_values_are_read_as_pickle_reads_them(value, protocol):
    data = pickle.dumps(
        [value, value, {"set"}, frozenset({1, "b"})][: 2 if protocol < 4 else 4], protocol
    )
    assert repr(read_pickle(io.BytesIO(data), nothing_stored)) == repr(pickle.loads(data))  # noqa: S301


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_is_read(protocol):
    value = {"a": [1, -7, 2**70, True, None, 1.5, "é\n"], "b": (1, (2, 3)), 3: {}}
    data = pickle.dumps(value, protocol)
    assert read_pickle(io.BytesIO(data), nothing_stored) == value


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)


@given(data=st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data):
    try:
        read_pickle(io.BytesIO(b"\x80\x04" + data), nothing_stored)
    except BadCheckpoint as error:
        one_line(error)


@given(cut=st.integers(0, 400), flip=st.integers(0, 7))
def test_a_damaged_pickle_is_read_or_refused(cut, flip):
    whole = bytearray(pickle.dumps({"a": [1, 2, {"b": (1.5, "c")}], "d": list(range(99))}))
    whole[cut % len(whole)] ^= 1 << flip
    try:
        read_pickle(io.BytesIO(bytes(whole)), nothing_stored)
    except BadCheckpoint as error:
        one_line(error)


def test_what_would_be_called_is_written_down():
    tree = read_pickle(
        io.BytesIO(pickle.dumps(__import__("collections").OrderedDict(a=1))), nothing_stored
    )
    assert isinstance(tree, Made)
    assert (str(tree.maker), tree.args, tree.pairs) == ("collections.OrderedDict", (), {"a": 1})


# -- torch.save --


@pytest.mark.parametrize("form", SAVES)
def test_tensors_are_read_to_the_bit(form, tmp_path):
    """Types, views, shared storages and empty tensors, as torch.load reads them."""
    line = torch.arange(24.0)
    state = {
        "whole": line, "view": line[4:], "steps": line[1::3], "turned": line.view(4, 6).T,
        "empty": torch.zeros(0, 3), "number": torch.tensor(2.5),
        "parameter": torch.nn.Parameter(torch.randn(2, 3)),
        **{str(kind): torch.randn(5).to(kind)
           for kind in (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool)},
    }  # fmt: skip
    SAVES[form]({"epoch": 3, "state_dict": state, "best": None}, tmp_path / "x.pt")
    archive = (open_zip if form == "zip" else open_stream)(tmp_path / "x.pt")
    views, beside = tensors_of(archive.root)
    expected = torch.load(tmp_path / "x.pt", weights_only=True)["state_dict"]
    assert list(views) == list(expected)
    for name, view in views.items():
        found = view.load(archive)
        assert found.dtype == expected[name].dtype
        assert torch.equal(found, expected[name])
        assert found.is_contiguous()
    assert beside == ["epoch", "best"]


@pytest.mark.parametrize("form", SAVES)
def test_a_whole_model_is_read_without_its_code(form, whole, take, tmp_path, backbone):
    SAVES[form](whole, tmp_path / "finetuned.pt")
    expected = image_tower(copied(whole.model.state_dict()))
    forget()
    found = take(tmp_path / "finetuned.pt", Wish("cars", licence="MIT", source="a colleague"))
    assert equal(found, expected)
    assert "src.modeling" not in sys.modules
    told = json.loads((tmp_path / "out/cars.json").read_text())
    assert told["activation_told_by"] == told["preprocessing_told_by"] == "the file"
    assert told["activation"] == "gelu"
    assert "src.modeling.ImageEncoder" in told["source"]["classes"]
    assert told["left_out"] == [
        "model.ln_final.* (2)", "model.logit_scale", "model.positional_embedding",
        "model.text_projection", "model.token_embedding",
    ]  # fmt: skip
    assert (told["licence"], told["source"]["told"]) == ("MIT", "a colleague")
    assert told["base_sha256"] == backbone.weights_sha256()


@pytest.mark.parametrize(
    ("prefix", "wrap"),
    [
        ("", dict),
        ("visual.", dict),
        ("module.model.visual.", lambda one: {"state_dict": one, "step": 2}),
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_state_dicts_under_any_prefix(prefix, wrap, half, take, tmp_path):
    tower = image_tower(clip(1))
    tower = {name: value.half() if half else value for name, value in tower.items()}
    torch.save(wrap({f"{prefix}{name}": one for name, one in tower.items()}), tmp_path / "x.pt")
    assert equal(take(tmp_path / "x.pt"), {name: one.float() for name, one in tower.items()})
    told = json.loads((tmp_path / "out/cars.json").read_text())
    assert told["source"]["dtypes"] == {"float16" if half else "float32": len(tower)}
    assert told["licence"] == LICENCE
    assert told["preprocessing_told_by"] == "nobody: the suite's is assumed"


def test_equal_weights_make_equal_files(take, tmp_path, whole):
    """However they came: the sha256 names the weights alone."""
    tower = image_tower(copied(whole.model.state_dict()))
    torch.save(whole, tmp_path / "whole.pt")
    save_file(tower, tmp_path / "tower.safetensors")
    out, found = tmp_path / "out" / "cars.safetensors", []
    for path in ("whole.pt", "tower.safetensors"):
        take(tmp_path / path)
        found.append(out.read_bytes())
    assert found[0] == found[1]
    save_file(image_tower(clip(2)), tmp_path / "other.safetensors")
    with pytest.raises(BenchError, match="is there with other content"):
        take(tmp_path / "other.safetensors")
    assert out.read_bytes() == found[0]


# -- transformers and peft --


def their_backbone(tmp_path):
    """A base whose text tower is open_clip's and whose image tower is that of tests/elsewhere."""
    theirs = load_file(ELSEWHERE / "clip/model.safetensors")
    prefix = "vision_model."
    vision = {k.removeprefix(prefix): v for k, v in theirs.items() if k.startswith(prefix)}
    tower = from_hugging_face(vision, theirs["visual_projection.weight"])
    save_file(
        {**clip(), **{f"visual.{k}": v for k, v in tower.items()}}, tmp_path / "theirs.safetensors"
    )
    return replace(tiny.BACKBONE, weights=str(tmp_path / "theirs.safetensors"))


def features(weights: dict) -> torch.Tensor:
    encoder = tiny.BACKBONE.encoder()
    pixels = ANSWERS["images"] * torch.tensor(tiny.BACKBONE.std[0]) + tiny.BACKBONE.mean[0]
    with torch.no_grad():
        return encoder(weights, pixels)


@pytest.mark.parametrize("folder", ["clip", "vision", "vision with its prefix"])
def test_models_of_transformers_compute_what_transformers_computes(folder, take, tmp_path):
    """Features of the same images to 1e-5, as transformers 5.23 wrote them down."""
    path = ELSEWHERE / folder.split()[0]
    if "prefix" in folder:  # as transformers 4 saves a CLIPVisionModel
        old = {f"vision_model.{k}": v for k, v in load_file(path / "model.safetensors").items()}
        old["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        torch.save(old, tmp_path / "pytorch_model.bin")
        (tmp_path / "config.json").write_text((path / "config.json").read_text())
        path = tmp_path
    found = take(path, Wish("cars"), their_backbone(tmp_path))
    assert (features(found) - ANSWERS["clip"]).abs().max() < 1e-5
    told = json.loads((tmp_path / "out/cars.json").read_text())
    assert told["activation_told_by"] == "the file"
    assert told["from_base"] == ([] if folder == "clip" else ["proj"])


def test_names_of_transformers_and_back_are_exact():
    ours = clip(4)
    theirs = to_hugging_face(ours)
    assert theirs.keys() == load_file(ELSEWHERE / "clip/model.safetensors").keys()
    vision = {
        k.removeprefix("vision_model."): v for k, v in theirs.items() if k.startswith("vision")
    }
    back = from_hugging_face(vision, theirs["visual_projection.weight"])
    assert equal(back, image_tower(ours))


def test_adapters_of_peft_on_open_clip(take, tmp_path):
    """Weights that peft 0.21 merged, to float32's rounding; another alpha for one kind of layer.

    That peft adds the product of the attention's out_proj twice, in training, too.
    """
    base = {k.removeprefix("base/"): v for k, v in ANSWERS.items() if k.startswith("base/")}
    save_file(base, tmp_path / "theirs.safetensors")
    backbone = replace(tiny.BACKBONE, weights=str(tmp_path / "theirs.safetensors"))
    found = take(ELSEWHERE / "lora_open_clip", GELU, backbone)
    merged = {k.removeprefix("merged/"): v for k, v in ANSWERS.items() if k.startswith("merged/")}
    assert found.keys() == merged.keys()
    assert max((found[name] - merged[name]).abs().max() for name in merged) < 1e-6
    assert (features(found) - ANSWERS["lora_open_clip"]).abs().max() < 1e-5
    told = json.loads((tmp_path / "out/cars.json").read_text())
    assert told["left_out"] == ["transformer.resblocks.* (4)"]


def test_adapters_of_peft_on_transformers(take, tmp_path):
    found = take(ELSEWHERE / "lora_hugging_face", GELU, their_backbone(tmp_path))
    assert (features(found) - ANSWERS["lora_hugging_face"]).abs().max() < 1e-5


def test_an_adapter_by_exact_arithmetic():
    """Powers of two: W + (alpha / r) B A without any rounding."""
    base = {name: torch.zeros_like(one) for name, one in image_tower(clip()).items()}
    name = "transformer.resblocks.0.mlp.c_fc"
    down, up = torch.tensor([[1.0, 2.0] * 16, [0.5] * 32]), torch.ones(128, 2)
    tensors = {f"visual.{name}.lora_A.weight": down, f"visual.{name}.lora_B.weight": up}
    config = {"peft_type": "LORA", "lora_alpha": 8, "r": 2}
    found, _ = merged_adapter(config, tensors, base)
    assert torch.equal(found[f"{name}.weight"], 4.0 * (up @ down))
    assert equal({**found, f"{name}.weight": base[f"{name}.weight"]}, base)
    found, _ = merged_adapter({**config, "use_rslora": True, "lora_alpha": 2**0.5}, tensors, base)
    assert torch.allclose(found[f"{name}.weight"], up @ down)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"peft_type": "LOHA"}, "only LORA"),
        ({"lora_alpha": "many"}, "no number"),
        ({"peft_version": "0.22.0"}, "once or twice"),
    ],
)
def test_adapters_that_are_more_than_a_product_are_refused(change, words, tmp_path, take):
    for path in (ELSEWHERE / "lora_open_clip").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BadCheckpoint, match=words):
        take(tmp_path)


# -- as an expert --


def test_an_imported_expert_is_what_was_imported(take, tmp_path, backbone):
    save_file(image_tower(clip(1)), tmp_path / "x.safetensors")
    weights = take(tmp_path / "x.safetensors")
    file = str(tmp_path / "out/cars.safetensors")
    one = imported_experts({"cars": file}, TASKS, backbone)["cars"]
    assert one.sha256 == __import__("hashlib").sha256(Path(file).read_bytes()).hexdigest()
    assert equal(load_imported(one, image_tower(clip())), weights)


def test_an_expert_of_another_task_encoder_or_content_is_refused(take, tmp_path, backbone):
    save_file(image_tower(clip(1)), tmp_path / "x.safetensors")
    take(tmp_path / "x.safetensors")
    path = tmp_path / "out/cars.safetensors"
    quick = replace(backbone, model={**backbone.model, "quick_gelu": True})
    for given_, encoder, words in (
        ({"signs": str(path)}, backbone, "was imported as 'cars'"),
        ({"car": str(path)}, backbone, "did you mean 'cars'"),
        ({"cars": 3}, backbone, "give a file"),
        ({"cars": str(path)}, quick, 'its activation is "gelu", the suite\'s "quickgelu"'),
        ({"cars": str(path)}, replace(backbone, mean=(0.1, 0.1, 0.1)), "its preprocessing is"),
        ({"cars": str(tmp_path / "none.safetensors")}, backbone, "is not there"),
        ({"cars": str(tmp_path / "x.safetensors")}, backbone, "no manifest"),
    ):
        with pytest.raises(BenchError, match=words):
            imported_experts(given_, TASKS, encoder)
    one = imported_experts({"cars": str(path)}, TASKS, backbone)["cars"]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BenchError, match="is not the file its manifest is about"):
        imported_experts({"cars": str(path)}, TASKS, backbone)
    with pytest.raises(BadCheckpoint, match="was changed while"):
        load_imported(one, image_tower(clip()))


# -- in a cell --


def configs(tmp_path: Path, *words: str) -> list[dict]:
    made = plan(["attack=none", f"store={tmp_path}", *words])
    assert made is not None
    return made.configs


def test_a_mixture_of_imported_and_trained_experts(tmp_path, capsys):
    """Only the imported one's key changes, by its content; it is what the stage gives."""
    tower = image_tower(build(option("backbone", "mini"), "backbone").load())
    moved = {name: value * 1.01 for name, value in tower.items()}
    save_file(moved, tmp_path / "x.safetensors")
    out = tmp_path / "signs.safetensors"
    words = ["--as", "signs", "--activation", "gelu", "--out", str(out)]
    assert main(["import-checkpoint", str(tmp_path / "x.safetensors"), *words]) == 0
    said = capsys.readouterr()
    assert f"experts.signs={out}" in said.err
    told = json.loads(said.out)
    assert told["distance"] == pytest.approx(0.01, rel=1e-3)
    both = configs(tmp_path, "-m", f"experts.signs=null,{out}")
    trained, mixed = map(cell_from, both)
    keys = {task: key_of(*trained.expert(task)) for task in trained.suite.tasks}
    assert {task for task in keys if key_of(*mixed.expert(task)) != keys[task]} == {"signs"}
    assert mixed.expert("signs") == ("imported", 1, {"sha256": told["sha256"]})
    assert mixed.key != trained.key
    assert equal(Bench(mixed, Store(tmp_path / "store")).expert("signs").weights, moved)
    assert lineage(mixed.imported)["signs"]["source"]["file"] == "x.safetensors"
    copy = out.rename(tmp_path / "elsewhere.safetensors")
    out.with_suffix(".json").rename(copy.with_suffix(".json"))
    assert cell_from({**both[1], "experts": {"signs": str(copy)}}).key == mixed.key
    with pytest.raises(BenchError, match=r"experts\.signs=.* is not there"):
        cell_from(both[1])


def test_an_expert_of_no_task_is_refused(tmp_path):
    with pytest.raises(BenchError, match=r"unknown key experts.sings \(did you mean"):
        configs(tmp_path, "experts.sings=x")


def test_cells_without_imported_experts_have_the_keys_they_had(tmp_path):
    made = plan(["-m", "experiment=demo", "seed=0,1,2", f"store={tmp_path}"])
    assert made is not None
    kept = {path.stem for path in (ROOT / "results/demo/records").glob("*.json")}
    assert {cell_from(one).key for one in made.configs} == kept
    assert all("experts" not in one for one in made.configs)
