"""`lfpm-bench ls`: what there is to choose from, read from conf/ and docstrings."""

from __future__ import annotations

import fnmatch
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from benchmark import components
from benchmark.errors import BenchError, nearest
from benchmark.types import Grant

GROUPS = {
    "attacks": "attack",
    "merges": "merge",
    "defenses": "defense",
    "stresses": "stress",
    "pefts": "peft",
    "suites": "suite",
    "datasets": "dataset",
    "experiments": "experiment",
    "tables": "table",
    "launchers": "launcher",
    "trackers": "tracker",
}
PAPER = re.compile(r"\([^()]*(?:19|20)\d\d[^()]*\)|arXiv[: ]\d{4}\.\d{4,5}")


def listing(
    group: str, chosen: Sequence[str] = (), *, verbose: bool = False, as_json: bool = False
) -> str:
    """The options of a group, one per line, or in full.

    Args:
        group: attacks, merges, defenses, pefts, stresses, suites, datasets, experiments, tables,
            launchers, trackers, or their singular.
        chosen: names, or patterns such as `ties*`; none: all.
        verbose: add paper, data seen, cost, parameters; for an experiment its whole header.
        as_json: everything, as a JSON list.
    """
    singular = {**GROUPS, **{one: one for one in GROUPS.values()}, "defences": "defense"}
    if group not in singular:
        raise BenchError(f"unknown group '{group}'{nearest(group, GROUPS)}")
    folder = singular[group]
    entries = [entry(folder, name) for name in _named(group, components.options(folder), chosen)]
    if as_json:
        return json.dumps(entries, indent=1, ensure_ascii=False) + "\n"
    if verbose:
        return "\n".join(_long(one) for one in entries)
    wide = max((len(one["name"]) for one in entries), default=0)
    return "".join(f"{one['name']:<{wide}}  {one['summary']}\n" for one in entries)


def _named(group: str, known: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Those of the known names that a chosen name or pattern means."""
    for one in chosen:
        if not fnmatch.filter(known, one):
            raise BenchError(f"nothing in {group} is called '{one}'{nearest(one, known)}")
    return [name for name in known if not chosen or any(fnmatch.fnmatch(name, c) for c in chosen)]


def entry(group: str, name: str) -> dict[str, Any]:
    """What is known of one option: name, summary, paper, data seen, values, header.

    Of an attack also its threat model, of a merge its cost. Options of one class are told apart by
    the first line of their YAML; the only one of its class is what the class says of itself.
    """
    node = components.option(group, name)
    values = {key: value for key, value in node.items() if key != "_target_"}
    header = _header(group, name)
    if "_target_" not in node:
        summary = str(values.get("title") or (header or ["(no description)"])[0])
        shown = values if group == "suite" else {}
        return {"name": name, "summary": summary, "header": header, "values": shown}
    cls = components.locate(node["_target_"])
    doc = inspect.getdoc(cls) or "(no docstring)"
    card, cost = getattr(cls, "threat_model", None), getattr(cls, "cost", None)
    titled = header and _siblings(group, node["_target_"])
    return {
        "name": name,
        "summary": header[0] if titled else doc.splitlines()[0],
        "paper": _paper(doc) or _paper(_module_doc(node["_target_"])),
        "sees": _sees(node, f"{group}.{name}"),
        **({"threat_model": asdict(card)} if card else {}),
        **({"cost": cost} if cost else {}),
        "header": header,
        "values": values,
    }


def _siblings(group: str, target: str) -> bool:
    """Whether several options of a group are of one class."""
    targets = [components.raw_option(group, n).get("_target_") for n in components.options(group)]
    return targets.count(target) > 1


def describe(needs: Sequence[Grant]) -> str:
    """Grants in words, e.g. "200 dev images per task, no labels"; "weights only" without any."""
    return " + ".join(_grant(grant) for grant in needs) or "weights only"


def _grant(grant: Grant) -> str:
    many = "all" if grant.per_task is None else str(grant.per_task)
    whose = "per task" if grant.only is None else "of class {1} of '{0}'".format(*grant.only)
    return f"{many} {grant.split} images {whose}, {'with' if grant.labels else 'no'} labels"


def _sees(node: Mapping[str, Any], where: str) -> str | None:
    """The component's needs under the default budget; None for one that asks for nothing itself.

    Where its values hang on anything else of the configuration there is no saying.
    """
    budget, worth = default_budget()
    known = components.filled(node, worth)
    if "defaults" in known or "${" in json.dumps(known, default=str):
        return "depends on the configuration"
    part = components.build(known, where)
    if not hasattr(part, "needs"):
        return None
    seen = describe(part.needs)
    return seen if known == node or not part.needs else f"{seen} (budget={budget})"


def default_budget() -> tuple[str, dict[str, Any]]:
    """The default budget: its name, and interpolation -> value; empty where there is none."""
    name = components.standard("budget")
    if name is None:
        return "", {}
    found = components.option("budget", name)
    return name, {f"${{budget.{key}}}": value for key, value in found.items()}


def _paper(doc: str) -> str | None:
    found = PAPER.search(" ".join(doc.split()))
    return found.group().strip("()") if found else None


def _module_doc(target: str) -> str:
    return inspect.getdoc(inspect.getmodule(components.locate(target))) or ""


def _header(group: str, name: str) -> list[str]:
    """The comment at the top of the option's YAML: what it reproduces, its cost, its command."""
    lines = []
    for line in (components.CONF / group / f"{name}.yaml").read_text().splitlines():
        if not line.startswith("#"):
            break
        # Hydra reads `# @package` itself; it tells people nothing.
        if not line.startswith("# @package"):
            lines.append(line.lstrip("#").strip())
    return lines


def _long(one: Mapping[str, Any]) -> str:
    lines = [one["name"], f"  {one['summary']}"]
    lines += [f"  {line}" for line in one["header"] if line != one["summary"]]
    lines += [f"  paper: {one['paper']}"] if one.get("paper") else []
    lines += [f"  {key}: {one[key]}" for key in ("sees", "cost") if one.get(key)]
    lines += [f"  attacker {verb}: {words}" for verb, words in one.get("threat_model", {}).items()]
    lines += [f"  {key}: {_value(value)}" for key, value in one["values"].items()]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
