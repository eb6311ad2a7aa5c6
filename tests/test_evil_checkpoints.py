"""Malicious and broken checkpoints: each refused in one sentence, with nothing run or written."""

import io
import os
import pickle
import pickletools
import struct
import sys
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save, save_file

from benchmark.checkpoints.importing import Wish, import_checkpoint
from benchmark.errors import BadCheckpoint
from benchmark.models.backbone import image_tower
from tests import tiny
from tests.tiny import copied

MAGIC = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
WISH = Wish("cars", activation="gelu")


def clip(seed: int = 1) -> dict:
    return copied(tiny.BACKBONE.build(seed).state_dict())


class Calls:
    """Unpickled the usual way, it calls."""

    def __init__(self, function, *args):
        self.what = function, args

    def __reduce__(self):
        return self.what


class Stored(pickle.Pickler):
    """Writes a tuple that begins with "pid" as a persistent id."""

    def persistent_id(self, obj):
        return obj[1] if isinstance(obj, tuple) and obj[:1] == ("pid",) else None


def pickled(value: object, protocol: int = 2) -> bytes:
    out = io.BytesIO()
    Stored(out, protocol).dump(value)
    return out.getvalue()


def zipped(path: Path, pickle_: bytes, extra: dict | None = None, **how) -> None:
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("archive/data.pkl", pickle_)
        archive.writestr("archive/version", "3\n")
        for name, data in (extra or {}).items():
            archive.writestr(name, data)


def tensor(storage: object, shape: tuple, strides: tuple, offset: int = 0) -> Calls:
    return Calls(
        torch._utils._rebuild_tensor_v2, storage, offset, shape, strides, False, OrderedDict()
    )


def stored(count: object, key: object = "0", kind: object = torch.FloatStorage) -> tuple:
    return "pid", ("storage", kind, key, "cpu", count)


def marker(path: Path) -> Path:
    return path.parent / "it ran"


def touching(path: Path) -> str:
    return f"touch '{marker(path)}'"


# Each writes a file that is to be refused; its words are to be in the sentence.


def system_in_zip(path):
    """posix.system named"""
    zipped(path, pickled({"a": Calls(os.system, touching(path))}))


def system_in_stream(path):
    """posix.system named"""
    parts = [*map(pickled, MAGIC), pickled(Calls(os.system, touching(path))), pickled([])]
    path.write_bytes(b"".join(parts))


def system_instead_of_a_checkpoint(path):
    """posix.system named"""
    path.write_bytes(pickled(Calls(os.system, touching(path)), 4))


def system_inside_the_weights(path):
    """posix.system named"""
    torch.save(
        {"visual.conv1.weight": torch.zeros(2), "note": Calls(os.system, touching(path))}, path
    )


def nested_calls(path):
    """builtins.eval named"""
    inner = Calls(eval, f"__import__('os').system({touching(path)!r})")
    zipped(path, pickled(OrderedDict(a=Calls(OrderedDict, [["b", inner]]))))


def evaluated(path):
    """builtins.eval named"""
    zipped(path, pickled(Calls(eval, f"open({str(marker(path))!r}, 'w')"), 0))


def imported_module(path):
    """builtins.__import__ named"""
    zipped(path, pickled(Calls(__import__, "antigravity")))


def called_what_a_call_returned(path):
    """what another call returned"""
    # collections.OrderedDict() (), spelled out, with no name that is not allowed.
    zipped(path, b"\x80\x02ccollections\nOrderedDict\n)R)R.")


def attribute_with_underscores(path):
    """builtins.getattr called"""
    zipped(path, pickled(Calls(getattr, OrderedDict, "__reduce__")))


def loader_of_another_package(path):
    """torch.hub.load called"""
    zipped(path, pickled(Calls(torch.hub.load, "somebody/something", "model")))


def function_by_its_dotted_path(path):
    """pickle.loads named"""
    zipped(path, pickled(Calls(pickle.loads, pickled(Calls(os.system, touching(path))))))


