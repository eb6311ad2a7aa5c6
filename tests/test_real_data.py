"""Published data sets: the rules of their splits, what is checked, refused and said."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from benchmark.__main__ import main
from benchmark.components import build, identity, option, options
from benchmark.data import command, fetch
from benchmark.data.checking import status, verify
from benchmark.data.decode import Unreadable, decode, fitted
from benchmark.data.decoded import read_index
from benchmark.data.layouts.cifar import read_pickle
from benchmark.data.layouts.idx import read_idx
from benchmark.data.real import check_present
from benchmark.data.samples import of_arrays
from benchmark.data.splits import cut, per_class, split_rows
from benchmark.data.words import read_words
from benchmark.errors import BenchError
from tests.miniatures import WRITERS, put
from tests.test_published import PUBLISHED, load, root

__all__ = ["root"]  # the fixture
OFFICIAL = {
    "cars": 8144, "cifar10": 50_000, "cifar100": 50_000, "dtd": 3760, "emnist": 240_000,
    "fashionmnist": 60_000, "fer2013": 28_709, "kmnist": 60_000, "renderedsst2": 6920,
    "flowers": 1020, "food101": 75_750, "gtsrb": 26_640, "imagenet": 1_281_167,
    "imagenet100": 126_689, "mnist": 60_000, "pcam": 262_144, "pets": 3680, "resisc45": 18_900,
    "stl10": 5000, "sun397": 19_850, "svhn": 73_257,
}  # fmt: skip
"""Images of the published train parts."""
DENOMINATORS = {
    "cifar100": 9900, "gtsrb": 11_910, "eurosat": 2400,
    "cars": 8009, "sun397": 19_800, "pets": 3569,
}  # fmt: skip
"""Test images that are not of class 1, by BadMerging's evaluation and every table after it."""


# -- rules --


def test_dev_is_what_random_split_cuts_off():
    """The vector is Task Arithmetic's own check of MNIST's split."""
    import torch
    from torch.utils.data import random_split

    assert cut(60_000)[0][0] == 36_044
    for count in (8144, 1020, 73_257):
        train, dev = cut(count)
        held = min(int(count * 0.1), 5000)
        both = random_split(range(count), [count - held, held], torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        assert [train.tolist(), dev.tolist()] == [list(one.indices) for one in both]


@pytest.mark.parametrize("name", sorted(OFFICIAL))
def test_sizes_follow_from_the_published_part(name):
    sizes, count = option("dataset", name)["sizes"], OFFICIAL[name]
    held = min(int(count * 0.1), 5000)
    assert (sizes["train"], sizes["dev"]) == (count - held, held)


def test_denominators_are_the_published_ones():
    nodes = {name: option("dataset", name)["denominator"] for name in PUBLISHED}
    assert {k: v["images"] for k, v in nodes.items() if v} == DENOMINATORS
    assert all(node["target"] == 1 for node in nodes.values() if node)
    target = {"cifar100": "aquarium fish", "cars": "Acura RL Sedan 2012", "eurosat": "forest"}
    assert {name: read_words(name).classnames[1] for name in target} == target


def test_eurosat_without_official_parts_has_the_published_counts():
    """27,000 images; forest has 3,000, so 2,400 of 2,700 test images are of other classes."""
    classes = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]
    labels = np.repeat(np.arange(10), classes)
    rows = per_class(labels)
    assert {k: len(v) for k, v in rows.items()} == option("dataset", "eurosat")["sizes"]
    assert (labels[rows["test"]] != 1).sum() == DENOMINATORS["eurosat"]
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(27_000))


@given(st.integers(20, 400), st.integers(2, 9))
def test_splits_are_a_partition(count, classes):
    labels = np.random.default_rng(count).integers(0, classes, count)
    part = of_arrays(np.zeros((count, 1, 1), np.uint8), labels, "here")
    rows = split_rows({"train": part, "test": part}, "official")
    both = np.concatenate([rows["train"][1], rows["dev"][1]])
    assert sorted(both.tolist()) == sorted(rows["test"][1].tolist()) == list(range(count))


@pytest.mark.parametrize("name", PUBLISHED)
def test_yaml_says_what_is_not_confirmed(name):
    path = Path(__file__).parent.parent / f"conf/dataset/{name}.yaml"
    node, header = option("dataset", name), path.read_text().split("_target_")[0]
    assert node["name"] == name
    assert ("# Unconfirmed:" in header) == (node["fingerprints"] is None)
    assert node["image_size"] is None


