"""What shared adversarial unlearning measures (Wei et al., NeurIPS 2023), on class scores.

A backdoored model and its purified copy are compared on perturbed images: perturbations that fool
both in the same way are what a backdoor leaves behind.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(scores: Tensor) -> Tensor:
    """(B,) entropy in nats of the softmax of scores (B,C)."""
    log_p = scores.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """(B,) divergence in nats between the softmax of two scores (B,C), in [0, ln 2]."""
    one, two = first.log_softmax(1), second.log_softmax(1)
    middle = torch.logaddexp(one, two) - math.log(2)
    return (one.exp() * (one - middle) + two.exp() * (two - middle)).sum(1) / 2


def shared(scores: Tensor, labels: Tensor, reference: Tensor, reference_labels: Tensor) -> Tensor:
    """(B,) bool: both models leave their labels, and for the same class of this head.

    Args:
        scores: (B,C) of the model on perturbed images.
        labels: (B,) what it should say.
        reference: (B,C) of the reference model on the same images.
        reference_labels: (B,) what that should say.
    """
    found, theirs = scores.argmax(1), reference.argmax(1)
    return (found != labels) & (theirs != reference_labels) & (found == theirs)


def unshared_divergence(scores: Tensor, reference: Tensor, done: Tensor) -> Tensor:
    """Mean over the batch of the divergence of the images that are not `done` (B,) yet."""
    return jensen_shannon(scores, reference)[~done].sum() / len(scores)


def shared_risk(
    scores: Tensor, reference: Tensor, labels: Tensor, reference_clean: Tensor
) -> Tensor:
    """L_sar: mean over the batch of -log(1 - p(y~)), y~ the reference's class when perturbed.

    Only images count whose y~ is neither the label nor the reference's clean prediction. The
    authors average two forms of the logarithm, clamped at p = 0.001 and 1 - 1e-6; ours is exact for
    every p, and its slope by any score is at most 1.

    Args:
        scores: (B,C) of the model on perturbed images.
        reference: (B,C) of the reference model on the same images.
        labels: (B,).
        reference_clean: (B,) the reference's predictions without the perturbation.
    """
    wrong = reference.argmax(1)
    counted = (wrong != labels) & (wrong != reference_clean)
    taken = torch.nn.functional.one_hot(wrong, scores.shape[1]).bool()
    others = scores.masked_fill(taken, -torch.inf).logsumexp(1)
    return (scores.logsumexp(1) - others)[counted].sum() / len(scores)
