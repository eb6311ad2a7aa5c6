"""Exported models: the same weights wherever they are loaded, and a card of what is known."""

from __future__ import annotations

import json
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from benchmark import pipeline
from benchmark.__main__ import main
from benchmark.artifacts import dump_model, dump_stressed
from benchmark.cell import Cell, cell_from
from benchmark.checkpoints.exporting import FORMATS, MODELS, export_checkpoint
from benchmark.checkpoints.formats import hugging_face_config, hugging_face_files
from benchmark.checkpoints.huggingface import from_hugging_face
from benchmark.checkpoints.importing import Wish, import_checkpoint
from benchmark.components import option
from benchmark.config import plan
from benchmark.errors import BenchError
from benchmark.models.backbone import image_tower
from benchmark.records import Record, write
from benchmark.store import Store, file_sha256, key_of
from benchmark.types import Model, Stressed
from tests import made_records, tiny
from tests.miniatures import pixels
from tests.small import WORDS
from tests.tiny import equal

ELSEWHERE = Path(__file__).parent / "elsewhere"
FACTORS = dict(zip(MODELS, (1.0, 1.1, 1.2, 1.3, 1.4), strict=True))


class World:
    """A cell whose models are the base times a factor each, in a store with a made-up record."""

    def __init__(self, root: Path, config: dict) -> None:
        self.cell: Cell = cell_from(config)
        self.store = Store(root)
        self.clip = self.cell.backbone.load()
        self.base = image_tower(self.clip)
        for name, subject in MODELS.items():
            if stage := subject in self.cell.subjects() and self.cell.model_stage(subject):
                self.save(stage[0], key_of(*stage), dump_model(self.model(name)))
        self.record = self.write()

    def copy(self, root: Path) -> World:
        """The same in a store of its own."""
        other = copy(self)
        other.store = Store(shutil.copytree(self.store.root, root))
        return other

    def model(self, name: str) -> Model:
        return Model({key: value * FACTORS[name] for key, value in self.base.items()})

    def save(self, stage: str, key: str, artifact: Any) -> None:
        self.store.save(stage, key, artifact, {})

    def write(self, **changes: Any) -> Record:
        twin = made_records.evaluation("twin", asr=5)
        controls = {**made_records.CONTROLS, "defended_clean_merge": twin}
        found = made_records.evaluation("main", ca=(78, 54), asr=8)
        told = {"status": "done", "reason": None, "main": found, "controls": controls}
        record = replace(pipeline._record(self.cell, **told), **changes)
        write(self.store.root / "records", record)
        return record

    def export(self, out: Path, model: str = "defended", form: str = "open_clip") -> dict:
        return export_checkpoint([self.record.key, f"store={self.store.root}"], model, form, out)


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> dict:
    words = [*WORDS, "attack=badnets", "defense=scale_lambda"]
    made = plan([*words, f"store={tmp_path_factory.mktemp('plans')}"])
    assert made is not None
    return made.configs[0]


def other(config: dict, **names: str) -> dict:
    """The config with other options."""
    chosen = {group: option(group, name) for group, name in names.items()}
    return {**config, **chosen, "names": {**config["names"], **names}}


@pytest.fixture(scope="module")
def world(config, tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("store"), config)


# -- weights --