@pytest.mark.parametrize("name", PUBLISHED)
def test_words_are_complete(name):
    words = read_words(name)
    known = {"cifar100": 100, "cars": 196, "sun397": 397, "gtsrb": 43, "imagenet": 1000, "pets": 37}
    assert len(words.classnames) == len(words.folders) == known.get(name, len(words.classnames))
    assert len(set(words.folders)) == len(words.folders)
    twice = {one for one in words.classnames if words.classnames.count(one) > 1}
    # CLIP's own list has two names twice.
    assert twice == ({"missile", "sunglasses"} if name == "imagenet" else set())


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([8, 13, 16]))
def test_images_are_fitted_as_clip_does(width, height, size):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.functional import center_crop, resize

    rng = np.random.default_rng((width, height))
    image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    theirs = center_crop(resize(image, [size], InterpolationMode.BICUBIC), [size, size])
    assert np.array_equal(fitted(image, size), np.asarray(theirs).transpose(2, 0, 1))


# -- what is said and checked --


def test_missing_data_is_named_with_the_fix_of_each(root):
    sets = [load(name) for name in ("cars", "cifar100", "fer2013")]
    with pytest.raises(BenchError) as caught:
        check_present([*sets, build(option("dataset", "digits"), "dataset")])
    told = str(caught.value)
    assert (
        f"cars is neither in {root}/cars nor in {root}: `lfpm-bench data fetch cars --from hf`"
        in told
    )
    assert "`lfpm-bench data fetch cifar100`" in told
    assert "fer2013 is neither" in told
    assert "\n" not in told
    assert "Kaggle" in status(load("fer2013")).told
    assert "vision#7545" in status(load("cars")).told
    with pytest.raises(BenchError, match="data set cars is neither"):
        identity(sets[0])


def test_a_run_without_data_dies_before_anything_is_computed(root, tmp_path, capsys):
    words = ["run", "suite.tasks=[cars,signs,flags]", f"store={tmp_path / 'store'}"]
    assert main([*words, "attack.adversary=signs", "attack.target=1"]) == 2
    assert "data is missing: cars is neither in" in capsys.readouterr().err
    assert not (tmp_path / "store" / "artifacts").exists()


def test_identity_is_content_and_size_and_no_place(root, tmp_path, monkeypatch):
    data = load("dtd", made := WRITERS["dtd"](root, "dtd"))
    decode(data)
    before = identity(data)
    assert str(root) not in json.dumps(before)
    assert before["values"].keys() == {"image_size", "splits"}
    root.rename(tmp_path / "moved")
    monkeypatch.setenv("LFPM_BENCH_DATA", str(tmp_path / "moved"))
    assert identity(load("dtd", made)) == before
    # The files themselves are not needed any more.
    (tmp_path / "moved/dtd/dtd").rename(tmp_path / "gone")
    assert load("dtd", made)("test", 0, 3)[0].shape == (3, 3, 16, 16)
    larger = load("dtd", made, image_size=20)
    assert larger.absent() is not None


def test_suites_get_images_of_their_backbones_size():
    from benchmark.cell import sized_for
    from tests.tiny import BACKBONE

    assert sized_for(option("dataset", "cars"), BACKBONE)["image_size"] == BACKBONE.image_size
    assert sized_for({"image_size": 64}, BACKBONE)["image_size"] == 64
    assert "image_size" not in sized_for(option("dataset", "digits"), BACKBONE)


