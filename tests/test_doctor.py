"""Every finding has its fix; the exit code says whether a run can start."""

import json
from types import SimpleNamespace

import pytest

from benchmark.components import build, option, options
from benchmark.doctor import command, machine, probe
from benchmark.doctor.anchors import ANCHORS, Anchor
from benchmark.doctor.command import doctor
from benchmark.doctor.findings import can_start, error, ok, told, warning
from benchmark.doctor.machine import device, pair, places
from benchmark.doctor.suite import images
from benchmark.doctor.zero_shot import anchors_of, judged
from benchmark.records import Count

WELL = {
    "torch": "2.15.0", "torchvision": "0.29.2", "cuda": "13.2", "devices": [],
    "architectures": [], "bfloat16": False,
}  # fmt: skip
GPU = {"name": "NVIDIA H100", "memory": 80 * 2**30, "capability": [9, 0]}
NEW = {**WELL, "devices": [GPU], "architectures": ["sm_75", "sm_80", "sm_90"]}


def grades(findings) -> list[str]:
    found = list(findings)
    assert all(one.fix for one in found if one.grade != "ok")
    return [one.grade for one in found]


def test_the_pair_of_torch_and_torchvision():
    assert grades(pair(WELL)) == ["ok"]
    (found,) = pair({"error": "RuntimeError: operator torchvision::nms does not exist"})
    assert found.grade == "error"
    assert "one is built for CUDA" in found.what
    assert grades(pair({"error": "ModuleNotFoundError: No module named 'torch'"})) == ["error"]


def test_a_process_that_dies_is_a_finding(monkeypatch):
    monkeypatch.setattr(probe.sys, "executable", "/bin/false")
    assert "error" in probe.probe()


@pytest.mark.parametrize(
    ("asked", "found", "driver", "expected"),
    [
        ("cpu", WELL, None, ["ok"]),
        ("cpu", WELL, "570.1", ["warning", "ok"]),
        ("cuda", WELL, None, ["error"]),
        ("cuda", WELL, "470.2", ["warning", "error"]),
        ("cuda", NEW, "590.0", ["ok"]),
        ("cpu", NEW, "590.0", ["warning", "ok"]),
    ],
)
def test_devices(asked, found, driver, expected):
    assert grades(device(asked, found, driver)) == expected


@pytest.mark.parametrize(
    ("capability", "fits"), [([7, 0], False), ([7, 5], True), ([8, 6], True), ([10, 0], False)]
)
def test_a_gpu_needs_a_torch_that_is_built_for_it(capability, fits):
    found = {**NEW, "devices": [{**GPU, "capability": capability}]}
    assert grades(device("cuda", found, "1")) == (["ok"] if fits else ["error"])


def test_disks(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: SimpleNamespace(free=10 * 2**30))
    assert grades(places(tmp_path / "store", 2**30, 0)) == ["ok"]
    assert grades(places(tmp_path / "store", 2**40, 2**40)) == ["error", "error"]
    (tmp_path / "file").touch()
    assert grades(places(tmp_path / "file" / "store", 0, 0)) == ["error"]


def test_a_published_suite_on_a_bare_machine(tmp_path, monkeypatch, capsys):
    """Weights and all six data sets are missing; each is told with the command that gets it."""
    monkeypatch.setattr(command, "probe", lambda: WELL)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("LFPM_BENCH_DATA", str(tmp_path / "data"))
    words = ["suite=vit_b32_6", f"store={tmp_path / 'store'}"]
    assert doctor(words, zero_shot=True, limit=None, as_json=True) == 1
    body = json.loads(capsys.readouterr().out)
    assert body["can_start"] is False
    fixes = " ".join(one["fix"] for one in body["findings"] if one["grade"] == "error")
    assert "hf download timm/vit_base_patch32_clip_224.openai open_clip_model.safetensors" in fixes
    for task in option("suite", "vit_b32_6")["tasks"]:
        assert f"lfpm-bench data fetch {task}" in fixes
    assert "not measured" in json.dumps(body)


def test_images_that_nobody_may_pass_on_are_told_how_to_get(tmp_path, monkeypatch):
    monkeypatch.setenv("LFPM_BENCH_DATA", str(tmp_path))
    node = {**option("dataset", "fer2013"), "image_size": 16}
    (found,) = images([SimpleNamespace(datasets={"fer2013": build(node, "dataset")})])  # type: ignore[list-item]
    assert found.fix.startswith("get it by hand, or set LFPM_BENCH_DATA. Nobody may pass it on")
    assert "fer2013.csv" in found.fix


def test_the_embedded_suite_can_always_start(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "probe", lambda: WELL)
    assert doctor([f"store={tmp_path}"], zero_shot=False, limit=None, as_json=False) == 0
    out = capsys.readouterr().out
    assert out.endswith("a run can start\n")
    assert "drawn by this package" in out


def test_words_that_make_no_run_are_a_finding(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "probe", lambda: WELL)
    assert (
        doctor(["merge=tis", f"store={tmp_path}"], zero_shot=False, limit=None, as_json=False) == 1
    )
    assert "did you mean 'ties'" in capsys.readouterr().out


def test_what_is_to_be_done_stands_last():
    text = told([error("a", "b"), ok("c"), warning("d", "e")], as_json=False)
    assert [line.split()[0] for line in text.splitlines()] == [
        "ok", "warning", "fix:", "error", "fix:", "a",
    ]  # fmt: skip
    assert can_start([ok("c"), warning("d", "e")])
    assert not can_start([error("a", "b")])


def test_an_accuracy_is_judged_by_its_anchor_and_its_sampling_error():
    anchor = Anchor(60.0, 2.0, "somewhere")
    assert judged("cars", Count(6190, 10_000), anchor).grade == "ok"
    assert judged("cars", Count(6400, 10_000), anchor).grade == "error"
    assert judged("cars", Count(5600, 10_000), anchor).grade == "error"
    assert judged("cars", Count(64, 100), anchor).grade == "ok"  # 100 images say little
    assert judged("cars", Count(6190, 10_000), None).grade == "warning"


def test_anchors_are_of_known_models_and_tasks():
    names = {option("backbone", name)["name"] for name in options("backbone")} - {None}
    shipped = {option("backbone", "mini")["weights"]}
    assert ANCHORS.keys() == names | shipped
    for table in ANCHORS.values():
        assert table.keys() <= set(options("dataset"))
        assert all(0 < one.accuracy < 100 and one.source for one in table.values())
    published = set(option("suite", "vit_b32_6")["tasks"])
    assert published <= ANCHORS["ViT-B-32-quickgelu"].keys()
    mini = SimpleNamespace(backbone=SimpleNamespace(name=None, weights="package:mini.safetensors"))
    assert anchors_of(mini).keys() == set(option("suite", "mini")["tasks"])  # type: ignore[arg-type]
    nobody = SimpleNamespace(backbone=SimpleNamespace(name=None, weights="other.safetensors"))
    assert anchors_of(nobody) == {}  # type: ignore[arg-type]
