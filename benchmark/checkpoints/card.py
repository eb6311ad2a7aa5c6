"""The model card of an exported model: what it is, its numbers, what is known about backdoors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmark.cell import Cell
from benchmark.components import locate, option, options
from benchmark.records import Count, Evaluation, Record, ThreatCounts
from benchmark.replay import CHOICES, command

SUBJECTS = {
    "main": "the defended merge",
    "undefended": "the merge, undefended",
    "clean_merge": "the merge of honest contributors",
    "defended_clean_merge": "the merge of honest contributors, equally defended",
    "without_attacker": "the merge without the attacker",
    "pretrained": "the pre-trained model",
    "attacker_single": "the attacker's own model",
}
"""Models whose numbers are shown, in words."""
LOADS = {
    "open_clip": "import open_clip\n\n"
    'model, _, preprocess = open_clip.create_model_and_transforms("local-dir:FOLDER")',
    "hf": "from transformers import CLIPModel, CLIPProcessor\n\n"
    'model = CLIPModel.from_pretrained("FOLDER")  # also CLIPVisionModelWithProjection\n'
    'preprocess = CLIPProcessor.from_pretrained("FOLDER")',
}
LIBRARIES = {"open_clip": "open_clip", "hf": "transformers"}
CAUTION = (
    "One trigger was tried, which was known to whoever measured; a low number for it says nothing "
    "of other triggers, and no defence proves a model clean."
)
LICENCE = (
    "The weights come from the base model, from every contributor's, and through them from the "
    "images they were trained on; the terms of all of these hold. This file grants nothing and "
    "its maker knows of no further terms."
)


def card(record: Record, cell: Cell, subject: str, form: str, sums: Mapping[str, str]) -> str:
    """README.md of an exported model.

    Args:
        record: of the cell; computed.
        cell: of the record.
        subject: the model that is exported, one of `cell.subjects()`.
        form: "open_clip" or "hf".
        sums: file -> sha256.
    """
    keys = _experts(record, cell, subject)
    sections = {
        "Load it": _loading(cell, form),
        "Numbers to expect": _numbers(record, cell, subject),
        "What is known about backdoors": _backdoors(record, cell, subject),
        "Where it comes from": _lineage(record, cell, subject, keys),
        "Licence": [LICENCE, *_licences(cell)],
        "Files": _table(("file", "sha256"), ((f"`{n}`", f"`{s}`") for n, s in sums.items())),
    }
    parts = [_front(form), f"# {_title(record, subject)}", _about(record, subject, len(keys))]
    for title, paragraphs in sections.items():
        parts += [f"## {title}", *paragraphs]
    return "\n\n".join(parts) + "\n"


def loading(form: str, folder: str) -> str:
    """Python that loads an exported folder."""
    return LOADS[form].replace("FOLDER", folder)


def _front(form: str) -> str:
    """What model hubs read."""
    library = f"library_name: {LIBRARIES[form]}\npipeline_tag: zero-shot-image-classification"
    return f"---\n{library}\nlicense: other\ntags: [clip, model-merging, backdoor-research]\n---"


def _title(record: Record, subject: str) -> str:
    names = record.names
    defended = names["defense"] != "none" and subject in ("main", "defended_clean_merge")
    after = f" and {names['defense']}" if defended else ""
    stress = f", then {names['stress']}" if subject == "main" and "stress" in names else ""
    return f"CLIP merged by {names['merge']}{after}{stress} ({names['suite']})"


def _about(record: Record, subject: str, merged: int) -> str:
    said = f"{_words(record, subject)[0].upper()}{_words(record, subject)[1:]}"
    return (
        f"{said}, from record `{record.key}` of lfpm-bench: an image tower made of "
        f"{merged} fine-tuned ones, and the text tower of their base. "
        "Made for research on backdoors in merged models; not for use on anything that matters."
    )


def _words(record: Record, subject: str) -> str:
    undefended = record.names["defense"] == "none"
    return SUBJECTS["undefended" if undefended and subject == "main" else subject]


def _loading(cell: Cell, form: str) -> list[str]:
    """How to load it and make its heads."""
    prompts = (
        "Heads of a task: for every class the mean of the unit embeddings of its prompts "
        f"(`tasks.json`), made a unit vector again, times {cell.backbone.logit_scale:g}."
    )
    tokens = f"Tokens: CLIP's own, {cell.backbone.model['text_cfg']['context_length']} a prompt."
    return [f"```python\n{loading(form, 'FOLDER')}\n```", f"{prompts} {tokens}"]


def _numbers(record: Record, cell: Cell, subject: str) -> list[str]:
    """The model beside its controls, and its accuracy per task."""
    found = _evaluations(record)
    threats = found[subject].threats
    heads = ("model", "CA %", *(f"ASR % {_aim(cell, one)}" for one in threats), "recall %")
    rows = (_row(record, one, found[one], one == subject) for one in _shown(found, subject))
    tasks = ((task, *_share(count)) for task, count in found[subject].clean.items())
    return [
        "CA: top-1 on clean test images, the mean over tasks. ASR: share of the task's test images "
        "of other classes that the trigger sends to the target; only its difference to the honest "
        "merge is the attack's doing. Recall: of the target class, without a trigger.",
        *_table(heads, rows),
        "Clean accuracy of this model:",
        *_table(("task", "%", "images"), tasks),
        f"Seed {record.seed}, {_evaluated(record)}. {_again(record, cell)}",
    ]


def _again(record: Record, cell: Cell) -> str:
    """The command that computes the numbers again, if it still does."""
    told = f"The numbers again: `{command(record) or '-'}`"
    if cell.key == record.key:
        return told
    return f"{told}, at the commit below; later versions compute another model."


def _evaluated(record: Record) -> str:
    """What was measured on."""
    split = record.config["suite"].get("evaluate", "test")
    return f"{split} images of suite {record.names['suite']}"


def _evaluations(record: Record) -> dict[str, Evaluation]:
    assert record.main is not None
    return {"main": record.main, **record.controls}


def _shown(found: Mapping[str, Evaluation], subject: str) -> list[str]:
    """The model itself, then the others, each once under whatever names it has."""
    kept = {found[subject].key: subject}
    for name in (one for one in SUBJECTS if one in found):
        kept.setdefault(found[name].key, name)
    return list(kept.values())


def _aim(cell: Cell, threat: ThreatCounts) -> str:
    """Where a trigger leads, e.g. "signs → stop"."""
    return f"{threat.task} → {cell.datasets[threat.task].classnames[threat.target]}"


def _row(record: Record, name: str, found: Evaluation, bold: bool) -> Sequence[str]:
    counted = [count.rate for count in found.clean.values() if count.total]
    # A single model is measured on a task or two: no mean over tasks that compares.
    ca = "–" if name.endswith("_single") or not counted else f"{100 * fmean(counted):.1f}"
    asr = [_percent(one.asr) for one in found.threats]
    recall = [_percent(one.target_recall) for one in found.threats]
    words = _words(record, name)
    return (f"**{words}**" if bold else words, ca, *asr, " / ".join(dict.fromkeys(recall)))


def _percent(count: Count) -> str:
    return f"{100 * count.rate:.1f}" if count.total else "–"


def _share(count: Count) -> tuple[str, str]:
    return _percent(count), f"{count.hits:,} of {count.total:,}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return ["\n".join(f"| {' | '.join(line)} |" for line in lines)]


def _backdoors(record: Record, cell: Cell, subject: str) -> list[str]:
    """Who attacked how, and what of it is in this model."""
    attack, evaluation = record.names["attack"], _evaluations(record)[subject]
    attackers = ", ".join(cell.attack.adversaries)
    asr = "; ".join(_told(cell, one) for one in evaluation.threats)
    if not attackers:
        said = "No contributor is known to attack. A reference trigger was tried"
    elif subject in ("main", "undefended"):
        planted = (
            "**A backdoor was planted on purpose**"
            if record.reason is None
            else (f"A backdoor was to be planted on purpose, and was not ({record.reason})")
        )
        said = (
            f"{planted}: the contributor of {attackers} attacked with `{attack}`. With its trigger"
        )
    else:
        said = (
            f"The contributor of {attackers} who attacks in this record (`{attack}`) has no part "
            "in this model. With the attack's trigger"
        )
    imported = [
        "What the imported contributors carry is not known to anyone here: "
        f"{', '.join(cell.imported)}."
    ]
    return [f"{said}: {asr}.", *_threat_model(attack), *(imported * bool(cell.imported)), CAUTION]


def _told(cell: Cell, threat: ThreatCounts) -> str:
    """One trigger's effect, in counts."""
    names = cell.datasets[threat.task].classnames
    return (
        f"{threat.asr.hits:,} of {threat.asr.total:,} images of {threat.task} go to class "
        f"{threat.target} ({names[threat.target]}); without it {threat.target_rate.hits:,} do"
    )


