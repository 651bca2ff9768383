"""Settings that are null and may not be: parsers let null through for any type."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from lightning_vgg.common.errors import ExperimentError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def refuse_null(spec: DataclassInstance, place: str) -> None:
    """Raise ExperimentError for a setting that is null and may not be"""
    for each in fields(spec):
        if getattr(spec, each.name) is None and not str(each.type).endswith("| None"):
            raise ExperimentError(f"{place}.{each.name} must not be null: leave it out for its default")