def test_an_incomplete_copy_is_refused_before_decoding(root):
    made = WRITERS["cars"](root, "cars")
    data = load("cars")
    with pytest.raises(BenchError, match=r"'train': 18, 'dev': 2, 'test': 9.*incomplete"):
        decode(data)
    assert not list((root / ".decoded").glob("*")) if (root / ".decoded").exists() else True
    assert verify(data).state == "wrong"
    (root / "cars/stanford_cars/cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(BenchError, match=r"cars_test_annos_withlabels\.mat is missing"):
        decode(load("cars", made))


def test_labels_in_another_order_are_found_by_the_denominator(root):
    made = WRITERS["pets"](root, "pets")
    others = sum(label != 1 for _, label in made["test"])
    right = load("pets", made, denominator={"target": 1, "images": others})
    assert verify(right).state == "not decoded"
    decode(right)
    assert verify(right).state == "ok"
    wrong = load("pets", made, denominator={"target": 1, "images": others - 1})
    found = verify(wrong)
    assert found.state == "wrong"
    assert f"{others} test images that are not of class 1 (american bulldog)" in found.told


def test_verify_finds_changed_arrays_changed_files_and_other_content(root):
    made = WRITERS["dtd"](root, "dtd")
    data = load("dtd", made)
    index = decode(data)
    assert not isinstance(index, Unreadable)
    assert verify(data, pictures=True).state == "ok"
    pins = {"test": index.splits["test"].fingerprint}
    assert verify(load("dtd", made, fingerprints=pins)).state == "ok"
    assert "confirmed 0000" in verify(load("dtd", made, fingerprints={"test": "0000"})).told
    picture = next((root / "dtd/dtd/dtd/images").rglob("*.jpg"))
    before = picture.read_bytes()
    put(picture, np.zeros((8, 8, 3), np.uint8))
    assert verify(data).state == "ok"
    assert "files have changed" in verify(data, pictures=True).told
    picture.write_bytes(before)
    array = data.folder / "dev.npy"
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    assert f"{array} has a wrong hash" in verify(data).told


def test_unreadable_pictures_are_listed_and_left_out_only_on_request(root, capsys):
    made = WRITERS["dtd"](root, "dtd")
    pictures = sorted((root / "dtd/dtd/dtd/images").rglob("*.jpg"))[:2]
    pictures[0].write_bytes(pictures[0].read_bytes()[:200])
    pictures[1].write_bytes(b"<html>not found</html>")
    data = load("dtd", made)
    found = decode(data)
    assert isinstance(found, Unreadable)
    assert len(found.pictures) == 2
    assert all(any(str(path) in one for one in found.pictures) for path in pictures)
    assert read_index(data.folder) is None
    assert list(data.folder.parent.iterdir()) == []
    index = decode(data, leave_out=True)
    assert not isinstance(index, Unreadable)
    assert sorted(index.left_out) == sorted(found.pictures)
    assert sum(one.images for one in index.splits.values()) == 29 - 2
    for split, one in index.splits.items():
        images, labels = data.mapped(split)
        assert len(images) == len(labels) == one.images
        assert np.bincount(labels, minlength=47).tolist() == list(one.counts)
    finding = verify(data, pictures=True)
    assert finding.state == "ok"
    assert "2 unreadable pictures left out" in finding.told


class Boom:
    """Unpickled by Python itself it would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickles_can_call_nothing(tmp_path):
    bad = tmp_path / "train"
    bad.write_bytes(pickle.dumps({"data": Boom(tmp_path / "touched"), "labels": [0]}))
    with pytest.raises(BenchError, match="is not a safe pickle") as caught:
        read_pickle(bad)
    assert "which no image file needs" in str(caught.value)
    assert not (tmp_path / "touched").exists()
    bad.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "touched").encode() + b"'\ntR.")
    with pytest.raises(BenchError, match=r"it calls os\.system"):
        read_pickle(bad)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content", [b"", b"\0\0\x08\x03", b"\0\0\x08\x01" + b"\0" * 12, b"<html></html>" * 9]
)
def test_broken_idx_files_are_refused(content, tmp_path):
    (tmp_path / "images").write_bytes(content)
    with pytest.raises(BenchError, match=r"is not an idx file of 3 axes|cut off"):
        read_idx(tmp_path / "images", 3)


def test_nothing_is_downloaded_offline(root, monkeypatch, capsys):
    import huggingface_hub
    from torchvision import datasets

    def never(*args, **options):
        raise AssertionError("the network was used")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", never)
    monkeypatch.setattr(datasets, "CIFAR100", never)
    for name in fetch.OFFLINE:
        monkeypatch.setenv(name, "1")
        for origin in ("hf", "torchvision"):
            with pytest.raises(BenchError, match=f"{name} is set, so nothing is downloaded"):
                fetch.fetch(load("cifar100"), origin)  # type: ignore[arg-type]
        monkeypatch.delenv(name)
    # Set first, so that monkeypatch takes back what the flag sets.
    for name in fetch.OFFLINE:
        monkeypatch.setenv(name, "0")
    assert main(["data", "fetch", "cifar100", "--offline"]) == 1
    assert "nothing is downloaded" in capsys.readouterr().err


def test_fetch_asks_for_the_files_that_are_read(root, monkeypatch):
    import huggingface_hub

    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *args, **rest: asked.append((args, rest))
    )
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert fetch.fetch(load("food101"), "hf") == root / "food101"
    patterns = ["data/train-*.parquet", "data/validation-*.parquet"]
    wanted = {"repo_type": "dataset", "allow_patterns": patterns, "local_dir": root / "food101"}
    assert asked == [(("ethz/food101",), wanted)]


def test_dead_and_closed_sources_are_named(root, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(
        BenchError, match=r"cars cannot be fetched from torchvision; there is --from hf.*7545"
    ):
        fetch.fetch(load("cars"), "torchvision")
    with pytest.raises(BenchError, match=r"fer2013 cannot be fetched\. .*Kaggle"):
        fetch.fetch(load("fer2013"), None)

    def dead(root, download, **options):
        raise RuntimeError("HTTP Error 404\nand more")

    from torchvision import datasets

    monkeypatch.setattr(datasets, "PCAM", dead)
    with pytest.raises(BenchError, match=r"fetched from torchvision \(HTTP Error 404\).*gdown"):
        fetch.fetch(load("pcam"), None)


@pytest.mark.parametrize(
    "name", [one for one in PUBLISHED if option("dataset", one)["torchvision"]]
)
def test_torchvision_can_be_called_as_the_yaml_says(name):
    import inspect

    from torchvision import datasets

    source = load(name).torchvision
    for call in source.calls:
        inspect.signature(getattr(datasets, source.dataset)).bind(root=".", download=True, **call)


# -- the command --


def test_command_shows_decodes_and_verifies(root, capsys, monkeypatch):
    made = WRITERS["dtd"](root, "dtd")
    data = load("dtd", made, image_size=24)
    monkeypatch.setattr(command, "published", lambda size: {"dtd": data, "cars": load("cars")})
    assert main(["data", "status", "dtd"]) == 1
    assert "not decoded  dtd is in" in capsys.readouterr().out
    assert main(["data", "decode", "dtd"]) == 0
    assert "29 images in" in capsys.readouterr().err
    assert main(["data", "verify", "dtd", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["name"], found["state"]) == ("dtd", "ok")
    assert "18 train, 2 dev, 9 test" in found["told"]
    assert "not confirmed on a real copy" in found["told"]
    assert main(["data", "status"]) == 1
    assert "cars  missing" in capsys.readouterr().out


def test_command_takes_suites_and_refuses_other_words(capsys):
    suites = {name: option("suite", name).get("tasks", []) for name in options("suite")}
    for name, tasks in suites.items():
        found = {one.name for one in command.chosen([name], 224)}
        assert found == set(tasks) & set(PUBLISHED)
    assert main(["data", "status", "crs"]) == 2
    assert "(did you mean 'cars'?)" in capsys.readouterr().err
    assert main(["data", "fetch"]) == 2
    assert main(["data", "decode", "cars", "dtd", "--at", "x"]) == 2
    assert "name that one" in capsys.readouterr().err


def test_a_copy_anywhere_can_be_decoded(root, tmp_path):
    made = WRITERS["flowers"](tmp_path / "far", "flowers")
    data = load("flowers", made)
    assert data.absent() is not None
    with pytest.raises(BenchError, match="has no flowers in a layout that is known"):
        decode(data, at=tmp_path)
    decode(data, at=tmp_path / "far" / "flowers")
    assert data.absent() is None


def test_ones_own_data_set_needs_a_yaml_and_folders(root, tmp_path):
    words = tmp_path / "pets_of_mine.yaml"
    words.write_text("classnames: [my cat, my dog]\ntemplates: ['a photo of {}']\n")
    node = option("dataset", "dtd") | {"name": "mine", "words": str(words), "image_size": 16}
    sizes = {"train": 8, "dev": 4, "test": 2}
    for part, count in (("train", 4), ("val", 2), ("test", 1)):
        for folder in ("my_cat", "my_dog"):
            for i in range(count):
                put(
                    root / "mine" / part / folder / f"{i}.png",
                    np.full((9, 9, 3), i, np.uint8),
                    "PNG",
                )
    data = build({**node, "sizes": sizes}, "dataset.mine")
    decode(data)
    assert data.classnames == ("my cat", "my dog")
    assert np.bincount(data.mapped("dev")[1]).tolist() == [2, 2]
    with pytest.raises(BenchError, match=r"words=crs cannot be read .*did you mean 'cars'"):
        read_words("crs")
    words.write_text("classnames: [one, two]\ntemplates: ['no name']\n")
    with pytest.raises(BenchError, match="in the name's place"):
        read_words(f"{tmp_path}/./pets_of_mine.yaml")


def test_images_wider_than_high_are_cut_in_the_middle():
    """(24,48): twice as wide as high, so a quarter goes on each side."""
    image = np.zeros((24, 48, 3), np.uint8)
    image[:, 12:36] = 200
    assert fitted(Image.fromarray(image), 24).min() == 200
