"""`lfpm-bench run` and `lfpm-bench demo`: from words to records to a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmark import config, pipeline, plans, tables
from benchmark.cell import Cell, cell_from
from benchmark.display import display
from benchmark.errors import BenchError
from benchmark.launching import launcher_from
from benchmark.parser import Parser, one_sentence
from benchmark.records import Record
from benchmark.store import Store
from benchmark.tracking.settings import tracker_from

FLAGS = """lfpm-bench run [-m] [FLAGS] WORDS...

The cells that Hydra words name; with -m every combination of their values. What is done is not
computed again; a cell that failed is tried again, unless you say otherwise:

  --retry-failed   only the cells that failed, none that is missing
  --keep-failed    only the cells that are missing, none that failed
  --dry-run        say what would be computed and about what it would cost; compute nothing
  --plan ID        the cells of an earlier command as they were then, whatever conf/ says by now;
                   no words but store=DIR beside it (a sweep says its ID when it starts)

Where cells are computed: launcher=inline, local, slurm (`lfpm-bench ls launchers -v`). What there
is to choose from: `lfpm-bench ls`. The whole configuration of some words, and Hydra's own flags:

  --cfg job        the configuration that the words give, every value, and nothing else
  --hydra-help     the flags of Hydra
  --offline        nothing is downloaded
"""


@dataclass(frozen=True)
class _Asked:
    """Our own flags of `run`, and the words that are Hydra's."""

    failed: pipeline.Failed
    dry: bool
    plan: str | None
    words: list[str]


def run(words: Sequence[str]) -> int:
    """Compute the cells of a Hydra command line; 0, or 1 if any cell failed."""
    if {"-h", "--help"} & set(words):
        sys.stdout.write(FLAGS)
        return 0
    asked = _asked(words)
    with one_sentence(FLAGS):
        plan = _plan(asked)
    if plan is None:
        return 0
    cells = [cell_from(one) for one in plan.configs]
    store, launcher = Store(plan.runtime["store"]), plan.runtime["launcher"]
    if asked.dry:
        sys.stdout.write(_forecast(cells, store, launcher, asked.failed))
        return 0
    if plan.runtime["stage"] == "pretrain":
        return _pretrain(cells[0], store, launcher)
    if len(cells) > 1:
        say(f"plan {plan.id}: {len(cells)} cells")
    summary = _computed(asked.words, plan, cells, store, asked.failed)
    sys.stdout.write(numbers(summary.records))
    return report(summary, store)


def _computed(
    words: Sequence[str],
    plan: plans.Plan,
    cells: Sequence[Cell],
    store: Store,
    failed: pipeline.Failed = "retry",
) -> pipeline.Summary:
    """Run the cells, shown by the chosen tracker."""
    tracker = tracker_from(plan.runtime["tracker"])
    with tracker.opened(store, words) as tell:
        return pipeline.run(cells, store, plan.runtime["launcher"], display, failed, tell)


def _asked(words: Sequence[str]) -> _Asked:
    """Take our own flags out of a command line."""
    parser = Parser("lfpm-bench run", add_help=False)
    group = parser.add_mutually_exclusive_group()
    for flag, value in (("--retry-failed", "only"), ("--keep-failed", "keep")):
        group.add_argument(flag, dest="failed", action="store_const", const=value, default="retry")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--plan")
    args, rest = parser.parse_known_args(words)
    return _Asked(args.failed, args.dry_run, args.plan, rest)


def _plan(asked: _Asked) -> plans.Plan | None:
    if asked.plan is None:
        return config.plan(asked.words, _told_of_change)
    more = [word for word in asked.words if not word.startswith("store=")]
    if more:
        raise BenchError(f"--plan={asked.plan} has its own words: leave out {' '.join(more)}")
    store = config.store_of(asked.words)
    plan = plans.find(store, asked.plan)
    return replace(plan, runtime={**plan.runtime, "store": str(store)})


def _told_of_change(before: str, now: str) -> None:
    say(
        f"conf/ has changed since plan {before} of these words: this is plan {now}, with other "
        f"cells; `lfpm-bench run --plan {before}` goes on with the old ones"
    )


def _forecast(
    cells: Sequence[Cell], store: Store, launcher: dict[str, object], failed: pipeline.Failed
) -> str:
    from benchmark.forecast import forecast, forecast_text

    return forecast_text(forecast(cells, store, launcher_from(launcher), failed))


def numbers(found: Sequence[Record]) -> str:
    """One line per row of the records that are done, for people: CA, ASR and its floor."""
    lines = []
    for row in tables.rows(found):
        if row.stats:
            ca, asr, floor = (row.mean(name) for name in ("ca", "asr", "asr_clean_merge"))
            where = "/".join(row.names[name] for name in ("attack", "merge", "defense"))
            where += f" after {row.names['stress']}" if "stress" in row.names else ""
            where += f" ({row.variant})" if row.variant else ""
            lines.append(f"{where}: CA {ca:.1f} %, ASR {asr:.1f} % (clean merge {floor:.1f} %)\n")
    return "".join(lines)


def report(summary: pipeline.Summary, store: Store) -> int:
    """Say on standard error what a run came to; the exit code it deserves."""
    done = sum(record.status == "done" for record in summary.records)
    say(
        f"{done} of {summary.asked} cells done, {summary.computed} computed now; "
        f"records: {store.root / 'records'}"
    )
    for record in summary.records:
        if record.status != "done":
            names = record.names
            row = f"{names['attack']}/{names['merge']}/{names['defense']}"
            row += f" after {names['stress']}" if "stress" in names else ""
            row += f" seed {record.seed}"
            say(f"{record.status}: {row}: {record.reason}")
    for label, log in summary.logs.items():
        say(f"log of {label}: {log}")
    return 1 if summary.failed else 0


def _pretrain(cell: Cell, store: Store, launcher: dict[str, object]) -> int:
    """Make the backbone's weights as a stage and say where they are."""
    if cell.backbone.weights is not None:
        raise BenchError(
            f"backbone.weights={cell.backbone.weights} is already there; "
            "add backbone.weights=null to make weights from the seed"
        )
    path = pipeline.pretrain(cell, store, launcher, display)
    say(f"pre-trained weights: {path}")
    return 0


def say(text: str) -> None:
    """One line to standard error."""
    sys.stderr.write(f"{text}\n")


def demo_words(extra: Sequence[str]) -> list[str]:
    """The command line that `demo` stands for."""
    return ["-m", "experiment=demo", *extra]


def demo(extra: Sequence[str], out: Path, adopt: Path | None) -> int:
    """Run the embedded experiment, print its table and how to read it, write md, csv and html.

    Args:
        extra: further Hydra words.
        out: folder for the table and the report.
        adopt: also copy the records into this folder.
    """
    from benchmark.demo import show
    from benchmark.results import keep

    words = demo_words(extra)
    plan = config.plan(words)
    if plan is None:
        return 0
    cells = [cell_from(one) for one in plan.configs]
    store = Store(plan.runtime["store"])
    summary = _computed(words, plan, cells, store)
    show(summary.records, store, out)
    if adopt is not None:
        keep(summary.records, store, adopt)
    return report(summary, store)