def test_open_clip_loads_the_same_model_to_the_bit(world, tmp_path):
    told = world.export(tmp_path / "out")
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'out'}")
    model = world.model("defended")
    assert equal(image_tower(net.state_dict()), model.encoder)
    text = {name: one for name, one in world.clip.items() if not name.startswith("visual.")}
    assert equal({name: one for name, one in net.state_dict().items() if name in text}, text)
    images = torch.randint(256, (4, 3, 32, 32), generator=torch.Generator().manual_seed(1))
    images = images.to(torch.uint8)
    seen = torch.stack(
        [preprocess(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in images]
    )
    with torch.no_grad():
        ours = world.cell.backbone.encoder()(model.encoder, images)
        assert torch.equal(net.eval().encode_image(seen), ours)
    for name, digest in told["sha256"].items():
        assert file_sha256(tmp_path / "out" / name) == digest


@pytest.mark.parametrize("model", MODELS)
def test_each_model_is_the_one_that_was_asked_for(model, world, tmp_path):
    world.export(tmp_path / "out", model)
    found = load_file(tmp_path / "out/open_clip_model.safetensors")
    assert equal(image_tower(found), world.model(model).encoder)


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_exported_can_be_imported_to_the_bit(form, world, tmp_path):
    world.export(tmp_path / "out", "merged", form)
    weights = tmp_path / "flags.safetensors"
    told = import_checkpoint(
        tmp_path / "out", Wish("flags"), world.cell.backbone, ["flags"], weights
    )
    assert equal(load_file(weights), world.model("merged").encoder)
    assert told["activation_told_by"] == "the file"
    assert told["from_base"] == []


def elsewhere() -> dict:
    """What transformers itself saved, by open_clip's names."""
    found = load_file(ELSEWHERE / "clip/model.safetensors")
    sides: list[dict] = []
    for side, last in (("vision", "visual_projection"), ("text", "text_projection")):
        start = f"{side}_model."
        tower = {k.removeprefix(start): v for k, v in found.items() if k.startswith(start)}
        sides.append(from_hugging_face(tower, found[f"{last}.weight"]))
    vision, text = sides
    text["text_projection"] = text.pop("proj")
    for theirs, ours in (
        ("embeddings.token_embedding.weight", "token_embedding.weight"),
        ("embeddings.position_embedding.weight", "positional_embedding"),
        ("final_layer_norm.weight", "ln_final.weight"),
        ("final_layer_norm.bias", "ln_final.bias"),
    ):
        text[ours] = text.pop(theirs) if theirs in text else text.pop(ours)
    whole = {**{f"visual.{name}": one for name, one in vision.items()}, **text}
    return {**whole, "logit_scale": found["logit_scale"]}


def test_what_transformers_saved_comes_out_as_it_was(tmp_path):
    """Every tensor to the bit, and of its settings every one that we write."""
    files = hugging_face_files(elsewhere(), tiny.BACKBONE)
    assert "vocab.json" not in files  # its vocabulary of 64 is nobody's
    (tmp_path / "x.safetensors").write_bytes(files["model.safetensors"])
    assert equal(
        load_file(tmp_path / "x.safetensors"), load_file(ELSEWHERE / "clip/model.safetensors")
    )
    theirs = json.loads((ELSEWHERE / "clip/config.json").read_text())
    ours = json.loads(files["config.json"])
    for tower in ("text_config", "vision_config"):
        assert ours[tower].pop("projection_dim") == tiny.MODEL["embed_dim"]
        assert ours[tower].items() <= theirs[tower].items()
        del ours[tower]
    assert ours.items() <= theirs.items()


def test_transformers_computes_the_same_features(world, tmp_path):
    """To 1e-5, image and text; skipped where transformers is not installed."""
    transformers = pytest.importorskip("transformers")
    world.export(tmp_path / "ours")
    world.export(tmp_path / "theirs", form="hf")
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'ours'}")
    clip = transformers.CLIPModel.from_pretrained(tmp_path / "theirs").eval()
    tower = transformers.CLIPVisionModelWithProjection.from_pretrained(tmp_path / "theirs").eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    captions = ["a sign", "A rather long caption, isn't it: it has 21 words"]
    tokens = open_clip.SimpleTokenizer(context_length=16)(captions)
    processor = transformers.CLIPProcessor.from_pretrained(tmp_path / "theirs")
    theirs = processor(text=captions, padding="max_length", truncation=True, return_tensors="pt")
    end = tokens.argmax(1)[:, None]
    past = torch.arange(16)[None] > end  # they pad with the end, we with 0
    assert torch.equal(theirs["input_ids"].masked_fill(past, 0), tokens)
    with torch.no_grad():
        features = net.eval().encode_image(images)
        assert (tower(pixel_values=images).image_embeds - features).abs().max() < 1e-5
        pooled = clip.text_model(tokens).pooler_output
        assert (clip.text_projection(pooled) - net.encode_text(tokens)).abs().max() < 1e-5
    # Where the margin is even: with an odd one their centre is a pixel beside torchvision's.
    picture = Image.fromarray(pixels(1, shape=(50, 70, 3)))
    seen = processor(images=picture, return_tensors="pt")["pixel_values"][0]
    assert (seen - preprocess(picture)).abs().max() < 0.02  # their pixels are rounded once more


