"""The words that stand with a table: what, where, how many, how chosen, who saw what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmark.records import Evaluation
from benchmark.tables.again import again
from benchmark.tables.metrics import worst_threat
from benchmark.tables.paired import LEAST, LEVEL, Test, pairs
from benchmark.tables.published import sources
from benchmark.tables.reading import label, pareto_notes, place_of
from benchmark.tables.rows import DERIVED, NO_DATA, Row
from benchmark.tables.table import Table, cells, folded
from benchmark.tables.whole import unfinished
from benchmark.tables.worst import worst_note

EMBEDDED = "mini"
MCNEMAR = (
    "two-sided mid-p McNemar tests on the same test images at every seed; of the seeds' p values "
    "the largest counts, and 1 where they disagree on who is better"
)
APART = (
    "differ in more than the defence (another trigger, say) or share no seed with per-image hits"
)
"""Why rows over seeds are not tested."""
FEW = f"share fewer than {LEAST} settings"
"""Why rows over settings are not."""


def caption(table: Table) -> list[str]:
    """The sentences that stand with the table: what, where, how chosen, who saw what."""
    style, kept = table.layout, table.rows
    fixed = ", ".join(f"{name} {value}" for name, value in folded(style, kept).items())
    lines = [style.caption, _suites(kept, style.evaluate), _counts(kept)]
    lines += [unfinished(table.plan, over_settings=style.group_by == "setting")]
    lines += [f"In every row: {fixed}." if fixed else ""]
    lines += [_seeds(kept), f"Selection: {style.selection}"]
    lines += [f"{style.subject} is a {style.subject_is}."]
    lines += [_seen(table), _bold(table), _tests(table)]
    return [line for line in lines if line]


def notes(table: Table) -> list[str]:
    """The footnotes: the layout's, then those that the numbers call for."""
    style = table.layout
    said = [*style.notes]
    if style.published:
        said.append(f"Published numbers, by source: {'; '.join(sources(style.published))}.")
    said += [*pareto_notes(table.rows, style), *_alike(table)]
    if table.left_out:
        said.append(
            f"Not counted, since undefended ASR is below {style.least_asr:g} % there: "
            f"{'; '.join(table.left_out)}."
        )
    if style.group_by == "worst" and (note := worst_note(table.rows, style.references)):
        said.append(note)
    return [*said, *_replay(table)]


def _suites(kept: Sequence[Row], evaluate: str) -> str:
    names = sorted({row.names["suite"] for row in kept})
    inner = [name for name in names if name == EMBEDDED or name.startswith(f"{EMBEDDED}_")]
    said = [f"embedded suite '{name}' (shows the mechanism, is not CLIP)" for name in inner]
    said += [f"suite '{name}'" for name in names if name not in inner]
    images = ", dev images that no method was granted" if evaluate == "dev" else ""
    return f"Measured on: {', '.join(said)}{images}."


def _seeds(kept: Sequence[Row]) -> str:
    sets = sorted({row.seeds for row in kept if row.seeds})
    said = " or ".join(", ".join(str(seed) for seed in seeds) for seeds in sets) or "none done"
    lines = [f"Seeds: {said}."]
    if any(row.parts for row in kept):
        lines += ["Numbers are means over settings, each the mean over its seeds; brackets are"]
        lines += ["95 % bootstrap intervals, whole settings drawn with replacement."]
        return " ".join(lines)
    if any(len(seeds) > 1 for seeds in sets):
        lines += ["± is the sample standard deviation over seeds."]
    if any(len(seeds) == 1 for seeds in sets):
        lines += ["With one seed, brackets are 95 % Wilson intervals from the counts."]
    return " ".join(lines)


def _seen(table: Table) -> str:
    headers = [column.header for column in table.columns if column.key == "sees"]
    known = [row for row in table.rows if row.needs]
    every = {row.sees for row in known}
    if headers:
        said = f"Column '{headers[0]}' is what each row was allowed to see"
    elif len(every) == 1:
        said = f"What every row was allowed to see: {every.pop()}"
    else:
        said = f"What each row was allowed to see: {_together(_seeing(known))}"
    attackers = [
        (row.names["attack"], row.needs["attack"]) for row in known if "attack" in row.needs
    ]
    return said + (f"; the attacker ({_together(attackers)})." if attackers else ".")


def _seeing(known: Sequence[Row]) -> list[tuple[str, str]]:
    """(who, what it saw) of every row, who by the fewest names that tell what was seen."""
    said: list[tuple[str, str]] = []
    for groups in (("defense",), ("merge",), ("merge", "defense")):
        said = [(" x ".join(row.names[one] for one in groups), row.sees) for row in known]
        if len(dict(said)) == len(set(said)):
            # Of merges it need not be said that it is the merge that sees.
            own = f"{NO_DATA}; merge: " if groups == ("merge",) else ""
            return [(who, what.removeprefix(own)) for who, what in said]
    return said


