"""`python -m benchmark`, also installed as `lfpm-bench`. Commands import what they need, late."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmark.errors import BenchError, unread
from benchmark.parser import Parser

OFFLINE = "--offline"
ABOUT = """How badly do backdoors survive model merging, and what removes them?

commands:
  demo                 the embedded experiment: table, csv and HTML report in ./demo
  run [-m] WORDS...    cells by Hydra words: lfpm-bench run attack=badnets merge=ties defense=lfpm
                       -m sweeps: lfpm-bench run -m merge='glob(*)' seed=0,1,2
                       (run --help: retrying, dry runs, plans)
  diagnose WORDS...    one cell looked at: linearity of features, mined prompts, CA and ASR along
                       the line from undefended to defended; figures in ./diagnostics
  ls GROUP [NAMES...]  attacks, merges, defenses, pefts, stresses, suites, datasets, experiments,
                       tables, launchers, trackers; -v: all that is known of each
  status EXPERIMENT    which cells are done, running, missing, failed, and why; --watch
  failures [EXPERIMENT]  every attempt that failed, with its log
  tables NAME [-f md]  a table of the records: md, tex, csv, html, json
  report [NAME...]     the same with charts, triggers and a page per cell: a folder of HTML that
                       opens offline
  export-vector CELL   a by-product of a finished cell's defended model as a safetensors file
  data ACTION [NAME]   published data sets: status, fetch, decode, verify
  doctor [WORDS...]    what keeps cells from running here, and the exact fix; --zero-shot compares
                       accuracy with known numbers
  wandb push [NAMES]   finished records to Weights & Biases, each once
  import-checkpoint FILE --as TASK   somebody else's fine-tuned CLIP as an expert: experts.TASK=...
  export-checkpoint CELL --out DIR   a merged or defended model for open_clip or transformers
  COMMAND --help       more on one command

--offline anywhere: nothing is downloaded.
Tables and JSON go to standard output, everything else to standard error.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 some cells failed, 2 bad input, 130 interrupted, 141 unread."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        done = _dispatch(words)
        sys.stdout.flush()
        return done
    except BrokenPipeError:
        if not unread(sys.stdout):
            raise
        return 141
    except BenchError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(
            "interrupted: every finished stage is kept; the same command continues from there\n"
        )
        return 130


def _dispatch(words: list[str]) -> int:
    if OFFLINE in words:
        words = [word for word in words if word != OFFLINE]
        os.environ |= {"LFPM_BENCH_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    if not words or words[0] in ("-h", "--help"):
        sys.stdout.write(ABOUT)
        return 0
    command, rest = words[0], words[1:]
    if command == "run":
        from benchmark.cli import run

        return run(rest)
    commands = {
        "demo": _demo,
        "diagnose": _diagnose,
        "ls": _ls,
        "status": _status,
        "failures": _failures,
        "tables": _tables,
        "report": _report,
        "export-vector": _export,
        "data": _data,
        "doctor": _doctor,
        "wandb": _wandb,
        "import-checkpoint": _import_checkpoint,
        "export-checkpoint": _export_checkpoint,
    }
    if command not in commands:
        from benchmark.errors import nearest

        raise BenchError(f"unknown command '{command}'{nearest(command, ['run', *commands])}")
    return commands[command](rest)


def _demo(words: list[str]) -> int:
    parser = Parser(
        "lfpm-bench demo", description="The embedded experiment (conf/experiment/demo.yaml)."
    )
    parser.add_argument("words", nargs="*", help="further Hydra words, e.g. seed=0,1,2")
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for md, csv, html")
    parser.add_argument("--adopt", type=Path, help="also copy the records into this folder")
    args = parser.parse_args(words)
    from benchmark.cli import demo

    return demo(args.words, args.out, args.adopt)


def _diagnose(words: list[str]) -> int:
    parser = Parser(
        "lfpm-bench diagnose",
        description="Look at one cell: cross-task linearity per layer, mined prompts as pictures, "
        "CA and ASR along the line from undefended to defended (conf/diagnosis).",
    )
    parser.add_argument("words", nargs="+", help="Hydra words of one cell, e.g. defense=lfpm")
    parser.add_argument("--out", type=Path, default=Path("diagnostics"), help="folder to write to")
    args = parser.parse_args(words)
    from benchmark.diagnostics.command import diagnose

    return diagnose(args.words, args.out)


def _ls(words: list[str]) -> int:
    from benchmark.listing import GROUPS, listing

    parser = Parser("lfpm-bench ls", description="What there is to choose from.")
    parser.add_argument("group", help=", ".join(GROUPS))
    parser.add_argument("names", nargs="*", help="only these; patterns such as 'lfpm*', too")
    parser.add_argument("-v", "--verbose", action="store_true", help="paper, data seen, values")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(words)
    sys.stdout.write(
        listing(args.group, args.names, verbose=args.verbose, as_json=args.json) + "\n"
    )
    return 0


def _status(words: list[str]) -> int:
    from benchmark.progress import status

    return status(words)


def _failures(words: list[str]) -> int:
    from benchmark.progress import failures

    return failures(words)


def _tables(words: list[str]) -> int:
    parser = Parser("lfpm-bench tables", description="A table of the records in the store.")
    parser.add_argument("name", help="see `lfpm-bench ls tables`")
    parser.add_argument("words", nargs="*", help="the Hydra words it was run with, if any")
    parser.add_argument(
        "-f", "--format", default="md", help="md, tex, csv, html, json; or several, as md,tex"
    )
    parser.add_argument(
        "--records",
        type=Path,
        action="append",
        default=[],
        help="a folder of records, with `hits` beside it, or of such folders named after tables "
        "and experiments, instead of the store; may be repeated",
    )
    parser.add_argument(
        "--partial", action="store_true", help="also if cells are missing: rows say what and why"
    )
    parser.add_argument("--out", type=Path, help="write NAME.FORMAT here instead of printing")
    parser.add_argument("--adopt", type=Path, help="also copy the store's records into this folder")
    args = parser.parse_args(words)
    from benchmark.results import adopt, tables

    formats = args.format.split(",")
    made = tables(args.name, args.words, formats, args.records, partial=args.partial)
    if args.adopt is not None:
        adopt(args.name, args.words, args.adopt)
    for name, text in made.items():
        if args.out is None:
            sys.stdout.write(text)
        else:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / f"{args.name}.{name}").write_text(text)
    return 0