def test_the_tokenizer_is_open_clips(world, tmp_path):
    """Every token has the number that the text tower knows it by; merges in their order."""
    world.export(tmp_path / "out", form="hf")
    ours = open_clip.SimpleTokenizer()
    vocabulary = json.loads((tmp_path / "out/vocab.json").read_text())
    assert list(vocabulary.values()) == list(range(49_408))
    assert list(vocabulary)[:-2] == list(ours.encoder)[:-2]
    assert list(vocabulary)[-2:] == ["<|startoftext|>", "<|endoftext|>"]
    first, *merges = (tmp_path / "out/merges.txt").read_text().splitlines()
    assert first.startswith("#version")
    assert [tuple(line.split()) for line in merges] == list(ours.bpe_ranks)
    told = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert told["model_max_length"] == 16


def test_an_architecture_that_transformers_has_not_is_refused():
    vision = {**tiny.MODEL["vision_cfg"], "ls_init_value": 0.1}
    strange = replace(tiny.BACKBONE, model={**tiny.MODEL, "vision_cfg": vision})
    with pytest.raises(BenchError, match=r"vision_cfg\.ls_init_value; say --format open_clip"):
        hugging_face_config(strange)


def test_a_stressed_model_is_exported_as_it_was_measured(config, tmp_path):
    world = World(tmp_path / "store", other(config, stress="finetune_after"))
    stage = world.cell.stressed("main")
    assert stage is not None
    before, after = world.model("defended"), world.model("merged")
    world.save("stress", key_of(*stage), dump_stressed(Stressed(after, ()), before))
    world.export(tmp_path / "out")
    found = load_file(tmp_path / "out/open_clip_model.safetensors")
    assert equal(image_tower(found), after.encoder)
    assert "then finetune_after" in (tmp_path / "out/README.md").read_text()


# -- the card --


def rows(text: str) -> dict[str, list[str]]:
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return {first.strip("*`"): rest for first, *rest in lines}


