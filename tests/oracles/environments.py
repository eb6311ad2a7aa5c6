"""An environment for each peer, beside the project's own and never part of it.

It sees the project's packages behind its own, so that torch is not installed again: a peer brings
only what the project lacks, or has in a version that the peer does not want.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".oracles"
PEERS = {
    "mergekit": "mergekit==0.1.5",
    "peft": "peft==0.21.2",
    "fusion_bench": "fusion-bench==0.2.33",
}
"""Peer, by its import name -> what pip installs."""
SHARED = ("torch", "torchvision")
"""Packages that must stay the project's own: another torch would be another arithmetic."""


def ready(peer: str, folder: Path = FOLDER) -> Path:
    """The Python of a peer's environment, which is built first where it is not there."""
    return environment(folder / peer, PEERS[peer])


def environment(home: Path, *requirements: str) -> Path:
    """The Python of an environment that has these behind the project's own packages."""
    python, marker, wanted = home / "bin" / "python", home / ".ready", " ".join(requirements)
    if not marker.exists() or marker.read_text() != wanted:
        _build(home, requirements)
        marker.write_text(wanted)
    return python


def _build(home: Path, requirements: Sequence[str]) -> None:
    """A fresh environment with the requirements, from whatever index pip is set up to use."""
    python = home / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--clear", home], check=True)
    # Directories in a .pth file stand behind the environment's own in sys.path.
    asked = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    own = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    (Path(own) / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pins = home / "constraints.txt"
    pins.write_text("".join(f"{name}=={_version(name)}\n" for name in SHARED))
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", pins, *requirements], check=True)


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)