def _report(words: list[str]) -> int:
    parser = Parser(
        "lfpm-bench report",
        description="Tables, charts, triggers and a page per cell as a folder that opens offline.",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="NAME|WORD",
        help="tables (see `lfpm-bench ls tables`; none: all that have records), and the Hydra "
        "words they were run with, if any",
    )
    parser.add_argument(
        "--records", type=Path, help="a folder of records, or of such folders named after tables"
    )
    parser.add_argument("--partial", action="store_true", help="also if cells are missing")
    parser.add_argument(
        "--diagnostics", type=Path, help="where diagnoses are; or `diagnostics` in --records"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="the folder; FILE.html: a single page"
    )
    args = parser.parse_intermixed_args(words)
    from benchmark.reporting import report

    names = [word for word in args.words if "=" not in word]
    hydra = [word for word in args.words if "=" in word]
    path = report(names, hydra, args.records, args.diagnostics, args.out, partial=args.partial)
    sys.stderr.write(f"report: {path.resolve()}\n")
    return 0


def _data(words: list[str]) -> int:
    parser = Parser(
        "lfpm-bench data",
        description="Published data sets, in $LFPM_BENCH_DATA (docs/data.md). status: which can be "
        "used; fetch: download; decode: once, to images of the backbone's size; verify: hashes, "
        "counts, and the denominators of published ASRs.",
    )
    parser.add_argument("action", choices=("status", "fetch", "decode", "verify"))
    parser.add_argument("names", nargs="*", help="data sets (`lfpm-bench ls datasets`) or suites")
    parser.add_argument("--from", dest="origin", help="fetch: torchvision or hf")
    parser.add_argument("--size", type=int, default=224, help="side of the images (default: 224)")
    parser.add_argument("--at", type=Path, help="decode, verify: the folder one data set is in")
    parser.add_argument("--workers", type=int, help="decode: threads (default: all processors)")
    parser.add_argument(
        "--leave-out-unreadable", action="store_true", help="decode: go on without broken pictures"
    )
    parser.add_argument("--pictures", action="store_true", help="verify: read all pictures again")
    parser.add_argument("--json", action="store_true", help="status, verify: as JSON")
    args = parser.parse_args(words)
    from benchmark.data import command

    if args.action == "fetch":
        return command.fetch(args.names, args.origin)
    if args.action == "decode":
        asked = {"workers": args.workers, "leave_out": args.leave_out_unreadable}
        return command.decode(args.names, args.size, at=args.at, **asked)
    deep = {"deep": args.action == "verify", "pictures": args.pictures}
    return command.show(args.names, args.size, at=args.at, as_json=args.json, **deep)


def _export(words: list[str]) -> int:
    from benchmark.export import command

    return command(words)


def _export_checkpoint(words: list[str]) -> int:
    from benchmark.checkpoints.commands import give

    return give(words)


def _wandb(words: list[str]) -> int:
    from benchmark.tracking.command import wandb

    return wandb(words)


def _doctor(words: list[str]) -> int:
    parser = Parser(
        "lfpm-bench doctor",
        description="Look at this machine with the eyes of a run: Python, torch and torchvision, "
        "GPU and driver, disks, network, weights and images. 0: a run can start; 1: it cannot.",
    )
    parser.add_argument("words", nargs="*", help="the Hydra words of a run, e.g. suite=vit_b32_6")
    parser.add_argument(
        "--zero-shot",
        action="store_true",
        help="compare zero-shot accuracy on the suite's test images with known numbers",
    )
    parser.add_argument("--images", type=int, help="with --zero-shot: the first so many per task")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse_args(words)
    if args.images is not None and args.images < 1:
        raise BenchError(f"--images={args.images} is not valid: give a number from 1")
    from benchmark.doctor.command import doctor

    return doctor(args.words, zero_shot=args.zero_shot, limit=args.images, as_json=args.json)


def _import_checkpoint(words: list[str]) -> int:
    from benchmark.checkpoints.commands import take

    return take(words)


if __name__ == "__main__":
    sys.exit(main())