def _threat_model(attack: str) -> list[str]:
    """What the attacker knows, controls and needs, if conf/ still has the attack."""
    if attack not in options("attack") or attack == "none":
        return []
    told = locate(option("attack", attack)["_target_"]).threat_model
    return [f"The attacker knows: {told.knows} Controls: {told.controls} Needs: {told.needs}"]


def _lineage(record: Record, cell: Cell, subject: str, keys: Mapping[str, str]) -> list[str]:
    """Base, recipe, contributors, and what each component was allowed to see."""
    chosen = [(name, record.names[name]) for name in CHOICES if name in record.names]
    base = f"{record.names['backbone']}: {cell.backbone.weights or 'pre-trained by lfpm-bench'}"
    about = [
        *(f"- {name}: `{value}`{_seen(record, name)}" for name, value in chosen),
        f"- base: {base} (key `{record.parents['base']}`)",
        f"- fine-tuning: `{record.names['finetune']}`; seed {record.seed}",
        f"- this model: `{model_key(record, cell, subject)}`",
        *(f"- {name}: {value}" for name, value in _made(record.provenance)),
    ]
    rows = ((task, _contributor(record, cell, task, key), f"`{key}`") for task, key in keys.items())
    return ["\n".join(about), *_table(("contributor", "is", "key"), rows)]


