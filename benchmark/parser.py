"""How the command reads its words."""

from __future__ import annotations

import argparse

from benchmark.errors import BenchError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are BenchErrors: one sentence, exit code 2; flags in full only."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Raise instead of leaving the process."""
        raise BenchError(f"{message} ({self.prog} --help shows what there is)")
