"""Every published data set is read from a miniature in its true format, exactly."""

import importlib.util
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmark.components import build, option, options
from benchmark.data.checking import status, verify
from benchmark.data.decode import decode, fitted, rgb
from benchmark.data.real import Real
from benchmark.data.splits import cut
from tests import miniatures
from tests.miniatures import WRITERS, Made

PUBLISHED = [name for name in options("dataset") if "layout" in option("dataset", name)]
EXTRAS = {"pcam": "h5py"}
SIZE = 16


def load(name: str, made: Made | None = None, **changes) -> Real:
    """The data set as its YAML says, with the sizes of a miniature."""
    node = option("dataset", name)
    if made and "all" in made:
        changes["sizes"] = {"train": 80, "dev": 10, "test": 10}
    elif made:
        train, dev = cut(len(made["train"]))
        counts = {"train": len(train), "dev": len(dev), "test": len(made["test"])}
        changes["sizes"] = counts
    return build({**node, "image_size": SIZE, "denominator": None, **changes}, f"dataset.{name}")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LFPM_BENCH_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LFPM_BENCH_DECODED", raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def need(name: str) -> None:
    if name in EXTRAS and importlib.util.find_spec(EXTRAS[name]) is None:
        pytest.skip(f"{name} needs the extra {EXTRAS[name]}")


def test_every_published_data_set_has_a_miniature():
    assert set(PUBLISHED) == WRITERS.keys()
    assert len(PUBLISHED) >= 22


@pytest.mark.parametrize("name", PUBLISHED)
def test_files_are_read_exactly(name, root):
    """Pixels and labels of every picture, in the official order."""
    need(name)
    made = WRITERS[name](root, name)
    data = load(name, made)
    source = data.source()
    assert source is not None
    parts = source[1].parts(source[0], data.named)
    assert parts.keys() == made.keys()
    for part, samples in parts.items():
        assert samples.labels.dtype == np.int64
        assert samples.labels.tolist() == [label for _, label in made[part]]
        assert len(set(samples.labels.tolist())) > 1
        for row, (picture, _) in enumerate(made[part]):
            assert np.array_equal(np.asarray(rgb(samples.read(row))), picture), samples.name(row)


@pytest.mark.parametrize("name", PUBLISHED)
def test_decoded_splits_are_those_of_the_rule(name, root):
    need(name)
    made = WRITERS[name](root, name)
    data = load(name, made)
    assert status(data).state == "not decoded"
    decode(data, workers=2)
    assert verify(data, pictures=True).state == "ok"
    if "all" in made:
        wanted = {"train": 8, "dev": 1, "test": 1}
        for split, count in wanted.items():
            assert np.bincount(data.mapped(split)[1]).tolist() == [count] * len(data.classnames)
        return
    train, dev = cut(len(made["train"]))
    test = np.random.default_rng(0).permutation(len(made["test"]))
    for split, part, rows in (
        ("train", "train", train), ("dev", "train", dev), ("test", "test", test)
    ):  # fmt: skip
        images, labels = data.mapped(split)
        assert images.shape == (len(rows), 3, SIZE, SIZE)
        assert labels.tolist() == [made[part][row][1] for row in rows]
        for image, row in zip(images, rows, strict=True):
            assert np.array_equal(image, fitted(Image.fromarray(made[part][row][0]), SIZE))


@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_any_data_set_may_come_as_folders(name, root):
    made = miniatures.folders(root, name)
    data = load(name, made)
    assert decode(data).splits["test"].counts == (2,) * len(data.classnames)  # type: ignore[union-attr]
    shutil.rmtree(root / ".decoded")
    # Labels follow classnames.txt where there is one: here the classes are the other way round.
    listed = [f"{folder} a name for people" for folder in reversed(data.named.folders)]
    (root / name / "classnames.txt").write_text("\n".join(listed) + "\n")
    decode(data)
    by_label: dict[int, list[np.ndarray]] = {}
    for picture, label in made["test"]:
        by_label.setdefault(len(data.classnames) - 1 - label, []).append(picture)
    images, labels = data.mapped("test")
    for image, label in zip(images, labels.tolist(), strict=True):
        assert any(
            np.array_equal(image, fitted(Image.fromarray(one), SIZE)) for one in by_label[label]
        )


HUB = [name for name in PUBLISHED if option("dataset", name)["hub"]]


@pytest.mark.parametrize("name", HUB)
def test_copies_on_the_hub_are_read_exactly(name, root):
    pytest.importorskip("pyarrow")
    # Their classes may be in another order; then labels follow the names.
    known = load(name).classnames
    turned = list(reversed(known)) if len(set(known)) == len(known) else None
    made = miniatures.hub(root, name, names=turned)
    data = load(name, made)
    source = data.source()
    assert source is not None
    assert source[1] == data.hub
    for part, samples in source[1].parts(source[0], data.named).items():
        assert samples.labels.tolist() == [label for _, label in made[part]]
        for row, (picture, _) in reversed(list(enumerate(made[part]))):
            assert np.array_equal(np.asarray(rgb(samples.read(row))), picture)


def test_the_same_pictures_have_the_same_fingerprint_in_any_layout(root, monkeypatch):
    """Folders of PNG files, and pickles elsewhere: one content, one identity in keys."""
    made = WRITERS["cifar10"](root, "cifar10")
    data = load("cifar10", made)
    decode(data)
    marks = data.content
    other = root.parent / "elsewhere"
    for part, each in made.items():
        # One picture per class folder and number, in the order of the pickles after sorting.
        order = sorted(range(len(each)), key=lambda row: each[row][1])
        made[part] = [each[row] for row in order]
        for number, row in enumerate(order):
            image, label = each[row]
            folder = data.named.folders[label]
            miniatures.put(other / f"cifar10/{part}/{folder}/{number:03d}.png", image, "PNG")
    for part in made:
        for folder in data.named.folders:
            (other / "cifar10" / part / folder).mkdir(exist_ok=True)
    monkeypatch.setenv("LFPM_BENCH_DATA", str(other))
    again = load("cifar10", made)
    decode(again)
    # The folders sort by class: another order, so another content; the same order, the same.
    assert again.content != marks
    third = root.parent / "third"
    batches = option("dataset", "cifar10")["layout"]
    top = third / "cifar10" / batches["folder"]
    top.mkdir(parents=True)
    for part in made:
        for batch, name in enumerate(batches[part]):
            size = len(made[part]) // len(batches[part])
            each = made[part][batch * size : (batch + 1) * size]
            rows = np.stack([image.transpose(2, 0, 1).reshape(-1) for image, _ in each])
            content = miniatures.python2_pickle(rows, "labels", [label for _, label in each])
            (top / name).write_bytes(content)
    monkeypatch.setenv("LFPM_BENCH_DATA", str(third))
    decode(load("cifar10", made))
    assert load("cifar10", made).content == again.content
