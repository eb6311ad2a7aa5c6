"""`make bench`: measure, compare, write results/bench. An idle machine is up to the caller."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark.provenance import commit
from tests.bench.jobs import JOBS, OURS, Job
from tests.bench.report import MIB, Row, as_markdown, compared, goals
from tests.bench.shapes import SMALL, VIT_B32, written
from tests.oracles.environments import PEERS, ROOT, ready

OUT = ROOT / "results" / "bench"
LATE = "out of time"


def main(words: Sequence[str] | None = None) -> int:
    """Measure everything that fits into the time."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny weights, one round: a test")
    parser.add_argument("--alone", action="store_true", help="without the peers")
    parser.add_argument("--minutes", type=float, default=90, help="after which nothing starts")
    parser.add_argument("--rounds", type=int, help="processes for each, at most")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of torch")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[],
        choices=sorted({job.what for job in JOBS}),
        metavar="MERGE",
        help="measure these again, peers as well, and put them into the report that is there",
    )
    parser.add_argument("--out", type=Path, default=OUT)
    asked = parser.parse_args(words)
    before = json.loads((asked.out / "bench.json").read_text()) if asked.only else None
    chosen = [job for job in JOBS if job.what in asked.only or not asked.only]
    tower = SMALL if asked.quick else VIT_B32
    peers = () if asked.alone else ("fusion_bench", "mergekit")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [str(path) for path in written(tower, asked.tasks, folder)]
        pythons = {OURS: Path(sys.executable), **{peer: ready(peer) for peer in peers}}
        bench = Bench(folder, models, asked.threads, pythons, started + 60 * asked.minutes)
        most = 1 if asked.quick else asked.rounds or max(job.rounds for job in JOBS)
        rows = [row for job in chosen for row in bench.rows(job, min(most, job.rounds))]
    minutes = (time.monotonic() - started) / 60
    setting = {
        "quick": asked.quick,
        "rounds": most,
        "tasks": asked.tasks,
        "threads": asked.threads,
        "parameters": tower.count(),
        "minutes": minutes,
        "machine": f"{os.cpu_count()} {platform.machine()} cores",
        "peers": [PEERS[peer] for peer in peers],
    }
    report = reported(rows, setting) if before is None else renewed(before, rows, setting)
    asked.out.mkdir(parents=True, exist_ok=True)
    (asked.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    (asked.out / "bench.md").write_text(as_markdown(report))
    sys.stderr.write(f"{len(rows)} rows in {setting['minutes']:.1f} minutes; see {asked.out}\n")
    return 0


def reported(rows: Sequence[Row], setting: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a run."""
    seen = {"goals": goals(rows, setting["tasks"]), "compared": compared(rows), "rows": list(rows)}
    return {**commit(), "setting": setting, **seen}


def renewed(before: dict[str, Any], rows: Sequence[Row], setting: dict[str, Any]) -> dict[str, Any]:
    """An earlier report with some merges measured again, in the same setting."""
    first, passing = before["setting"], ("minutes", "rounds", "again")
    if differ := [k for k in setting if k not in passing and setting[k] != first.get(k)]:
        raise SystemExit(f"error: {', '.join(differ)} differ from the report's; measure all of it")
    new = {(row["what"], row["part"], row["who"]): row for row in rows}
    merged = [new.get((r["what"], r["part"], r["who"]), r) for r in before["rows"]]
    names = list(dict.fromkeys(row["what"] for row in rows))
    once = {**commit(), "merges": names, "minutes": setting["minutes"], "rounds": setting["rounds"]}
    made = reported(merged, {**first, "again": [*first.get("again", []), once]})
    return {**made, "commit": before["commit"], "dirty": before["dirty"]}


class Bench:
    """Measured processes on the same models."""

    def __init__(
        self,
        folder: Path,
        models: Sequence[str],
        threads: int,
        pythons: dict[str, Path],
        until: float,
    ) -> None:
        self.folder, self.models, self.threads = folder, list(models), threads
        self.pythons, self.until = pythons, until

    def rows(self, job: Job, rounds: int) -> list[Row]:
        """A row for everyone who takes part: the median of calls, or why there is none."""
        who = [one for one in job.who if one in self.pythons]
        told: dict[str, list[dict[str, Any]]] = {one: [] for one in who}
        failed: dict[str, str] = {}
        for _ in range(rounds):
            for one in who:
                if one not in failed:
                    result = self.measured(one, job)
                    if isinstance(result, str):
                        failed[one] = result
                    else:
                        told[one].append(result)
            sys.stderr.write(f"{job.what} {job.part}: {', '.join(who)}\n")
        return [
            {"what": job.what, "part": job.part, "who": one, **summary(told[one], failed.get(one))}
            for one in who
        ]

    def measured(self, who: str, job: Job) -> dict[str, Any] | str:
        """What one process measured, or why it did not."""
        spec, out = self.folder / "spec.json", self.folder / "out.json"
        out.unlink(missing_ok=True)
        words = {"what": job.what, "part": job.part, "calls": job.calls, "threads": self.threads}
        spec.write_text(json.dumps({**words, "models": self.models, "out": str(out)}))
        left = self.until - time.monotonic()
        if left <= 0:
            return LATE
        command = [self.pythons[who], "-m", f"tests.bench.run_{who}", spec]
        env = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(
                command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=left
            )
        except subprocess.TimeoutExpired:
            return LATE
        if done.returncode or not out.exists():
            return (done.stderr.strip().splitlines() or ["no message"])[-1][:200]
        return json.loads(out.read_text())


def summary(told: Sequence[dict[str, Any]], failed: str | None) -> Row:
    """Medians over processes and calls, without warm-ups."""
    if not told:
        return {"failed": failed or LATE}
    seconds = [s for one in told for s in (one["seconds"][1:] or one["seconds"])]
    extra = statistics.median(one["extra_bytes"] for one in told)
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "runs": len(seconds),
        "extra_mib": extra / MIB,
        "models": extra / told[0]["model_bytes"],
        "torch": told[0]["torch"],
    }


if __name__ == "__main__":
    sys.exit(main())
