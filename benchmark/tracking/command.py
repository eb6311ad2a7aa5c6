"""`lfpm-bench wandb`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.parser import Parser


def wandb(words: Sequence[str]) -> int:
    """Send finished records; the exit code."""
    parser = Parser(
        "lfpm-bench wandb",
        description="Send finished records to Weights & Biases, what was sent before excepted "
        "(docs/dashboards.md); with --offline into the store, for `wandb sync`. Whole sweeps are "
        "sent as they run with tracker=wandb.",
        epilog="--offline: nothing is sent; runs are written to STORE/wandb, for `wandb sync`",
    )
    parser.add_argument("action", choices=["push"], help="push: send what is not there yet")
    parser.add_argument(
        "names",
        nargs="*",
        help="experiments, and Hydra words: seed=0,1, store=DIR, tracker.project=NAME; "
        "no experiment: every record of the store",
    )
    parser.add_argument("--records", type=Path, help="a folder of records instead of the store's")
    parser.add_argument("--group", help="of all runs; else the experiment's name")
    parser.add_argument("--again", action="store_true", help="send what was sent before, too")
    args = parser.parse_args(words)
    from benchmark.tracking.push import push

    code, told = push(args.names, args.records, group=args.group, again=args.again)
    sys.stdout.write(told + "\n")
    return code
