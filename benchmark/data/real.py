"""A published data set: what it is called, where its images lie, how they are split."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from benchmark.components import component, identity
from benchmark.data.decoded import Index, Split, open_split, read_index
from benchmark.data.places import DATA, candidates, decoded_root
from benchmark.data.splits import SPLITS, Rule
from benchmark.data.words import Words, read_words
from benchmark.errors import BenchError
from benchmark.store import canonical

Origin = Literal["torchvision", "hf"]


@component
class Real:
    """A published data set, decoded once into memory-mapped images of the backbone's size.

    Images are what CLIP's own preprocessing hands to the network: RGB, the shorter side resized to
    `image_size` (bicubic), the centre cut out; uint8, before normalisation. Deviation from the
    papers: they fine-tune on crops of the original image (area 0.9 to 1), we on these images.

    In cache keys it is the fingerprint of its content and its image size, wherever it lies and in
    whichever layout. Its words are in the key of its zero-shot head.

    Attributes:
        name: of the folder it is looked for in; as its YAML file is called.
        words: class names and prompts: a shipped file, or the path of one's own
            (`benchmark.data.words`).
        layout: its own files (`benchmark.data.layouts`).
        hub: a copy on the Hugging Face hub; None: none that is known to be the same.
        torchvision: how torchvision downloads it; None: it does not.
        help: what to know before getting it: dead sources, what is to be done by hand; or "".
        split: the rule by which train, dev and test are made (`benchmark.data.splits`).
        sizes: images per split that the full data set must have.
        denominator: `target`, a class, and `images`, how many test images are of other classes:
            what published ASRs are shares of; None: not published.
        fingerprints: of each split, as confirmed on a real copy; None: nobody has confirmed any.
        image_size: side of the images, pixels; None: the backbone's.
    """

    version: ClassVar[int] = 1
    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    words: str
    layout: Any
    hub: Any
    torchvision: Any
    help: str
    split: Rule
    sizes: dict[str, Annotated[int, Field(ge=1)]]
    denominator: dict[Literal["target", "images"], Annotated[int, Field(ge=0)]] | None
    fingerprints: dict[str, str] | None
    image_size: Annotated[int, Field(ge=8, le=1024)] | None

    def __post_init__(self) -> None:
        """Refuse splits that are not there."""
        if set(self.sizes) != set(SPLITS):
            raise ValueError(f"sizes of {', '.join(SPLITS)} are needed, not of {list(self.sizes)}")

    @cached_property
    def named(self) -> Words:
        """Class names, prompts and folder names."""
        return read_words(self.words)

    @property
    def classnames(self) -> tuple[str, ...]:
        """Names by label."""
        return self.named.classnames

    @property
    def templates(self) -> tuple[str, ...]:
        """Prompts with "{}" in the name's place."""
        return self.named.templates

    @property
    def folder(self) -> Path:
        """Where its decoded images are, or would be."""
        if self.image_size is None:
            raise ValueError(f"dataset.{self.name}.image_size is not known without a backbone")
        rules = {"layout": identity(self.layout), "split": self.split, "version": self.version}
        digest = hashlib.sha256(canonical(rules).encode()).hexdigest()[:8]
        return decoded_root() / f"{self.name}-{self.image_size}-{digest}"

    def source(self, at: Path | None = None) -> tuple[Path, Any] | None:
        """Where its files are and in which layout: local folders, its own files, the hub's.

        Args:
            at: the only folder to look in; None: `benchmark.data.places.candidates`.
        """
        from benchmark.data.layouts.folder import Folder

        own, shared = (at, None) if at else candidates(self.name)
        tried = [(own, layout) for layout in (Folder(), self.layout, self.hub) if layout]
        # In the folder of all data sets, `train` could be anybody's.
        for base, layout in tried + ([(shared, self.layout)] if shared else []):
            if (found := layout.find(base)) is not None:
                return found, layout
        return None

    def absent(self) -> str | None:
        """Why its images cannot be used yet, and what to do; None if they can."""
        if read_index(self.folder) is not None:
            return None
        if (found := self.source()) is not None:
            return (
                f"{self.name} is in {found[0]} but not decoded: "
                f"`lfpm-bench data decode {self.name}{self._size()}`"
            )
        looked = " nor in ".join(str(one) for one in candidates(self.name))
        known = self.origins
        origin = "" if known[:1] == ["torchvision"] else " --from hf"
        fetch = f"`lfpm-bench data fetch {self.name}{origin}`" if known else "get it by hand"
        return f"{self.name} is neither in {looked}: {fetch}, or set {DATA}"

    @property
    def origins(self) -> list[Origin]:
        """Where it can be downloaded from; the first is the default."""
        known: dict[Origin, Any] = {"torchvision": self.torchvision, "hf": self.hub}
        return [name for name, there in known.items() if there is not None]

    def _size(self) -> str:
        return "" if self.image_size == 224 else f" --size {self.image_size}"

    @property
    def index(self) -> Index:
        """What is known of its decoded images.

        Raises:
            BenchError: there are none, or not as many as `sizes` says.
        """
        if (index := read_index(self.folder)) is None:
            raise BenchError(f"data set {self.absent()}")
        check_sizes(self.name, self.sizes, index.splits, len(index.left_out))
        return index

    @property
    def content(self) -> dict[str, Any]:
        """What it is in cache keys, in place of the values above."""
        marks = {split: one.fingerprint for split, one in self.index.splits.items()}
        return {"image_size": self.image_size, "splits": marks}

    def mapped(self, split: str) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,S,S) uint8, mapped from disk, and labels (n,) int64 of a split."""
        return open_split(self.index, split)

    def __call__(self, split: str, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (n,3,S,S) uint8 and labels (n,) int64 of `split`, from `start` to `stop`."""
        images, labels = self.mapped(split)
        if not 0 <= start <= stop <= len(labels):
            raise ValueError(f"{start} to {stop} is outside {split} with {len(labels)} images")
        return np.array(images[start:stop]), labels[start:stop]


def check_sizes(
    name: str, wanted: Mapping[str, int], splits: Mapping[str, Split], left_out: int
) -> None:
    """Refuse splits of other sizes than a data set must have, `left_out` images spared."""
    found = {split: one.images for split, one in splits.items()}
    lost = sum(wanted.values()) - sum(found.values())
    if found != wanted and not (left_out and lost == left_out):
        raise BenchError(
            f"dataset.{name}.sizes={wanted}, but its files make {found}: the copy is incomplete or "
            f"another edition; fetch it again, or set dataset.{name}.sizes if you mean it"
        )


def check_present(datasets: Iterable[Any]) -> None:
    """Raise one sentence that names every published data set whose images cannot be used yet."""
    reasons = [one.absent() for one in datasets if hasattr(one, "absent")]
    if lacking := list(dict.fromkeys(reason for reason in reasons if reason)):
        raise BenchError(f"data is missing: {'; '.join(lacking)}")
