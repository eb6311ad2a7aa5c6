"""Every command and snippet of the README is run, and its table is the one that results/ gives."""

import csv
import json
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from statistics import fmean

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


MERGES = {"table": "table_merges", "peft": "full", "attack": "badmerging_on"}
PEFT = {"table": "table_peft", "attack": "lobam_1", "merge": "task_arithmetic"}
HELD_OUT = {"table": "heldout_lfpm"}
FRESH = {"stress": "fresh_trigger", "attack": "badmerging_on", "merge": "task_arithmetic"}
CENTRE = "attack.place=center, attack.size=8"
SEVERAL = {"table": "adaptive", "attack": "several"}
TUNED = {"table": "table_lfpm"}
UNLEARNT = TUNED | {"defense": "prompt_unlearning"}
LABELS = {"table": "table_lfpm_labels", "merge": "task_arithmetic"}
SAID = [  # a piece of a sentence, and the row that its numbers are of: of several the highest ASR
    ("the mean ASR goes from {asr:.1f} to", HELD_OUT | {"defense": "none"}),
    ("On the {n_settings:.0f} settings above", HELD_OUT | {"defense": "lfpm"}),
    ("to {asr:.1f}, at no cost in clean accuracy", HELD_OUT | {"defense": "lfpm"}),
    ("model the same triggers get {asr:.1f}:", HELD_OUT | {"defense": "drop_attacker"}),
    ("; worst {asr_most:.1f}.", HELD_OUT | {"defense": "lfpm"}),
    ("loss of 3 points its line reaches {asr_at_3:.1f}", HELD_OUT | {"defense": "lfpm"}),
    ("There LFPM leaves {asr:.1f} at most", TUNED | {"defense": "lfpm"}),
    ("{asr:.0f} under Task Arithmetic,", UNLEARNT | {"merge": "task_arithmetic"}),
    ("{asr:.0f} under TIES and", UNLEARNT | {"merge": "ties"}),
    ("{asr:.0f} under averaging", UNLEARNT | {"merge": "simple_average"}),
    ("(where undefended has only {asr:.0f})",
     TUNED | {"merge": "simple_average", "defense": "none"}),
    ("nothing in those passes ({asr:.1f})", LABELS | {"defense": "ft_authors"}),
    ("with labels, it leaves {asr:.1f} (CA +", LABELS | {"defense": "ft_authors_long"}),
    ("LFPM leaves an ASR of {asr:.1f} ± {asr_sd:.1f} of", PEFT | {"defense": "lfpm"}),
    ("of {asr:.1f} (CA -", PEFT | {"defense": "none"}),
    ("(CA -{ca_drop:.1f}), at the price of {recall_drop:.0f} points", PEFT | {"defense": "lfpm"}),
    ("labelled `ft` ({asr:.1f})", PEFT | {"defense": "ft"}),
    ("`prompt_unlearning` ({asr:.1f}). Against LoBAM", PEFT | {"defense": "prompt_unlearning"}),
    ("scale 0.3 leaves {asr:.1f} at most", {"table": "transfer", "defense": "transfer"}),
    ("in nearly all (at most {asr:.0f}, DARE-TIES)", MERGES | {"attack": "badnets"}),
    ("(average {asr:.0f}, model", MERGES | {"merge": "simple_average"}),
    ("model stock {asr:.0f}; TSV-M", MERGES | {"merge": "model_stock"}),
    ("TSV-M {asr:.0f})", MERGES | {"merge": "tsv_m"}),
    ("here: {asr:.1f} after Task Arithmetic's", MERGES | {"merge": "ties"}),
    ("after Task Arithmetic's {asr:.1f}", MERGES | {"merge": "task_arithmetic"}),
    ("three seeds) get {asr:.1f} ± {asr_sd:.1f} % at their best",
     {"table": "adaptive_seeds", "attack": "adaptive_*", "defense": "lfpm", "n_seeds": "3"}),
    ("gets **{asr:.0f} ± {asr_sd:.0f} %** over three seeds "
     "(on the equally defended clean merge: {asr_defended_clean_merge:.0f};",
     FRESH | {"table": "adaptive_seeds", "defense": "lfpm", "n_seeds": "3"}),
    ("plain `prompt_unlearning`: {asr:.0f} ± {asr_sd:.0f}, which leaves",
     FRESH | {"table": "adaptive_seeds", "defense": "prompt_unlearning", "n_seeds": "3"}),
    ("leaves {asr:.0f} ± {asr_sd:.0f} of the planted one",
     {"table": "table_lfpm", "merge": "task_arithmetic", "defense": "prompt_unlearning"}),
    ("in the centre keeps {asr:.0f} ± {asr_sd:.0f} under LFPM (on the clean merge, undefended: "
     "{asr_clean_merge:.0f}):",
     {"table": "adaptive_seeds", "variant": CENTRE, "defense": "lfpm", "n_seeds": "3"}),
    ("the worst keeps {asr:.1f}, under", SEVERAL | {"defense": "lfpm"}),
    ("under `prompt_unlearning` {asr:.1f}, under", SEVERAL | {"defense": "prompt_unlearning"}),
    ("under the labelled `ft` {asr:.1f} and", SEVERAL | {"defense": "ft"}),
    ("and `pam` {asr:.1f}, under", SEVERAL | {"defense": "pam"}),
    ("(undefended {asr:.1f}, one seed)", SEVERAL | {"defense": "none"}),
    ("leaves {asr:.0f} ± {asr_sd:.0f} of LFPM's",
     FRESH | {"table": "ablation_fresh", "defense": "lfpm_soft"}),
    ("at two of the seeds (clean: {asr_defended_clean_merge:.0f})",
     FRESH | {"table": "ablation_fresh", "defense": "lfpm_soft"}),
    ("of LFPM's {asr:.0f} ± {asr_sd:.0f} at two",
     FRESH | {"table": "ablation_fresh", "defense": "lfpm"}),
    ("worth something, too ({asr:.0f} ± {asr_sd:.0f} without)",
     FRESH | {"table": "ablation_fresh", "defense": "lfpm_end"}),
]  # fmt: skip


