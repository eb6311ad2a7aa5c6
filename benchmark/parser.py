"""The command line's words, read by argparse."""

from __future__ import annotations

import argparse
from typing import Any

from benchmark.errors import BenchError


class Parser(argparse.ArgumentParser):
    """argparse whose errors are BenchErrors: one sentence, exit code 2; flags in full only.

    Flags may stand anywhere between the words.
    """

    def __init__(self, prog: str, description: str | None = None, **options: Any) -> None:
        super().__init__(prog, description=description, allow_abbrev=False, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The words and flags, in any order."""
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> None:  # type: ignore[override]
        """Say what is wrong and where help is."""
        raise BenchError(f"{message} ({self.prog} --help shows what there is)")
