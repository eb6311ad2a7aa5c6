"""Per-image hits beside records: what paired tests compare. Neither torch nor numpy.

A store keeps them as the tensors of its evaluations; adopted records have copies of these files in
`hits/` beside `records/`. A set of images is a Python integer here, the first image its highest
bit, padded with zeros to whole bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from benchmark.errors import BenchError
from benchmark.records import Evaluation, Record
from benchmark.store import write_atomic
from benchmark.tables.metrics import worst_threat
from benchmark.tables.rows import find

STORED = Path("artifacts/evaluation")
"""Where a store has them, below its root."""
Bits = Mapping[str, int]
"""`clean/<task>`: recognised; of threat i `<i>/asr`: not of the target class and taken for it,
`<i>/target_recall`: of the target class and recognised, `<i>/triggered_acc`: recognised with the
trigger."""
Hits = Mapping[str, Bits]
"""Evaluation key -> its bits; an evaluation whose file is absent is not in it."""


def beside(folder: Path) -> Path:
    """Where the hits of records in `folder` are adopted to."""
    return (folder.parent if folder.name == "records" else folder) / "hits"


def adopt_hits(records: Iterable[Record], root: Path, folder: Path) -> None:
    """Copy the hits of these records' own models, as they are.

    Args:
        records: those that were copied to `folder`.
        root: of the store.
        folder: of the records.
    """
    for record in records:
        source = root / STORED / f"{record.main.key}.safetensors" if record.main else None
        if source is not None and source.exists():
            write_atomic(beside(folder) / source.name, source.read_bytes())


def find_hits(folder: Path | str, records: Iterable[Record]) -> dict[str, Bits]:
    """The hits of these records' own models, in the places where `find` looks for records."""
    folder = Path(folder).expanduser()
    root = folder.parent if folder.name == "records" else folder
    places = (root / "hits", root / STORED)
    found = {}
    for record in records:
        if record.main is None or record.main.key in found:
            continue
        paths = [place / f"{record.main.key}.safetensors" for place in places]
        path = next((path for path in paths if path.exists()), None)
        if path is not None:
            found[record.main.key] = read_hits(path, record.main)
    return found


def gather(folders: Iterable[Path]) -> tuple[list[Record], dict[str, Bits]]:
    """The records in several folders, each once, and their hits."""
    records, hits = dict[str, Record](), dict[str, Bits]()
    for folder in folders:
        found = find(folder)
        hits |= find_hits(folder, found)
        records |= {record.key: record for record in found}
    return [records[key] for key in sorted(records)], hits


def read_hits(path: Path, evaluation: Evaluation) -> Bits:
    """The bits of one evaluation, checked against its counts.

    Raises:
        BenchError: the file is damaged, or of another evaluation.
    """
    from safetensors import SafetensorError, deserialize

    try:
        tensors = {
            name: int.from_bytes(bytes(spec["data"]), "big")
            for name, spec in deserialize(path.read_bytes())
        }
        bits = _bits(evaluation, tensors)
    except (OSError, KeyError, SafetensorError) as error:
        raise BenchError(f"{path} holds no per-image hits ({error}); delete it") from error
    for name, hits in counted(evaluation).items():
        if bits[name].bit_count() != hits:
            raise BenchError(
                f"{path} has {bits[name].bit_count()} hits in {name} where its record has {hits}; "
                "delete it and adopt its record again"
            )
    return bits


def counted(evaluation: Evaluation) -> dict[str, int]:
    """How many images each of the bits' names has, by the evaluation's counts."""
    hits = {f"clean/{task}": count.hits for task, count in evaluation.clean.items()}
    for i, threat in enumerate(evaluation.threats):
        for name in ("asr", "target_recall", "triggered_acc"):
            hits[f"{i}/{name}"] = getattr(threat, name).hits
    return hits


def _bits(evaluation: Evaluation, tensors: Mapping[str, int]) -> Bits:
    """Packed hits as they are stored, of all images, to those that the counts count."""
    bits = {f"clean/{task}": tensors[f"clean/{task}"] for task in evaluation.clean}
    for i, threat in enumerate(evaluation.threats):
        right = tensors[f"{i}/correct"]
        bits[f"{i}/triggered_acc"] = right
        # An image that is taken for the target, rightly, is of the target class: no labels needed.
        bits[f"{i}/asr"] = tensors[f"{i}/asr"] & ~right
        bits[f"{i}/target_recall"] = tensors[f"{i}/clean_to_target"] & bits[f"clean/{threat.task}"]
    return bits


def strata(
    metric: str, one: Evaluation, other: Evaluation, hits: Hits
) -> Sequence[tuple[int, int, int]] | None:
    """Where two models differ on the same images.

    Args:
        metric: ca, asr, target_recall or triggered_acc; the last three of the worst threat.
        one: a model's evaluation.
        other: another's, on the same images and triggers.
        hits: of both.

    Returns:
        Per set of images (images, hit by one alone, hit by the other alone); None where either has
        no hits or they are not of the same images.
    """
    if one.key not in hits or other.key not in hits:
        return None
    totals = [_totals(metric, evaluation) for evaluation in (one, other)]
    if totals[0] != totals[1] or not all(totals[0].values()):
        return None
    found = []
    for name, images in totals[0].items():
        ours, theirs = hits[one.key][name], hits[other.key][name]
        found.append((images, (ours & ~theirs).bit_count(), (theirs & ~ours).bit_count()))
    return found


def _totals(metric: str, evaluation: Evaluation) -> dict[str, int]:
    """The names of the bits that a metric is made of, and of how many images each is."""
    if metric == "ca":
        return {f"clean/{task}": count.total for task, count in evaluation.clean.items()}
    if not evaluation.threats:
        return {}
    at = worst_threat(evaluation)
    return {f"{at}/{metric}": getattr(evaluation.threats[at], metric).total}