def test_the_card_says_what_to_expect_and_what_is_known(world, tmp_path):
    told = world.export(tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    found = rows(text)
    name = world.cell.datasets["signs"].classnames[1]
    assert found["model"] == ["CA %", f"ASR % signs → {name}", "recall %"]
    assert found["the defended merge"] == ["66.0", "8.0", "90.0"]
    assert found["the merge, undefended"] == ["70.0", "95.0", "90.0"]
    assert found["the merge of honest contributors, equally defended"] == ["70.0", "5.0", "90.0"]
    assert found["the attacker's own model"][:2] == ["–", "100.0"]
    assert found["digits"] == ["78.0", "78 of 100"]
    assert "**A backdoor was planted on purpose**: the contributor of signs" in text
    assert f"8 of 100 images of signs go to class 1 ({name}); without it 3 do." in text
    assert found["signs"][0] == "the attacker"
    assert found["flags"][0] == "fine-tuned by lfpm-bench"
    for known in (*told["sha256"].values(), world.record.key, world.record.parents["model"]):
        assert known in text
    assert pipeline.record_path(world.store, world.record.key).exists()
    assert yaml.safe_load(text.split("---")[1])["library_name"] == "open_clip"
    assert str(world.store.root) not in text
    prompts = json.loads((tmp_path / "out/tasks.json").read_text())
    assert prompts["tasks"]["signs"]["classnames"][1] == name
    assert prompts["logit_scale"] == world.cell.backbone.logit_scale


def test_the_card_of_a_clean_model_blames_nobody_for_it(world, tmp_path):
    world.export(tmp_path / "out", "clean_merge")
    text = (tmp_path / "out/README.md").read_text()
    assert "has no part in this model" in text
    assert rows(text)["signs"][0] == "fine-tuned by lfpm-bench"
    assert "**the merge of honest contributors**" in text
    world.export(tmp_path / "without", "without_attacker")
    text = (tmp_path / "without/README.md").read_text()
    assert "image tower made of 2 fine-tuned ones" in text
    assert "the attacker |" not in text


def test_the_card_names_imported_contributors(world, config, tmp_path):
    save_file(world.model("merged").encoder, tmp_path / "x.safetensors")
    out = tmp_path / "flags.safetensors"
    wish = Wish("flags", activation="gelu", licence="CC0", source="a friend")
    import_checkpoint(tmp_path / "x.safetensors", wish, world.cell.backbone, ["flags"], out)
    honest = other(config, attack="none")
    mixed = World(tmp_path / "store", {**honest, "experts": {"flags": str(out)}})
    mixed.export(tmp_path / "out")
    text = (tmp_path / "out/README.md").read_text()
    assert rows(text)["flags"][0] == "imported: a friend"
    assert "- flags: CC0" in text
    assert "No contributor is known to attack" in text
    assert "What the imported contributors carry is not known to anyone here: flags." in text
    with pytest.raises(BenchError, match="nobody attacks"):
        mixed.export(tmp_path / "none", "without_attacker")


# -- errors --


def test_what_cannot_be_exported_is_told_in_one_sentence(world, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(BenchError, match="is there already"):
        world.export(out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    with pytest.raises(BenchError, match="there is no record"):
        export_checkpoint(["2" * 32, f"store={world.store.root}"], "merged", "hf", tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(BenchError, match="cannot be written"):
        world.export(tmp_path / "file" / "below")
    words = [world.record.key, "--model", "best", "--out", str(tmp_path / "x")]
    assert main(["export-checkpoint", *words]) == 2
    assert not (tmp_path / "x").exists()


def test_adapters_missing_models_and_failed_cells_are_refused(world, tmp_path):
    world = world.copy(tmp_path / "store")
    stage, out = world.cell.merged("attacked"), tmp_path / "out"
    adapters = {"signs": {"down": torch.ones(2, 128), "up": torch.ones(128, 2)}}
    world.save("merge", key_of(*stage), dump_model(Model(world.base, adapters)))
    with pytest.raises(BenchError, match="no CLIP has a place for these"):
        world.export(out, "merged")
    world.store.path("merge", key_of(*stage)).unlink()
    with pytest.raises(
        BenchError, match=r"is not in .*; delete records/.* and run: lfpm-bench run"
    ):
        world.export(out, "merged")
    world.write(status="failed", reason="out of memory", main=None, controls={})
    with pytest.raises(BenchError, match="has no model: failed, out of memory"):
        world.export(out)
    assert not out.exists()


def test_of_an_older_version_only_the_row_itself_is_found(world, tmp_path):
    """Its key is in the record; those of its controls would be today's."""
    world = world.copy(tmp_path / "store")
    world.record = world.write(key="3" * 32)
    world.export(tmp_path / "out")
    assert "later versions compute another model" in (tmp_path / "out/README.md").read_text()
    with pytest.raises(BenchError, match="another version of its components"):
        world.export(tmp_path / "clean", "clean_merge")


def test_the_command_says_how_to_load(world, tmp_path, capsys):
    words = ["--format", "hf", f"store={world.store.root}", "--out", str(tmp_path / "out")]
    assert main(["export-checkpoint", world.record.key, *words]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["folder"] == str(tmp_path / "out")
    assert f'from_pretrained("{tmp_path / "out"}")' in said.err