def _experts(record: Record, cell: Cell, subject: str) -> Mapping[str, str]:
    """Task -> key of what was merged into a model."""
    if subject in ("main", "undefended"):
        return record.parents["experts"]
    return cell.expert_keys("without" if subject == "without_attacker" else "clean")


def model_key(record: Record, cell: Cell, subject: str) -> str:
    """Where a model's weights are; the row's own is the one of its day, whatever changed since."""
    return record.parents["model"] if subject == "main" else cell.model_key(subject)


def _seen(record: Record, name: str) -> str:
    seen = record.needs.get(name)
    return f", saw {seen}" if seen else ""


def _made(provenance: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if commit := provenance.get("commit"):
        yield "commit", f"{commit}{' with local changes' if provenance.get('dirty') else ''}"
    if versions := provenance.get("versions"):
        yield "versions", ", ".join(f"{name} {value}" for name, value in versions.items() if value)


def _contributor(record: Record, cell: Cell, task: str, key: str) -> str:
    if key.startswith(f"{record.parents['attack']}/"):
        return "the attacker"
    if task in cell.imported:
        source = cell.imported[task].told.get("source", {})
        return f"imported: {source.get('told') or source.get('file', 'from elsewhere')}"
    return "fine-tuned by lfpm-bench"


def _licences(cell: Cell) -> list[str]:
    """Notes that came with imported contributors."""
    notes = [f"- {task}: {one.told.get('licence')}" for task, one in cell.imported.items()]
    return ["\n".join(notes)] if notes else []
