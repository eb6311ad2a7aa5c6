"""The embedded suite's data sets: deterministic, balanced, no near duplicates across splits."""

import numpy as np
import pytest
from pydantic import ValidationError
from sklearn.neighbors import NearestNeighbors

from benchmark.components import build, option
from benchmark.data.generate import generate

TASKS = tuple(option("suite", "mini")["tasks"])
DRAWN = tuple(task for task in TASKS if task != "optdigits")
NEAR = 3.0
"""Two images are near duplicates when their 16 x 16 thumbnails differ by less than this many grey
levels (root mean square over pixels and channels); sensor noise alone makes about 4."""


def load(task: str, **changes):
    return build({**option("dataset", task), **changes}, "dataset")


@pytest.fixture(scope="module", params=TASKS)
def task(request):
    return request.param


def test_chunks_equal_the_whole(task):
    data = load(task)
    for split in data.sizes:
        images, labels = data(split, 0, 40)
        parts = [data(split, 25, 40), data(split, 0, 7), data(split, 7, 25)]
        order = (1, 2, 0)
        assert np.array_equal(images, np.concatenate([parts[i][0] for i in order]))
        assert np.array_equal(labels, np.concatenate([parts[i][1] for i in order]))


def test_form_and_balance(task):
    data = load(task)
    for split in data.sizes:
        images, labels = data(split, 0, 120)
        assert images.shape == (120, 3, 32, 32)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        counts = np.bincount(labels, minlength=len(data.classnames))
        assert len(counts) == len(data.classnames)
        assert counts.max() - counts.min() <= 1
        assert images.min() < 60
        assert images.max() > 180


def test_splits_and_seeds_differ(task):
    data, other = load(task), load(task, seed=1)
    images = [data(split, 0, 20)[0] for split in data.sizes]
    assert not any(np.array_equal(images[0], later) for later in images[1:])
    assert not np.array_equal(images[0], other(next(iter(data.sizes)), 0, 20)[0])


def test_no_duplicates_across_splits(task):
    """Among up to 600 images per split: no equal images and no near ones."""
    data = load(task)
    splits = {split: data(split, 0, min(size, 600))[0] for split, size in data.sizes.items()}
    hashes = {split: {image.tobytes() for image in images} for split, images in splits.items()}
    thumbs = {split: thumbnails(images) for split, images in splits.items()}
    for split in splits:
        assert len(hashes[split]) == len(splits[split])
        for other in splits:
            if other <= split:
                continue
            assert not hashes[split] & hashes[other]
            index = NearestNeighbors(n_neighbors=1).fit(thumbs[split])
            nearest = index.kneighbors(thumbs[other])[0].min()
            assert nearest / np.sqrt(thumbs[split].shape[1]) > NEAR, (split, other)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """(n,3*16*16) float."""
    return images.reshape(len(images), 3, 16, 2, 16, 2).mean((3, 5)).reshape(len(images), -1)


def test_generate_in_parallel_equals_serial():
    data = load("flags", sizes={"dev": 700})
    seen = []
    parallel = generate(data, "dev", processes=2, progress=lambda done, total: seen.append(done))
    serial = generate(data, "dev", processes=1)
    assert np.array_equal(parallel[0], serial[0])
    assert np.array_equal(parallel[1], serial[1])
    assert sorted(seen)[-1] == 700


def test_generate_reports_a_failing_worker(monkeypatch):
    data = load("flags", sizes={"dev": 700})
    monkeypatch.setattr("benchmark.data.generate._node", lambda dataset: {"_target_": "no.Such"})
    with pytest.raises(RuntimeError, match="cannot be imported"):
        generate(data, "dev", processes=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classnames": ["circle", "blob"]}, "no drawing for class 'blob'"),
        ({"classnames": ["circle", "circle"]}, "twice"),
        ({"templates": ["a shape"]}, "templates"),
        ({"sizes": {"dev": 0}}, "sizes"),
        ({"hard": [0.5, 1.5]}, "hard"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_wrong_values_are_refused(changes, message):
    from benchmark.data.shapes import Shapes

    node = {**option("dataset", "shapes"), **changes}
    node.pop("_target_")
    with pytest.raises(ValidationError, match=message):
        Shapes(**node)


def test_ranges_are_checked():
    data = load("faces")
    with pytest.raises(ValueError, match="no split 'val'"):
        data("val", 0, 1)
    with pytest.raises(ValueError, match="outside dev"):
        data("dev", 0, data.sizes["dev"] + 1)
    with pytest.raises(ValueError, match="no split"):
        generate(data, "val", processes=1)


def test_optdigits_splits_are_disjoint():
    data = load("optdigits")
    rows = [set(data._indices(split)) for split in data.sizes]
    assert sum(map(len, rows)) == len(set().union(*rows)) == sum(data.sizes.values())
    node = {**option("dataset", "optdigits"), "sizes": {"dev": 15}}
    node.pop("_target_")
    with pytest.raises(ValueError, match="multiples of 10"):
        type(data)(**node)


def test_only_task_images_have_the_camera_pattern():
    camera = {"amplitude": 30.0, "period": 8.0, "angle": 0.0, "phase": 0.0}
    plain = load("flags", camera={**camera, "amplitude": 0.0})
    marked = load("flags", camera=camera)
    assert np.array_equal(plain("pretrain", 0, 9)[0], marked("pretrain", 0, 9)[0])
    change = marked("dev", 0, 99)[0].astype(float) - plain("dev", 0, 99)[0]
    rows = change.mean((0, 1, 3))
    assert np.ptp(change.mean((0, 1, 2))) < 2
    assert np.abs(rows[:8] - rows[8:16]).max() < 4
    assert 30 < np.ptp(rows) <= 60
