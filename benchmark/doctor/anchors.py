"""Known zero-shot accuracies, to compare a copy of weights and data with.

A wrong activation, template, class name or edition of a data set shows as a gap. Published numbers
are facts taken over with their source; none was measured by us, but for the embedded suite's.
"""

from __future__ import annotations

from dataclasses import dataclass

FUSION = "fusion_bench, docs/modelpool/clip_vit.md: Task Arithmetic's prompts"
OPEN_CLIP = "open_clip, docs/openclip_classification_results.csv: other prompts than ours"
OURS = "this package"


@dataclass(frozen=True)
class Anchor:
    """A published accuracy.

    Attributes:
        accuracy: top-1 on the test split, in per cent.
        within: points that a right copy may be off, beyond the sampling error.
        source: where it was published.
    """

    accuracy: float
    within: float
    source: str


EIGHT = ("sun397", "cars", "resisc45", "eurosat", "svhn", "gtsrb", "mnist", "dtd")
OTHERS = (
    "cifar10", "cifar100", "flowers", "food101", "imagenet", "pcam", "pets", "stl10",
    "renderedsst2",
)  # fmt: skip
WITHIN = {FUSION: 2.0, OPEN_CLIP: 5.0, OURS: 3.0}
LOOSE = {"eurosat": 6.0, "svhn": 6.0, "mnist": 6.0, "gtsrb": 4.0}
"""Tasks on which prompts, class names or the test split differ between the sources themselves."""


def _table(source: str, tasks: tuple[str, ...], numbers: tuple[float, ...]) -> dict[str, Anchor]:
    return {
        task: Anchor(number, max(WITHIN[source], LOOSE.get(task, 0.0)), source)
        for task, number in zip(tasks, numbers, strict=True)
    }


ANCHORS: dict[str, dict[str, Anchor]] = {
    "ViT-B-32-quickgelu": {
        **_table(FUSION, EIGHT, (63.2, 59.8, 60.7, 46.0, 31.6, 32.5, 48.2, 43.9)),
        **_table(OPEN_CLIP, OTHERS, (89.8, 64.2, 66.7, 84.0, 63.3, 62.2, 87.0, 97.1, 58.7)),
    },
    "ViT-B-16-quickgelu": {
        **_table(OPEN_CLIP, EIGHT, (64.4, 64.8, 58.2, 55.9, 51.9, 43.4, 51.4, 45.0)),
        **_table(OPEN_CLIP, OTHERS, (90.8, 67.0, 69.1, 88.7, 68.3, 50.7, 88.9, 98.3, 60.7)),
    },
    "ViT-L-14-quickgelu": {
        **_table(FUSION, EIGHT, (68.3, 77.8, 71.0, 58.9, 58.4, 50.6, 76.4, 55.5)),
        **_table(OPEN_CLIP, OTHERS, (95.6, 75.8, 79.2, 93.1, 75.5, 52.0, 93.2, 99.4, 68.8)),
    },
    "package:mini.safetensors": _table(
        OURS,
        ("digits", "letters", "shapes", "textures", "signs", "landuse", "flags", "faces",
         "optdigits"),
        (36.8, 55.4, 54.8, 45.6, 58.6, 33.4, 71.0, 53.7, 29.8),
    ),
}  # fmt: skip
"""Name of the architecture, or shipped weights -> task -> anchor."""
