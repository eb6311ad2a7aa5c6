"""One cluster for all cases, and a checkout with a merge that gets into trouble when told to."""

import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.slurm import cluster as mini
from tests.slurm.cluster import Cluster
from tests.small import ATTACKS, ROOT, WORDS

TROUBLE = '''"""A merge that gets into trouble when it is told to."""

import os
import time
from pathlib import Path
from typing import ClassVar, Literal

from benchmark.components import component
from benchmark.types import Model


@component
class Trouble:
    """Returns the base; before that it raises, dies, or sleeps."""

    version: ClassVar[int] = 1
    kind: Literal["none", "raise", "die", "sleep"]
    seconds: float
    tag: int

    @property
    def needs(self):
        return ()

    def accepts(self, experts):
        return None

    def __call__(self, base, experts, ctx):
        with Path(os.environ["TROUBLE_LOG"]).open("a") as log:
            log.write(f"{self.kind} {self.tag}\\n")
        if self.kind == "raise":
            raise RuntimeError("it was told to raise")
        if self.kind == "die":
            os._exit(3)
        if self.kind == "sleep":
            time.sleep(self.seconds)
        return Model(dict(base))
'''
YAML = "_target_: baselines.merging.trouble.Trouble\nkind: none\nseconds: 0.0\ntag: 0\n"
EXPERIMENT = """# @package _global_
# For tests.
defaults:
  - override /attack: badnets
  - override /merge: trouble
  - override /defense: none
hydra:
  sweeper:
    params:
      merge.kind: sleep,none
"""
SLURM = [
    "launcher=slurm",
    "launcher.poll_s=0.5",
    "launcher.grace_s=3",
    "launcher.cpus=1",
    "launcher.mem_gb=1",
    "launcher.parallel=2",
    "launcher.together=2",
    "launcher.time_min=10",
    "launcher.warning_s=5",
]


def _why_not() -> str | None:
    if lacking := mini.lacking():
        return f"{', '.join(lacking)} not installed (make test-slurm installs them)"
    if find_spec("submitit") is None:
        return "submitit is not installed: pip install -e '.[slurm]'"
    return None


@pytest.fixture(scope="session")
def cluster():
    """Two nodes, n1 and n2; nothing of them is left afterwards."""
    if reason := _why_not():
        pytest.skip(reason)
    made = mini.start()
    try:
        yield made
    finally:
        made.stop()
    assert not made.left()
    shutil.rmtree(made.root)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Path:
    """A copy of the checkout with the merge `trouble`."""
    root = tmp_path_factory.mktemp("checkout")
    for part in ("benchmark", "baselines", "lfpm", "conf"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    (root / "baselines/merging/trouble.py").write_text(TROUBLE)
    (root / "conf/merge/trouble.yaml").write_text(YAML)
    (root / "conf/experiment/trouble.yaml").write_text(EXPERIMENT)
    return root


def _hear_ctrl_c() -> None:
    """A command started in the background of a shell, or by one that was, is deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Bench:
    """`python -m benchmark` on a store, with the cluster's address in its environment."""

    def __init__(self, root: Path, cluster: Cluster, store: Path) -> None:
        self.root = root
        self.store = store
        self.started: list[subprocess.Popen[str]] = []
        self.calls = store.parent / f"{store.name}.calls"
        self.environment = {
            **cluster.environment,
            "LFPM_BENCH_STORE": str(store),
            "PYTHONPATH": str(root),
            "TROUBLE_LOG": str(self.calls),
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a command; its standard error is a pipe."""
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmark", *words],
            cwd=self.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=_hear_ctrl_c,
        )
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End what a case that failed has left running."""
        for process in self.started:
            if process.returncode is None:
                process.kill()
                process.communicate()

    def sweep(self, *words: str) -> list[str]:
        """The words of a small sweep."""
        return ["run", "-m", "attack=badnets", "defense=none", *WORDS, *ATTACKS, *words]

    def finish(self, process: subprocess.Popen[str]) -> subprocess.CompletedProcess[str]:
        """Wait for a command."""
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return self.finish(self.start(*words))

    def called(self) -> list[str]:
        """What the merge `trouble` was told, once per call, in order."""
        return self.calls.read_text().split("\n")[:-1] if self.calls.exists() else []


@pytest.fixture(scope="session")
def inline(checkout, cluster, tmp_path_factory) -> Bench:
    """A store with one sweep in it, computed inline: the truth to compare with."""
    bench = Bench(checkout, cluster, tmp_path_factory.mktemp("inline") / "store")
    done = bench.run(*bench.sweep("merge=task_arithmetic,ties", "launcher=inline"))
    assert done.returncode == 0, done.stderr
    return bench


@pytest.fixture
def bench(inline, empty) -> Bench:
    """A copy of that store, so that only what a case adds is computed."""
    shutil.copytree(inline.store, empty.store)
    return empty


@pytest.fixture
def empty(checkout, cluster, tmp_path):
    """A store with nothing in it; no job and no command outlives its case."""
    made = Bench(checkout, cluster, tmp_path / "store")
    yield made
    made.stop()
    cluster.ask("scancel", "--me")
