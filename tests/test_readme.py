"""Every command and snippet of the README is run, and its table is the one that results/ gives."""

import re
import shlex
from pathlib import Path

import pytest

from benchmark.readme import SHOWN, filled
from benchmark.tables import layout
from tests.small import ATTACKS, ROOT, WORDS, bench

README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for text in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in text.splitlines()
    if line.strip()
]
CI = (ROOT / ".ci/run").read_text()


def test_there_are_commands():
    assert len(COMMANDS) > 7


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("make")])
def test_make_targets_are_run_by_ci(command):
    assert command in CI


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.parametrize("command", [one for one in COMMANDS if one.startswith("lfpm-bench")])
def test_commands_run(command, store):
    words = shlex.split(command)[1:]
    if words[0] == "run" and "--cfg" not in words:
        # The same command on a suite that takes seconds.
        words += [*WORDS, *ATTACKS, "defense=none"] if "-m" not in words else [*WORDS, *ATTACKS]
        words = ["seed=0" if word == "seed=0,1,2" else word for word in words]
        words = [w for w in words if w != "experiment=attacks_defenses"]
    elif words[0] == "diagnose":
        words += [*WORDS, *ATTACKS, "defense=none", "diagnosis.beside=[]"]
    if words[0] in ("diagnose", "report"):
        words += ["--out", str(store / words[0])]
    done = bench(*words, store=store)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_python_snippet_runs():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    names: dict = {}
    exec(code, names)
    assert names["merged"]["weight"].shape == (4,)


def test_the_tables_are_what_the_records_give():
    assert [found[3] for found in SHOWN.finditer(README)] == ["demo", "heldout_lfpm"]
    assert filled(README) == README
    other = README.replace("| lfpm ", "| mine ")
    assert other != README
    assert filled(other) == README


def test_every_table_has_its_definitions_beside_it():
    for found in SHOWN.finditer(README):
        assert layout(found[3]).caption in found[4]


def test_the_property_table_is_that_of_the_docs():
    docs = (ROOT / "docs/mini_suite.md").read_text()
    start = README.index("| property | mini |")
    rows = README[start : README.index("\n\n", start)]
    assert rows in docs
    assert rows.count("\n") > 6


def test_links_lead_somewhere():
    for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            if "://" not in link:
                assert (path.parent / link).exists(), f"{path.name} links to {link}"


def test_pages_that_help_texts_name_are_there():
    named = {
        page
        for folder in ("benchmark", "baselines", "lfpm", "conf")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".j2")
        for page in re.findall(r"docs/\w+\.md", path.read_text())
    }
    assert len(named) > 3
    assert not [page for page in named if not (ROOT / page).exists()]
