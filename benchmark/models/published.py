"""What open_clip knows of weights that others published: activation and preprocessing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmark.errors import BadCheckpoint
from benchmark.models.weights import HUB, hub_file

if TYPE_CHECKING:
    from benchmark.models.backbone import Backbone

CLOSE = 1e-6


def published(repo: str) -> list[tuple[str, dict[str, Any]]]:
    """(open_clip's model name, its entry) of every entry that lies in a repository of the hub."""
    from open_clip.pretrained import get_pretrained_cfg, list_pretrained

    entries = [(model, get_pretrained_cfg(model, tag)) for model, tag in list_pretrained()]
    return [(model, one) for model, one in entries if one.get("hf_hub", "").strip("/") == repo]


def check_published(backbone: Backbone) -> None:
    """Refuse published weights under another activation or another normalisation than theirs.

    open_clip itself only warns of the activation, and says nothing where weights come from a path
    (its issues 771, 915 and 1109); the features are then wrong and look right.

    Raises:
        BadCheckpoint: weights from a repository that open_clip knows do not fit the backbone.
    """
    if backbone.weights is None or not backbone.weights.startswith(HUB):
        return
    known = published(hub_file(backbone.weights)[0])
    for _, entry in known:
        theirs, ours = bool(entry.get("quick_gelu", False)), backbone.quick_gelu
        if theirs != ours:
            raise BadCheckpoint(
                f"backbone.weights={backbone.weights} was trained with quick_gelu="
                f"{str(theirs).lower()}, and backbone.model.quick_gelu={str(ours).lower()}; set "
                f"backbone.model.quick_gelu={str(theirs).lower()} and the name that goes with it"
            )
        for field in ("mean", "std"):
            apart = zip(getattr(backbone, field), entry[field], strict=True)
            if any(abs(one - other) > CLOSE for one, other in apart):
                raise BadCheckpoint(
                    f"backbone.{field} is not that of backbone.weights={backbone.weights}; "
                    f"set backbone.{field}={list(entry[field])}"
                )
