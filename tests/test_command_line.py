"""What is wrong with a command is one sentence that names it; help is help with that command."""

import os
import subprocess
import sys

import pytest

from benchmark.__main__ import main
from tests.small import ROOT


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("status /foo", "unknown experiment '/foo'"),
        ("failures /x", "unknown experiment '/x'"),
        ("status **x", "unknown experiment '**x'"),
        ("run --rety-failed attack=none", "unknown flag --rety-failed (did you mean '--retry-fai"),
        ("run --multirn seed=0,1", "unknown flag --multirn (did you mean '--multirun'?)"),
        ("run --cfg jobb", "invalid choice: 'jobb'"),
        ("tables", "the following arguments are required: name ("),
        ("wandb", "the following arguments are required: action ("),
        ("status", "the following arguments are required: experiment ("),
        ("status demo --watch --json", "argument --json: not allowed with argument --watch"),
        ("tables demo --records {}/nosuch", "--records={}/nosuch does not exist; name a folder"),
        ("tables demo --records {}/file", "--records={}/file is a file, not a folder"),
        ("tables demo --records {}", "--records={}: no KEY.json is in it, nor in `records` below"),
        ("tables demo -f md,pdf --records {}", "unknown table format 'pdf'"),
        ("ls merges tis", "nothing in merges is called 'tis' (did you mean 'ties'?)"),
        ("report demo --records {}/nosuch", "--records={}/nosuch does not exist"),
    ],
)
def test_a_wrong_word_is_one_sentence_that_names_it(command, sentence, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(command.format(tmp_path).split()) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert sentence.format(tmp_path) in told.err


def test_help_of_run_is_ours_and_says_where_the_rest_is(capsys):
    assert main(["run", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 30
    for flag in ("--retry-failed", "--plan ID", "--cfg job", "--hydra-help"):
        assert sum(line.startswith(f"  {flag}") for line in lines) == 1
    with pytest.raises(SystemExit, match="0"):
        main(["run", "--hydra-help"])
    assert "--multirun,-m" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["wandb", "--help"])
    assert "\n--offline: nothing is sent" in capsys.readouterr().out


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_what_nobody_reads_ends_without_a_word(unbuffered):
    """As `lfpm-bench ls merges -v | head -1`, whether it is written at once or at the end."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "benchmark", "ls", "merges", "-v"],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        text=True,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_name_cut_short_is_completed_before_a_similar_one(capsys):
    assert main(["export", "x"]) == 2
    assert "unknown command 'export' (did you mean 'export-checkpoint'?)" in capsys.readouterr().err
    assert main(["tables", "table_lfmp"]) == 2
    assert "(did you mean 'table_lfpm'?)" in capsys.readouterr().err