def class_that_is_changed(path):
    """change a class or a function"""
    zipped(path, b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x01\x00\x00\x00aK\x01sb.")


def extension_registry(path):
    """uses EXT1"""
    zipped(path, b"\x80\x02\x82\x01.")


def persistent_id_of_no_storage(path):
    """persistent id"""
    zipped(path, pickled({"a": ("pid", ("module", "os.system", "x"))}))


def persistent_id_in_text(path):
    """persistent id"""
    zipped(path, b"\x80\x02Pcos\nsystem\n.")


def persistent_id_with_another_class(path):
    """tensor data of type"""
    zipped(path, pickled({"a": tensor(stored(4, kind=torch.nn.Linear), (4,), (1,))}))


def key_that_leads_out(path):
    """not there in full"""
    state = {
        f"{name}": tensor(stored(1, "../../../etc/passwd"), (1,), (1,))
        for name in image_tower(clip())
    }
    zipped(path, pickled(state))


def path_that_leads_out(path):
    """leads out"""
    zipped(path, pickled({}), {"../it ran": b"x"})


def absolute_path(path):
    """leads out"""
    zipped(path, pickled({}), {str(marker(path)): b"x"})


def symbolic_link_inside(path):
    """symbolic link"""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled({}))
        info = zipfile.ZipInfo("archive/data/0")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")


def name_twice(path):
    """a name twice"""
    with pytest.warns(UserWarning, match="Duplicate"):
        zipped(path, pickled({}), {"archive/data.pkl": pickled({})})


def bomb(path):
    """compressed"""
    zipped(path, pickled({}), {"archive/data/0": bytes(2**24)}, compression=zipfile.ZIP_DEFLATED)


def sizes_beyond_the_file(path):
    """claims to hold"""
    zipped(path, pickled({}), {"archive/data/0": b"1234"})
    data = bytearray(path.read_bytes())
    entry = data.rindex(b"archive/data/0") - 46  # of the central directory
    assert data[entry : entry + 4] == b"PK\x01\x02"
    data[entry + 24 : entry + 28] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(bytes(data))


