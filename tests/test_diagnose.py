"""Diagnoses: what is written, what is drawn, and that the report takes it in."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark import config
from benchmark.__main__ import main
from benchmark.attacks.triggers import Patch
from benchmark.bench import Bench
from benchmark.cell import cell_from
from benchmark.components import build, component, option
from benchmark.context import Context, handing_order
from benchmark.diagnostics import findings as files
from benchmark.diagnostics.command import _cells
from benchmark.diagnostics.figures import drawings
from benchmark.diagnostics.findings import Curve, CurvePoint, Findings, Layer, Sheet
from benchmark.diagnostics.measure import unseen
from benchmark.diagnostics.settings import Beside, Diagnosis, words_beside
from benchmark.diagnostics.sheets import (
    CONTENT,
    GAP,
    PICTURE,
    cropped,
    given,
    prompted,
    prompts_of,
    sheet,
)
from benchmark.drawing import LINES, STYLE, standalone
from benchmark.errors import BenchError
from benchmark.jobs import Graph, plan_cell
from benchmark.lines import HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axes, Series, even_ticks, lines
from benchmark.optimisation.prompts import Given, new_pool
from benchmark.report import Page, render_report
from benchmark.store import Store
from benchmark.types import Expert, Grant, Merge, Model, Place, StateDict
from tests.small import ATTACKS, ROOT, WORDS
from tests.test_report import Balance, outward

LAYERS = ("block 1", "embedding", "logits")
KINDS = ("line", "ends", "middle_first", "middle_second")
SMALL = [
    *WORDS,
    *ATTACKS,
    "attack=badnets",
    "defense._target_=tests.test_diagnose.Moved",
    "diagnosis.images=5",
    "diagnosis.beside=[{label:smaller,words:['defense=scale_lambda']}]",
]


@component
class Moved:
    """A defence that takes no time: weights a step away, and random by-products."""

    version: ClassVar[int] = 1
    place: ClassVar[Place] = "after"

    @property
    def needs(self) -> tuple[Grant, ...]:
        return ()

    def accepts(self, merge: Merge) -> str | None:
        return None

    def __call__(
        self, merge: Merge, base: StateDict, experts: Sequence[Expert], ctx: Context
    ) -> Model:
        merged = merge(base, experts, ctx)
        rng = ctx.rng("moved")
        moved = {
            name: value + 0.01 * torch.randn(value.shape, generator=rng)
            for name, value in merged.encoder.items()
        }
        prompts = {f"prompt/{e.task}": torch.rand(3, 3, 32, 32, generator=rng) for e in experts}
        masks = {f"mask/{e.task}": torch.ones(3, 1, 32, 32) for e in experts}
        return replace(merged, encoder=moved, artifacts={**prompts, **masks})


def numbers(distance: float) -> dict[str, float]:
    of = {"distance": distance, "coefficient": 1 - distance}
    spread = {f"{name}_std": 0.01 for name in of} | {f"{name}_whole": of[name] for name in of}
    return {"samples": 4, **of, **spread}


def found(**changes) -> Findings:
    layers = [
        Layer(task, inputs, layer, kind, numbers(0.001 if kind == "line" else 0.1))
        for task in ("signs", "flags")
        for inputs in ("clean", "triggered", "prompted")
        for layer in LAYERS
        for kind in KINDS
    ]
    places = tuple(CurvePoint(s, 0.8 - s / 10, 1 - s / 2, 0.9) for s in (0.0, 1.0, 1.5))
    values: dict = {
        "names": {"suite": "mini", "attack": "a", "merge": "m", "defense": "lfpm"},
        "seed": 3,
        "key": "k",
        "command": "lfpm-bench diagnose <x>",
        "victims": ("signs",),
        "alpha": 0.5,
        "layers": tuple(layers),
        "curves": (Curve("lfpm", "k", places), Curve("end & only", "l", places)),
        "measured": "at most 20 test images per task",
        "sheets": (Sheet("signs", "prompts/signs.png", "signs: <left>"),),
        "missing": {"ibvs": "it failed"},
        "made": {"commit": "0123456789abcdef"},
    }
    return Findings(**{**values, **changes})


def folder(path: Path, findings: Findings) -> Path:
    for one in findings.sheets:
        (path / one.file).parent.mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 4), dtype=np.uint8)).save(path / one.file)
    return files.write(path, findings)


# -- words --


def test_words_of_a_cell_beside():
    words = ["attack=badnets", "defense=lfpm", "defense.descent.lr=0.1", "seed=1"]
    end = Beside(label="end", words=("defense=lfpm", "defense.path.rule=end"))
    assert words_beside(words, "lfpm", end) == [
        "attack=badnets", "defense.descent.lr=0.1", "seed=1",
        "defense=lfpm", "defense.path.rule=end",
    ]  # fmt: skip
    other = Beside(label="other", words=("defense=ibvs",))
    assert words_beside(words, "lfpm", other) == ["attack=badnets", "seed=1", "defense=ibvs"]
    longer = Beside(label="longer", words=("defense.passes=9",))
    assert words_beside(words, "lfpm", longer) == [*words, "defense.passes=9"]


def test_the_shipped_diagnosis_has_every_curve_and_so_has_the_committed_one():
    shipped = build(option("diagnosis", "standard"), "diagnosis")
    beside = [one.label for one in shipped.beside]
    assert beside == ["end point only", "ibvs"]
    made = json.loads((ROOT / "results/table_lfpm/diagnostics/diagnosis.json").read_text())
    assert [curve["label"] for curve in made["curves"]] == ["lfpm", *beside]
    assert not made["missing"]


# -- sheets --


def test_prompted_images_are_those_of_the_pool():
    settings = build(option("defense", "lfpm") | {"images": 9, "passes": 9}, "defense")
    kinds = {"frames": 2, "fulls": 1, "patches": 3, "places": "fixed", "goal": "away"}
    pool = new_pool(
        replace(settings.mining.prompts, **kinds), [5], 32, torch.Generator().manual_seed(0)
    )
    images = torch.rand(14, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    members = Given(torch.arange(14) % 6, torch.zeros(14, 2).long(), None)
    assert torch.equal(given(images, pool.values, pool.masks), pool.apply(images, members))


def test_prompts_are_found_among_by_products():
    one, mask = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, 4, 4)
    by_products = {"tau_a/w": one, "prompt/signs": one, "mask/signs": mask}
    assert list(prompts_of(by_products)) == ["signs"]
    assert prompts_of({"tau_a/w": one}) == {}


@pytest.mark.parametrize("count", [1, 16, 20])
def test_a_sheet_shows_the_trigger_and_every_prompt_enlarged(count):
    side, k = 32, 4
    masks = torch.zeros(count, 1, side, side)
    for at in range(count):
        masks[at, :, at : at + k, 2 : 2 + k] = 1
    values = masks.expand(-1, 3, -1, -1).clone()
    picture = torch.full((3, side, side), 0.2)
    trigger = Patch(torch.tensor([1.0, 0, 0]).view(3, 1, 1), side - 1, side - 1)
    pixels = sheet(picture, values, masks, trigger)
    cell, columns = CONTENT, min(count, 16)
    rows, space = -(-count // 16), 3 * GAP
    assert cell % k == 0
    left = PICTURE + space + cell + space
    height = max(2 * PICTURE + GAP, rows * (cell + GAP) - GAP)
    assert pixels.shape == (height, left + columns * (cell + GAP) - GAP, 4)
    red, white, dark = [255, 0, 0, 255], [255] * 4, [51, 51, 51, 255]
    assert pixels[PICTURE - 1, PICTURE - 1].tolist() == red  # the picture with the trigger
    assert pixels[0, 0].tolist() == dark
    assert pixels[PICTURE + GAP, 3 * 2].tolist() == white  # with the first prompt, at column 2
    assert pixels[PICTURE + GAP, 0].tolist() == dark
    own = pixels[:cell, PICTURE + space : PICTURE + space + cell]
    assert (own[-cell // k :, -cell // k :] == red).all()  # one pixel of k, bottom right
    assert (own[: cell // k, :, :3] == 128).all()
    assert (pixels[:cell, left : left + cell] == white).all()
    shown = (pixels[:, left:] == white).all(-1)
    assert shown.sum() == count * cell * cell
    assert pixels[:, PICTURE : PICTURE + space, 3].max() == 0


def test_whole_images_are_not_cropped_and_unchanged_ones_are_shown():
    pictures = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    frame = torch.ones(8, 8, dtype=torch.bool)
    frame[2:6, 2:6] = False
    assert torch.equal(cropped(pictures, torch.stack([frame, ~frame]))[0], pictures[0])
    assert cropped(pictures, torch.zeros(2, 8, 8, dtype=torch.bool)).shape == (2, 3, 1, 1)
    one = torch.zeros(2, 8, 8, dtype=torch.bool)
    one[0, 7, 1], one[1, 0:3, 0] = True, True
    found = cropped(pictures, one)
    assert torch.equal(found[0], pictures[0, :, 5:, 1:4])
    assert torch.equal(found[1], pictures[1, :, :3, :3])


def test_pasting_replaces_and_adding_adds():
    images = torch.full((2, 3, 2, 2), 0.5)
    masks = torch.tensor([[[[1.0, 0], [0, 1]]]]).expand(2, 1, 2, 2)
    values = torch.stack([torch.full((3, 2, 2), 0.2), torch.full((3, 2, 2), 0.2)]) * masks
    values[1, 0, 0, 0] = -0.7
    shown = prompted(images, values, masks)
    assert torch.allclose(shown[0, :, 0, 0], torch.full((3,), 0.2))
    assert torch.allclose(shown[1, :, 0, 0], torch.tensor([0.0, 0.7, 0.7]))
    assert (shown[:, :, 0, 1] == 0.5).all()


# -- lines --


def test_even_ticks_cover_the_range():
    assert even_ticks(0, 1.5, (0.25, 0.5)) == [(s / 4, f"{s / 4:.4g}") for s in range(7)]
    for low, high in ((0.95, 1.05), (-3.2, 0.1), (0, 100), (7, 7)):
        ticks = [value for value, _ in even_ticks(low, high, (0.01, 0.02, 0.1, 0.5, 1, 5, 20))]
        assert ticks[0] <= low + 1e-9
        assert ticks[-1] >= high - 1e-9
        assert 2 <= len(ticks) <= 8


def test_lines_are_where_the_axes_say_and_labels_stay_apart():
    axes = Axes("x & y", "up", [(0, "0"), (2, "2")], [(0, "0"), (10, "10")], "about <it>")
    many = [Series(f"s{at}", "rival", [(0, 0), (2, 10)]) for at in range(9)]
    svg = lines([Series("<me>", "subject", [(0, 0), (1, 20), (2, 5)], spread=[1, 1, 1])], axes)
    bottom = HEIGHT - 40
    middle = (TOP + bottom) / 2
    road = (
        f"M{LEFT}.0 {bottom}.0L{(LEFT + WIDTH - RIGHT) / 2:.1f} {TOP}.0L{WIDTH - RIGHT}.0 {middle}"
    )
    assert road in svg  # 20 is cut off at the top
    assert "&lt;me&gt;" in svg
    assert "x &amp; y" in svg
    assert "about &lt;it&gt;" in svg
    heights = [
        float(y) for y in re.findall(r'<text class="rival"[^>]* y="([^"]*)"', lines(many, axes))
    ]
    assert len(heights) == 9
    assert all(b - a > 12 for a, b in pairwise(heights))
    assert heights[0] > 0
    assert heights[-1] < HEIGHT


def test_a_drawing_of_its_own_carries_size_and_colours():
    svg = drawings(found())[0].svg
    text = standalone(svg, STYLE + LINES)
    assert text.startswith(f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}"')
    for word in set(re.findall(r'<\w+ class="([^"]+)"', svg)):
        assert any(f".{one}" in STYLE + LINES for one in word.split())
    with pytest.raises(ValueError, match="viewBox"):
        standalone("<p>", STYLE)


# -- findings --


def test_findings_survive_the_disk(tmp_path):
    path = folder(tmp_path / "one", found())
    assert files.read(path) == found()
    assert files.find(tmp_path) == [path]
    with (path.parent / "ctl.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 3 * 4
    assert rows[0]["distance"] == "0.001"
    assert (path.parent / "curves.csv").read_text().splitlines()[:2] == [
        "cell,alpha,ca,asr,target_recall",
        "lfpm,0.0,0.8,1.0,0.9",
    ]
    path.write_text("{}")
    with pytest.raises(BenchError, match="is no diagnosis"):
        files.read(path)


def test_figures_are_drawn_of_what_there_is():
    assert [one.name for one in drawings(found())] == [
        "ctl_distance", "ctl_coefficient", "curve_ca", "curve_asr",
    ]  # fmt: skip
    assert [one.name for one in drawings(found(curves=()))] == ["ctl_distance", "ctl_coefficient"]
    assert drawings(found(curves=(), layers=())) == []
    distance, _, _, asr = drawings(found())
    assert "10⁻³" in distance.svg
    assert "triggered, ends" in distance.svg
    assert asr.svg.count('<path class="line') == 3  # two cells and the undefended level
    assert "end &amp; only" in asr.svg
    assert "(at most 20 test images per task)" in asr.caption


def test_equal_models_have_a_distance_of_zero_which_a_logarithm_can_be_drawn_of():
    flat = tuple(Layer("signs", "clean", name, "line", numbers(0.0)) for name in LAYERS)
    assert "nan" not in drawings(found(layers=flat))[0].svg


def test_the_report_takes_a_diagnosis_in(tmp_path):
    path = folder(tmp_path, found())
    text = render_report(Page(tables=[], diagnoses=[path]))
    parser = Balance()
    parser.feed(text)
    assert parser.open == []
    links = outward(text)
    assert len(links) == 1
    assert links[0].startswith("data:image/png;base64,")
    assert "http" not in text
    for words in ("signs: &lt;left&gt;", "ibvs (it failed)", "0.999 ± 0.010", "diagnose &lt;x&gt;"):
        assert words in text
    assert "(commit 0123456789)" in text
    assert "(commit unknown)" in render_report(
        Page(tables=[], diagnoses=[folder(tmp_path / "outside", found(made={"commit": None}))])
    )
    assert text.count("<svg") == 4
    assert "Looked at" not in render_report(Page(tables=[]))


# -- the command --


def plan_of(words: list[str], store: Path) -> config.Plan:
    plan = config.plan([*words, f"store={store}"])
    assert plan is not None
    return plan


def computed(words: list[str], store: Path) -> None:
    """Every stage of the cells of a diagnosis, in this process: what `run` starts workers for."""
    plan = plan_of(words, store)
    settings = build(plan.runtime["diagnosis"], "diagnosis")
    graph = Graph(Store(store))
    for cell in _cells([*words, f"store={store}"], plan.configs[0], settings).values():
        plan_cell(graph, cell)
    for job in graph.jobs.values():
        here = Bench(cell_from(job.config), Store(store))
        getattr(here, job.call[0])(*job.call[1:])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, Path]:
    store, out = tmp_path_factory.mktemp("store"), tmp_path_factory.mktemp("out") / "diagnostics"
    computed(SMALL, store)
    assert main(["diagnose", *SMALL, f"store={store}", "--out", str(out)]) == 0
    return store, out


def test_the_command_writes_every_file(made):
    store, out = made
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {
        "diagnosis.json", "ctl.csv", "curves.csv",
        "ctl_distance.svg", "ctl_coefficient.svg", "curve_ca.svg", "curve_asr.svg",
        "prompts/signs.png", "prompts/flags.png", "prompts/faces.png",
    }  # fmt: skip
    seen = files.read(out / "diagnosis.json")
    assert seen.victims == ("signs",)
    assert [one.label for one in seen.curves] == ["none", "smaller"]
    assert [place.alpha for place in seen.curves[0].points] == [0.0, 1.0, 1.5]
    assert seen.curves[0].points[0] == seen.curves[1].points[0]  # both start undefended
    asked = {(layer.task, layer.inputs) for layer in seen.layers}
    assert asked == {
        (task, inputs)
        for task in ("signs", "flags", "faces")
        for inputs in ("clean", "prompted", "triggered")
        if inputs != "triggered" or task == "signs"
    }
    assert {layer.numbers["samples"] for layer in seen.layers} == {5}
    assert seen.measured == "at most 20 test images per task"
    assert "store=" not in seen.command
    assert len(seen.layers) == 7 * 4 * 5  # inputs, comparisons; three blocks, embedding, logits
    for layer in seen.layers:
        assert 0 <= layer.numbers["distance"] <= 1
    record = json.loads((store / "records" / f"{seen.key}.json").read_text())
    assert record["parents"]["model"]
    with Image.open(out / "prompts/signs.png") as picture:
        assert picture.mode == "RGBA"


def test_the_report_of_a_folder_finds_its_diagnoses(made, tmp_path, capsys):
    store, out = made
    words = ["attacks_defenses", "--records", str(store), "--diagnostics", str(out)]
    assert main(["report", *words, "--out", str(tmp_path / "r.html")]) == 0
    text = (tmp_path / "r.html").read_text()
    assert "Looked at: none after task_arithmetic of badnets" in text
    assert text.count("data:image/png") == 3
    assert not re.findall(r"(?:src|href)=.https?:", text)
    assert "report:" in capsys.readouterr().err


def test_several_cells_are_refused(tmp_path, capsys):
    assert main(["diagnose", "seed=0,1", f"store={tmp_path}"]) == 2
    assert "add -m" in capsys.readouterr().err


def test_cells_beside_are_told_apart(tmp_path):
    plan = plan_of(["defense=ibvs"], tmp_path)

    def labels(**beside: str) -> list[str]:
        others = tuple(Beside(label=k, words=(f"defense={v}",)) for k, v in beside.items())
        settings = Diagnosis(alpha=0.5, images=1, beside=others)
        return list(_cells(["defense=ibvs", f"store={tmp_path}"], plan.configs[0], settings))

    assert labels(same="ibvs", first="none", again="none") == ["ibvs", "first"]
    with pytest.raises(BenchError, match="two cells are called 'ibvs'"):
        labels(ibvs="none")


def test_a_folder_that_cannot_be_written_is_named(made, tmp_path, capsys):
    store, _ = made
    (tmp_path / "file").write_text("")
    words = [*SMALL, "diagnosis.beside=[]", f"store={store}"]
    assert main(["diagnose", *words[:-3], *words[-2:], "--out", str(tmp_path / "file/x")]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_without_images_to_look_at_it_says_so(made):
    cell = cell_from(plan_of(SMALL, made[0]).configs[0])
    everything = replace(cell.suite, granted=24)
    with pytest.raises(BenchError, match="none is left to look at"):
        unseen(Bench(replace(cell, suite=everything), Store(made[0])), "signs", 5)
    left = unseen(Bench(cell, Store(made[0])), "signs", 50)
    assert left.shape == (12, 3, 32, 32)
    granted = handing_order(0, "signs", "dev", 24)[:12]
    dev, _ = Bench(cell, Store(made[0])).split("signs", "dev")
    assert not any(torch.equal(one, dev[row] / 255) for one in left for row in granted)
