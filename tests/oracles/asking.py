"""A question: which peer, which of its functions, on what, and what we say ourselves.

Where a peer is known to answer otherwise, the question says why. Such a question fails if the two
answers agree after all: its reason would be out of date.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from tests.oracles.cases import Case

EXACT = 1e-12
"""Largest relative difference of float64 sums in another order."""
SPECTRAL = 1e-8
"""Of float64 decompositions; ours go through a Gram matrix."""
SINGLE = 1e-5
"""Where the peer computes in float32, or puts an epsilon of 1e-8 into a quotient or a logarithm."""

Verdict = Literal["agrees", "explained", "disagrees", "reason out of date"]
Reason = Callable[[str, str], str]
"""(peer, about) -> why the answers differ; "" where they must not."""
Settle = Callable[[Tensor, Case], Tensor]


@dataclass(frozen=True, eq=False)
class Question:
    """One call of a peer beside one of ours.

    Attributes:
        peer: a key of `environments.PEERS`.
        method: the merge it is about, as `ls merges` calls it, or a part of one.
        call: a function of `tests.oracles.ask_<peer>`.
        about: what the case is called.
        case: the tensors that both are given, by name.
        values: the call's other arguments, plain JSON.
        ours: our answer.
        tolerance: largest difference, relative to the largest number of our answer.
        because: why the answers differ; "" where they must agree.
        settle: what is compared, of the peer's answer.
    """

    peer: str
    method: str
    call: str
    about: str
    case: Case
    values: Mapping[str, Any]
    ours: Callable[[Case], Tensor]
    tolerance: float
    because: str
    settle: Settle

    @property
    def id(self) -> str:
        """Different for different questions."""
        values = ", ".join(f"{name}={value}" for name, value in self.values.items())
        return f"{self.peer}: {self.method}: {self.call}({values}): {self.about}"

    @property
    def inputs(self) -> str:
        """Equal for cases of equal tensors."""
        return f"{self.about}, {'/'.join(sorted(self.case))}"


def asked(
    method: str,
    ours: Callable[[Case], Tensor],
    cases: Mapping[str, Case] | Mapping[str, Tensor],
    *peers: tuple[str, str, Mapping[str, Any]],
    tolerance: float = EXACT,
    because: Reason | str = "",
    settle: Settle = lambda answer, case: answer,
) -> Iterator[Question]:
    """A question about each case to each peer, given as (peer, call, values).

    A bare tensor is the case `vectors`.
    """
    for about, case in cases.items():
        given = {"vectors": case} if isinstance(case, Tensor) else case
        for peer, call, values in peers:
            reason = because if isinstance(because, str) else because(peer, about)
            yield Question(
                peer, method, call, about, given, values, ours, tolerance, reason, settle
            )


@dataclass(frozen=True)
class Answered:
    """A question with its answer.

    `difference` is the largest, relative to the largest number of our answer (or absolute where
    that is 0); NaN where the peer gave none, or one of another shape, and then `said` tells.
    """

    question: Question
    difference: float
    said: str

    @property
    def verdict(self) -> Verdict:
        """Whether this is as it should be."""
        same = self.difference <= self.question.tolerance
        if self.question.because:
            return "reason out of date" if same else "explained"
        return "agrees" if same else "disagrees"


def compared(question: Question, answer: Tensor | None, error: str = "") -> Answered:
    """Put a peer's answer, or what it said instead, beside ours."""
    if answer is None:
        return Answered(question, math.nan, error or "no answer")
    ours, theirs = question.ours(question.case), question.settle(answer, question.case)
    if ours.shape != theirs.shape:
        said = f"an answer of shape {tuple(theirs.shape)}, not {tuple(ours.shape)}"
        return Answered(question, math.nan, said)
    size = float(ours.abs().max()) or 1.0
    return Answered(question, float((ours - theirs).abs().max()) / size, "")