def cut_off_zip(path):
    """cut off"""
    torch.save(clip(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def damaged_zip(path):
    """is broken"""
    torch.save(image_tower(clip()), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(bytes(data))


def cut_off_stream(path):
    """cut off"""
    torch.save(image_tower(clip()), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:-500])


def huge_number_of_bytes(path):
    """broken pickle"""
    path.write_bytes(b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.")


def huge_count_in_stream(path):
    """cut off"""
    state = {"a": tensor(stored(2**40), (1,), (1,))}
    parts = [*map(pickled, [*MAGIC, state, ["0"]]), struct.pack("<q", 2**40), bytes(8)]
    path.write_bytes(b"".join(parts))


def negative_count_in_stream(path):
    """cut off"""
    state = {"a": tensor(stored(4), (1,), (1,))}
    parts = [*map(pickled, [*MAGIC, state, ["0"]]), struct.pack("<q", -4), bytes(8)]
    path.write_bytes(b"".join(parts))


def huge_tensor_of_one_number(path):
    """in 1 numbers"""
    zipped(
        path, pickled({"a": tensor(stored(1), (10**6, 10**6), (0, 0))}), {"archive/data/0": b"1234"}
    )


def view_beyond_its_storage(path):
    """in 4 numbers"""
    zipped(
        path, pickled({"a": tensor(stored(4), (4,), (1,), offset=1)}), {"archive/data/0": bytes(16)}
    )


def negative_stride(path):
    """cannot be"""
    zipped(
        path,
        pickled({"a": tensor(stored(4), (4,), (-1,), offset=3)}),
        {"archive/data/0": bytes(16)},
    )


def storage_smaller_than_told(path):
    """not there in full"""
    state = {name: tensor(stored(4096), (1,), (1,)) for name in image_tower(clip())}
    zipped(path, pickled(state), {"archive/data/0": bytes(16)})


def tuples_that_take_for_ever_to_hash(path):
    """as a key"""
    one: tuple = ()
    for _ in range(200):
        one = (one, one)
    body = pickletools.optimize(pickle.dumps(one, 4))[:-1]
    path.write_bytes(b"\x80\x04}" + body[2:] + b"K\x01s.")


def modules_within_themselves(path):
    """none that can be read"""

    # A module among its own children, and each of 40 twice among the next one's.
    class Module:
        pass

    one = Module()
    one._parameters, one._modules = {}, {}
    for _ in range(40):
        above = Module()
        above._parameters, above._modules = {}, {"a": one, "b": one}
        one = above
    Module.__module__, Module.__qualname__ = __name__, "Module"
    globals()["Module"] = Module
    zipped(path, pickled(one))
    del globals()["Module"]


def torchscript(path):
    """TorchScript"""
    zipped(path, pickled({}), {"archive/code/__torch__.py": b"def forward(self): ..."})


def zip_of_something_else(path):
    """one data.pkl"""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<x/>")


def wrong_shapes(path):
    """conv1.weight is (32, 3, 4, 4), not (32, 3, 8, 8)"""
    save_file({**image_tower(clip()), "conv1.weight": torch.zeros(32, 3, 4, 4)}, path)


def tensor_missing(path):
    """ln_post.bias is missing"""
    save_file({k: v for k, v in image_tower(clip()).items() if k != "ln_post.bias"}, path)


def tensor_unknown(path):
    """unknown beside the image tower: visual_head.0, visual_head.1"""
    extra = {f"visual_head.{i}": torch.zeros(2) for i in range(2)}
    save_file({**clip(), **extra}, path)


def another_depth(path):
    """transformer.resblocks.1.attn.in_proj_bias is extra"""
    deeper = {**tiny.MODEL, "vision_cfg": {**tiny.MODEL["vision_cfg"], "layers": 2}}
    state = replace(tiny.BACKBONE, model=deeper).build(0).state_dict()
    save_file(image_tower(state), path)


def not_a_number(path):
    """proj is not finite"""
    save_file({**image_tower(clip()), "proj": torch.full((32, 16), float("nan"))}, path)


def too_large_for_float32(path):
    """proj is not finite"""
    torch.save(
        {**image_tower(clip()), "proj": torch.full((32, 16), 1e300, dtype=torch.float64)}, path
    )


def whole_numbers(path):
    """proj is int64"""
    torch.save({**image_tower(clip()), "proj": torch.zeros(32, 16, dtype=torch.int64)}, path)


def text_tower_alone(path):
    """no image tower"""
    save_file({k: v for k, v in clip().items() if not k.startswith("visual.")}, path)


def residual_network(path):
    """no image tower"""
    save_file(
        {"visual.conv1.weight": torch.zeros(2), "visual.attnpool.c_proj.bias": torch.zeros(2)}, path
    )


def two_towers(path):
    """2 image towers"""
    tower = image_tower(clip())
    save_file({f"{side}.visual.{k}": v.clone() for side in "ab" for k, v in tower.items()}, path)


def broken_safetensors(path):
    """broken safetensors"""
    path.write_bytes(save(image_tower(clip()))[:-100])


def safetensors_with_a_huge_header(path):
    """broken safetensors"""
    path.write_bytes(struct.pack("<Q", 2**60) + b'{"a":' + bytes(100))


def number_instead_of_a_model(path):
    """neither a model nor a state dict"""
    torch.save([1, 2], path)


def results_instead_of_a_model(path):
    """no tensors by name (accuracy, epoch)"""
    torch.save({"epoch": 3, "accuracy": 0.5}, path)


def pointer_of_git_lfs(path):
    """git lfs pull"""
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 454000000\n")


def web_page(path):
    """a web page"""
    path.write_text("<!DOCTYPE html><html><title>Virus scan warning</title></html>")


def empty_file(path):
    """0 bytes"""
    path.write_bytes(b"")


def no_file(path):
    """no such file"""


def dangling_link(path):
    """no such file"""
    path.symlink_to(path.parent / "nowhere")


def loop_of_links(path):
    """links"""
    other = path.parent / "other"
    path.symlink_to(other)
    other.symlink_to(path)


def device(path):
    """no regular file"""
    path.symlink_to("/dev/zero")


def pipe(path):
    """no regular file"""
    os.mkfifo(path)


def folder_of_nothing(path):
    """a folder without any of"""
    path.mkdir()


def adapter_without_settings(path):
    """without its adapter_config.json"""
    path.mkdir()
    save_file({"a": torch.zeros(1)}, path / "adapter_model.safetensors")


def settings_that_are_none(path):
    """config.json"""
    path.mkdir()
    save_file(image_tower(clip()), path / "model.safetensors")
    (path / "config.json").write_text("[" * 100_000)


EVIL = [
    value
    for value in list(globals().values())
    if getattr(value, "__module__", "") == __name__ and getattr(value, "__code__", None)
    and value.__code__.co_varnames[:1] == ("path",) and value.__code__.co_argcount == 1
    and value.__doc__
]  # fmt: skip


def test_there_are_many():
    assert len(EVIL) > 50


def expected(writer) -> str:
    """The words of the sentence that a writer's docstring stands for."""
    said = writer.__doc__.strip()
    if said.endswith(" named"):
        return f"it names {said.removesuffix(' named')}, which no checkpoint needs"
    if said.endswith(" called"):
        return f"it would call {said.removesuffix(' called')}, which no checkpoint needs"
    return said


@pytest.mark.parametrize("writer", EVIL, ids=lambda one: one.__name__)
@pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")
def test_refused_by_name_and_without_effect(writer, tmp_path):
    path, out = tmp_path / "given", tmp_path / "out/cars.safetensors"
    save_file(clip(0), tmp_path / "base.safetensors")
    writer(path)
    before, modules = sorted(tmp_path.rglob("*")), set(sys.modules)
    backbone = replace(tiny.BACKBONE, weights=str(tmp_path / "base.safetensors"))
    with pytest.raises(BadCheckpoint) as caught:
        import_checkpoint(path, WISH, backbone, ("cars",), out)
    sentence = str(caught.value)
    assert sentence.startswith(f"{path} is not imported: ")
    assert expected(writer) in sentence
    assert "\n" not in sentence
    assert len(sentence) < 1200
    assert sorted(tmp_path.rglob("*")) == before
    assert not {"antigravity"} & (set(sys.modules) - modules)


def test_unpickled_the_usual_way_they_do_run(tmp_path):
    """So that the tests above test something."""
    system_instead_of_a_checkpoint(tmp_path / "x")
    pickle.loads((tmp_path / "x").read_bytes())  # noqa: S301 (its own)
    assert marker(tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("wish", "change", "words"),
    [
        (Wish("cars"), {}, "does not tell its activation"),
        (Wish("cars", "quickgelu"), {}, "it computes quickgelu, the suite's encoder gelu"),
        (Wish("cars", "gelu"), {"hidden_act": "quick_gelu"}, "it tells quickgelu itself"),
        (Wish("cars"), {"hidden_act": "gelu", "num_attention_heads": 4}, "4 attention heads, the"),
    ],
)
def test_another_encoder_is_refused(wish, change, words, tmp_path):
    save_file(image_tower(clip()), tmp_path / "base.safetensors")
    save_file(clip(0), tmp_path / "base.safetensors")
    save_file(image_tower(clip()), tmp_path / "model.safetensors")
    if change:
        import json

        (tmp_path / "config.json").write_text(json.dumps(change))
    backbone = replace(tiny.BACKBONE, weights=str(tmp_path / "base.safetensors"))
    with pytest.raises(BadCheckpoint, match=words):
        import_checkpoint(tmp_path, wish, backbone, ("cars",), tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
