"""What a comparison trains: the dataclasses behind the YAML's ``compare`` section."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict


@dataclass(frozen=True)
class ArmSpec:
    """One configuration among those that are compared.

    Args:
        framework: lightning or keras.
        backend: of keras: tensorflow, torch or jax; null for tensorflow.
        settings: keys of the experiment that differ in this arm, by their dotted names: {model.semantics: torch}.
    """

    framework: Literal["lightning", "keras"]
    backend: Literal["tensorflow", "torch", "jax"] | None = None
    settings: dict[str, str | bool | int | float | list[Any] | dict[str, Any] | None] = field(default_factory=dict)


def default_arms() -> dict[str, ArmSpec]:
    """Lightning with Keras's defaults, Lightning with PyTorch's, and Keras on TensorFlow."""
    as_keras: PlainDict = {"model.semantics": "keras", "model.semantics_except": []}
    as_torch = {**as_keras, "model.semantics": "torch"}
    return {
        "lightning-keras": ArmSpec("lightning", settings=as_keras),
        "lightning-torch": ArmSpec("lightning", settings=as_torch),
        "keras": ArmSpec("keras", settings=as_keras),
    }


@dataclass(frozen=True)
class CompareSpec:
    """A comparison of configurations over seeds.

    Args:
        arms: name -> configuration, in the order of display.
        reference: the arm that the others are compared with.
        seeds: how many seeds each arm trains with: seed_everything and those that follow it; auto for as many as it
            takes to decide.
        max_seeds: with auto, the most.
        margin: difference of test accuracy, as a fraction, up to which arms count as equivalent; fixed beforehand.
        rounding: whether an arm is added that is Lightning by other kernels, where both frameworks train the same: are
            they farther apart than rounding takes them?
        ladder: whether the parity ladder is measured, too.
        ablation: whether the effect of each default is measured, too.
        horizon: whether it is measured, too, how long the frameworks stay together in each precision.
        twin: whether the experiment is trained by both frameworks in float64, too, where an arm is Keras's: are they
            the same training?
        twin_images: training images of the twin, at most as many as the experiment has.
        twin_epochs: its epochs, likewise.
    """

    arms: dict[str, ArmSpec] = field(default_factory=default_arms)
    reference: str = "keras"
    seeds: int | Literal["auto"] = 5
    max_seeds: int = 20
    margin: float = 0.01
    rounding: bool = True
    ladder: bool = True
    ablation: bool = True
    horizon: bool = True
    twin: bool = True
    twin_images: int = 2000
    twin_epochs: int = 2

    def __post_init__(self) -> None:
        for name, arm in self.arms.items():
            if not re.fullmatch(r"[A-Za-z0-9][\w-]*", name):
                raise ExperimentError(
                    f"compare.arms: {name!r} becomes part of folder names: use only letters, digits, - and _"
                )
            if arm.framework == "lightning" and arm.backend is not None:
                raise ExperimentError(
                    f"compare.arms.{name}.backend: {arm.backend} is a backend of Keras; Lightning runs on torch"
                )
        if self.reference not in self.arms:
            raise ExperimentError(
                f"compare.reference: there is no arm {self.reference!r}; the arms are {', '.join(self.arms)}"
            )
        if self.seeds != "auto" and self.seeds < 1:
            raise ExperimentError(f"compare.seeds must be at least 1, or auto, not {self.seeds}")
        if self.max_seeds < 2:
            raise ExperimentError(f"compare.max_seeds must be at least 2, not {self.max_seeds}")
        if min(self.twin_images, self.twin_epochs) < 1:
            raise ExperimentError("compare.twin_images and compare.twin_epochs must be at least 1")
        if not 0 < self.margin < 1:
            raise ExperimentError(f"compare.margin is a fraction such as 0.01, for one point, not {self.margin}")