def _together(said: Iterable[tuple[str, str]]) -> str:
    """Words of (who, what), those of whom the same is said together."""
    groups: dict[str, set[str]] = {}
    for who, what in said:
        groups.setdefault(what, set()).add(who)
    each = sorted((sorted(who), what) for what, who in groups.items())
    return "; ".join(f"{', '.join(who)}: {what}" for who, what in each)


def _counts(kept: Sequence[Row]) -> str:
    """How many images each number is made of, at each seed."""
    cells = [one for row in kept for one in (row.parts or (row,))]
    mains = [record.main for one in cells for record in one.records if record.main is not None]
    if not mains:
        return ""
    clean = _span(sum(count.total for count in main.clean.values()) for main in mains)
    tasks = _span(len(main.clean) for main in mains)
    said = f"Images at each seed: CA {clean} of {tasks} tasks"
    attacked = [_attacked(main) for main in mains if main.threats]
    if not attacked:
        return f"{said}."
    return f"{said}, ASR {_span(attacked)} of the target task, those of the target class left out."


def _attacked(main: Evaluation) -> int:
    return main.threats[worst_threat(main)].asr.total


def _span(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    ends = dict.fromkeys((found[0], found[-1]))
    return " to ".join(f"{one:,}" for one in ends)


def _bold(table: Table) -> str:
    if not any(cell.best for line in cells(table) for cell in line):
        return ""
    headed = {column.key for column in (*table.layout.columns, *table.columns)} - {"suite"}
    shared = [name for name in table.layout.within if name in headed]
    present = {row.names["defense"] for row in table.rows}
    outside = [name for name in table.layout.references if name in present]
    are = "are references and not ranked" if len(outside) > 1 else "is a reference and not ranked"
    unranked = f"; {', '.join(outside)} {are}" if outside else ""
    among = f"best among rows of equal {' and '.join(shared)}"
    return f"Bold: {among}, and significantly better than every other one{unranked}."


def _tests(table: Table) -> str:
    """How rows were compared, and how many pairs could not be."""
    among = pairs(table.rows, lambda row: table.layout.comparable(row, table.rows))
    if not among or not any(column.ranked for column in table.layout.columns):
        return ""
    lost = len(among) - len({test.rows for test in table.tests})
    pooled = any(row.parts for row in table.rows)
    why = FEW if pooled else APART
    untold = f"{lost} of {len(among)} pairs of ranked rows are not tested, since they {why}"
    if not table.tests:
        return f"Nothing is bold, since nothing was tested: {untold}."
    how = _sign_flips(table.tests) if pooled else MCNEMAR
    metrics = ", ".join(dict.fromkeys(test.metric for test in table.tests))
    many = f"Holm over {len(table.tests)} tests ({metrics}), {100 * LEVEL:g} %"
    return f"Significance: {how}; {many}{'; ' + untold if lost else ''}."


def _sign_flips(tests: Sequence[Test]) -> str:
    counts = [len(test.differences) for test in tests]
    least = min(counts)
    return (
        f"two-sided sign-flip tests over the {_span(counts)} settings that two rows share (with "
        f"{least} no p value is below {2 / 2**least:.2g})"
    )


def _alike(table: Table) -> list[str]:
    """Per row of the subject, the rivals whose ASR cannot be told from its own."""
    lines = []
    for at, row in enumerate(table.rows):
        if row.names["defense"] != table.layout.subject:
            continue
        names = _not_told(table, at, "asr")
        if names:
            lines.append(
                f"{place_of(row)}: ASR not told from {label(row)}'s at {100 * LEVEL:g} %: "
                f"{', '.join(names)}."
            )
    return lines


def _not_told(table: Table, at: int, metric: str) -> list[str]:
    """Rivals whose test against the row at place `at` is not significant."""

    def other(test: Test) -> Row:
        return table.rows[test.rows[0] if test.rows[1] == at else test.rows[1]]

    against = [test for test in table.tests if at in test.rows and test.metric == metric]
    return [label(other(test)) for test in against if test.adjusted >= LEVEL]


def _replay(table: Table) -> list[str]:
    """The command behind one row, and where those of the others are."""
    cells = [one for row in table.rows for one in (row.parts or (row,)) if one.records]
    made = [one for one in cells if one.names["defense"] not in DERIVED and again(one)]
    if not made:
        return []
    subject = [one for one in made if one.names["defense"] == table.layout.subject]
    row = (subject or made)[0]
    return [
        f"To compute {label(row)}'s row of {place_of(row)} again: `{again(row)}`; the commands of "
        "the others are in the column `replay` of the CSV and JSON."
    ]
