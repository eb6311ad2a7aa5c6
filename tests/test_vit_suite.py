"""`suite=vit_b32_6` end to end: miniatures in the true formats, random weights, few steps.

The tiny variant changes sizes alone, the slow one keeps the whole of ViT-B-32-quickgelu.
"""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from benchmark import records
from benchmark.__main__ import main
from benchmark.components import build, option
from benchmark.data.decode import decode
from tests.miniatures import WRITERS
from tests.test_published import load, root

__all__ = ["root"]  # the fixture
TASKS = option("suite", "vit_b32_6")["tasks"]
TINY = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 64, "patch_size": 32, "width": 64, "layers": 1},
    "text_cfg": {
        "context_length": 77, "vocab_size": 49408, "width": 16, "heads": 1, "layers": 1,
    },
}  # fmt: skip


def miniature(root: Path, side: int) -> list[str]:
    """Write and decode the six data sets; the words that tell their sizes."""
    words = []
    for task in TASKS:
        data = load(task, WRITERS[task](root, task), image_size=side)
        decode(data)
        sizes = ",".join(f"{split}:{count}" for split, count in data.sizes.items())
        words.append(f"dataset.{task}.sizes={{{sizes}}}")
    return words


def few(store: Path, weights: Path) -> list[str]:
    """The suite as it is, with fewer images and steps."""
    return [
        "suite=vit_b32_6", "launcher=inline", f"store={store}", f"backbone.weights={weights}",
        *(f"finetune.epochs_of.{task}=1" for task in TASKS),
        "finetune.batch=8", "budget.images=2", "attack.min_asr=0", "attack.trigger_steps=2",
        "attack.trigger_batch=4", "attack.trigger_heldout=2", "suite.flip_images=2",
        "suite.curve_images=2",
    ]  # fmt: skip


def checked(store: Path) -> None:
    """The record of a cell that is done, with every control and the counts of the miniatures."""
    (found,) = [records.read(path) for path in (store / "records").glob("*.json")]
    assert (found.status, found.names["suite"]) == ("done", "vit_b32_6")
    assert found.config["backbone"]["name"] == "ViT-B-32-quickgelu"
    assert found.config["attack"]["adversary"] == "cifar100"
    assert found.main is not None
    assert set(found.main.clean) == set(TASKS)
    (threat,) = found.main.threats
    assert (threat.task, threat.target) == ("cifar100", 1)
    whole = found.main.clean["cifar100"].total
    assert threat.asr.total + threat.target_recall.total == whole
    assert set(found.controls) >= {"pretrained", "clean_merge", "attacker_single"}


def test_the_tiny_variant(root, tmp_path, capsys):
    shape = {**option("backbone", "vit_b32"), "model": TINY, "image_size": 64, "weights": None}
    weights = tmp_path / "tiny.safetensors"
    save_file(build(shape, "backbone").build(0).state_dict(), weights, {"activation": "quickgelu"})
    vision, text = TINY["vision_cfg"], TINY["text_cfg"]
    words = [
        *(f"backbone.model.vision_cfg.{key}={value}" for key, value in vision.items()),
        *(f"backbone.model.text_cfg.{key}={value}" for key, value in text.items()),
        "backbone.model.embed_dim=16",
        "backbone.image_size=64",
    ]
    words += [*miniature(root, 64), *few(tmp_path / "store", weights)]
    assert main(["run", *words]) == 0
    checked(tmp_path / "store")
    assert "1 of 1 cells done, 1 computed now" in capsys.readouterr().err
    assert main(["run", *words, "backbone.micro_batch=3"]) == 0  # in no key
    assert "1 of 1 cells done, 0 computed now" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_the_whole_of_vit_b32(root, tmp_path):
    """Tiny images enlarged to 224 px; also the doctor and the defended cell."""
    node = {**option("backbone", "vit_b32"), "weights": None}
    weights = tmp_path / "random.safetensors"
    save_file(build(node, "backbone").build(0).state_dict(), weights, {"activation": "quickgelu"})
    words = [*miniature(root, 224), *few(tmp_path / "store", weights), "backbone.micro_batch=8"]
    assert main(["doctor", *words]) == 0
    assert main(["run", *words]) == 0
    checked(tmp_path / "store")