def rows_of(table: str, **wanted: str) -> list[dict[str, str]]:
    """The rows of a committed table that have an ASR and whose cells match these patterns."""
    with (ROOT / "results" / table / f"{table}.csv").open() as file:
        found = [row for row in csv.DictReader(file) if row["asr"]]
    return [row for row in found if all(fnmatch(row[key], one) for key, one in wanted.items())]


@pytest.mark.parametrize(("sentence", "wanted"), SAID)
def test_the_numbers_of_its_sentences_are_those_of_the_tables(sentence, wanted):
    row = max(rows_of(**wanted), key=lambda one: float(one["asr"]))
    numbers = {key: float(row[key]) for key in re.findall(r"{(\w+):", sentence)}
    assert sentence.format(**numbers) in " ".join(README.split())


def test_what_is_left_by_place_is_the_mean_over_its_settings():
    rows = json.loads((ROOT / "results/heldout_lfpm/heldout_lfpm.json").read_text())["rows"]
    (own,) = (row["settings"] for row in rows if row["defense"] == "lfpm")
    corner, centre = (
        fmean(one["asr"] for one in own if one["setting"].endswith(place))
        for place in ("bottom_left", "center")
    )
    said = " ".join(README.split())
    assert f"In a corner {corner:.1f} is left; where the trigger" in said
    assert f"the object (the image's centre), {centre:.1f}; worst" in said


def test_no_defence_stands_everything():
    """Of those that all attackers and stresses were tried on."""
    rows = rows_of("adaptive")
    tried = {(row["attack"], row["stress"]) for row in rows}
    worst = {
        name: max(float(row["asr"]) for row in rows if row["defense"] == name)
        for name in {row["defense"] for row in rows}
        if {(row["attack"], row["stress"]) for row in rows if row["defense"] == name} == tried
    }
    said = " ".join(README.split())
    assert "no defence, labelled or not, is below 70 in its worst case" in said
    assert len(worst) == 18 + 3  # every defence, and none, zero_shot, drop_attacker
    assert min(worst.values()) >= 70
    assert "under all others 70 and more" in said
    told = ("lfpm", "ft", "pam", "prompt_unlearning", "zero_shot", "drop_attacker")
    others = [one for one in rows_of(**SEVERAL) if one["defense"] not in told]
    assert min(float(one["asr"]) for one in others) >= 70


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
