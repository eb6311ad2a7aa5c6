"""A cell small enough to run for real in seconds: three tasks, a few dozen images, a few steps."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TASKS = ("signs", "flags", "faces")
WORDS = [
    "suite.tasks=[signs,flags,faces]",
    "suite.flip_images=8",
    "suite.clean_images=24",
    "suite.curve=[0.0,1.0,1.5]",
    "suite.curve_images=20",
    *(
        f"dataset.{task}.sizes.{split}={size}"
        for task in TASKS
        for split, size in (("pretrain", 24), ("train", 48), ("dev", 24), ("test", 36))
    ),
    "backbone.pretrain.epochs=1",
    "backbone.pretrain.batch=16",
    "finetune.epochs=1",
    "finetune.min_steps=3",
    "finetune.batch=16",
    "budget.images=12",
    "budget.passes=600",
    "setting.trigger_steps=3",  # of the attacks, the longest stage by far
    "setting.attack_epochs=1",
]
ATTACKS = ["attack.min_asr=0"]


def bench(*words: str, store: Path, root: Path = ROOT, **options) -> subprocess.CompletedProcess:
    """Run `python -m benchmark WORDS` as a user would; output is captured as text."""
    return subprocess.run(
        [sys.executable, "-m", "benchmark", *words],
        cwd=root,
        env={**os.environ, "LFPM_BENCH_STORE": str(store), "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        **options,
    )
