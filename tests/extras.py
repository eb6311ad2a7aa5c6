"""`make test-extras`: the tests that need packages which the project itself does not."""

from __future__ import annotations

import subprocess
import sys

from tests.oracles.environments import FOLDER, ROOT, environment

PACKAGES = ("transformers>=4.46", "peft==0.21.2", "pyarrow>=15", "h5py>=3.10", "scipy>=1.11")
FILES = ("test_export_checkpoint", "test_lora", "test_published", "test_tables")
"""In tests/; each skips what lacks its package."""


def main() -> int:
    """Build the environment where it is not there, run the tests in it, say what was skipped."""
    python = environment(FOLDER / "extras", *PACKAGES)
    files = [f"tests/{name}.py" for name in FILES]
    words = ["-m", "pytest", "-rs", "-p", "no:cacheprovider", *files]
    return subprocess.run([python, *words], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
