"""The command line's words, read by argparse; what is wrong with them in one sentence."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from benchmark.errors import BenchError, nearest

UNKNOWN = "unrecognized arguments: "
"""What argparse says of flags it does not know, and of the words after them."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are BenchErrors: one sentence, exit code 2; flags in full only.

    Flags may stand anywhere between the words.
    """

    def __init__(
        self,
        prog: str,
        description: str | None = None,
        epilog: str = "--offline: nothing is downloaded",
        **options: Any,
    ) -> None:
        super().__init__(
            prog, description=description, epilog=epilog, allow_abbrev=False, **options
        )

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:  # type: ignore[override]
        """As argparse, but words that may be left out are not asked for when others are missing."""
        if options.get("nargs") == "*":
            options = {"default": [], **options}
        return super().add_argument(*names, **options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """The words and flags, in any order."""
        return self.parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and where help is."""
        raise BenchError(f"{message} ({self.prog} --help shows what there is)")


@contextlib.contextmanager
def one_sentence(ours: str) -> Iterator[None]:
    """Let another package's argparse, too, say in one sentence what is wrong.

    Args:
        ours: a help text; its flags may have been meant as well as those of that package.
    """
    from unittest import mock  # takes long to import, and most commands do without

    def refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
        if not message.startswith(UNKNOWN):
            raise BenchError(message)
        words = message.removeprefix(UNKNOWN).split()
        flag = next((word for word in words if word.startswith("-")), words[0]).partition("=")[0]
        known = set(re.findall(r"--[a-z][\w-]+", ours + parser.format_usage()))
        raise BenchError(f"unknown flag {flag}{nearest(flag, known)}")

    with mock.patch.object(argparse.ArgumentParser, "error", refuse):
        yield
