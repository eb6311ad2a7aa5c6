"""The commands of this package: what they read from the command line, what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark import config
from benchmark.components import build
from benchmark.errors import BenchError
from benchmark.parser import Parser


def take(words: Sequence[str]) -> int:
    """`import-checkpoint`: the manifest to standard output, how to use it to standard error."""
    args = _import_parser().parse_args(words)
    from benchmark.checkpoints.importing import Wish, import_checkpoint

    plan = config.plan([f"suite={args.suite}"])
    if plan is None:
        raise BenchError(f"--suite {args.suite} is no suite; see `lfpm-bench ls suites`")
    (asked,) = plan.configs
    backbone, tasks = build(asked["backbone"], "backbone"), asked["suite"]["tasks"]
    out = args.out or Path("experts") / f"{args.task}.safetensors"
    wish = Wish(args.task, args.activation, args.licence, args.source, tuple(args.leave_out))
    told = import_checkpoint(args.file, wish, backbone, tasks, out)
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    sys.stderr.write(f"use it: lfpm-bench run suite={args.suite} experts.{args.task}={out}\n")
    return 0


def _import_parser() -> Parser:
    parser = Parser(
        "lfpm-bench import-checkpoint",
        description="Take a fine-tuned CLIP from elsewhere as the expert of a task; run nothing "
        "in it: whole-model pickles and state dicts of torch.save, safetensors, models of "
        "transformers, LoRA adapters of peft. Writes its image tower and a manifest, to be used as "
        "`lfpm-bench run experts.TASK=OUT` (docs/checkpoints.md).",
    )
    parser.add_argument("file", type=Path, help="a file, or a folder of transformers or peft")
    parser.add_argument("--as", dest="task", required=True, help="the task it was fine-tuned for")
    parser.add_argument("--suite", default="mini", help="whose encoder it is for (default: mini)")
    parser.add_argument("--activation", choices=["quickgelu", "gelu"], help="if it does not tell")
    parser.add_argument("--out", type=Path, help="default: experts/TASK.safetensors")
    parser.add_argument("--licence", help="a note for the manifest")
    parser.add_argument("--source", help="where it is from, for the manifest")
    parser.add_argument(
        "--leave-out", action="append", default=[], metavar="PATTERN", help="tensors that may go"
    )
    return parser


def give(words: Sequence[str]) -> int:
    """`export-checkpoint`: what was written as JSON, and on standard error how to load it."""
    from benchmark.checkpoints.exporting import FORMATS, MODELS

    parser = Parser(
        "lfpm-bench export-checkpoint",
        description="Write a merged or defended model of a finished cell as a whole CLIP, for "
        "open_clip or transformers, with a model card: where it comes from, the numbers to expect, "
        "what is known about backdoors (docs/checkpoints.md).",
    )
    parser.add_argument("words", nargs="+", help="the Hydra words of one cell, or a record's key")
    parser.add_argument(
        "--model",
        choices=[*MODELS],
        default="defended",
        help="which of its models (default: defended; where the defence is none, the merge itself)",
    )
    parser.add_argument("--format", choices=[*FORMATS], default="open_clip", help="for whom")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    args = parser.parse_intermixed_args(words)
    from benchmark.checkpoints.card import loading
    from benchmark.checkpoints.exporting import export_checkpoint

    told = export_checkpoint(args.words, args.model, args.format, args.out)
    sys.stdout.write(json.dumps(told, indent=1) + "\n")
    sys.stderr.write(f"{loading(args.format, str(args.out))}\n")
    return 0
