"""VGG networks from recipes in PyTorch Lightning.

::

    from lightning_vgg import fit

    run = fit("configs/quickstart.yaml", {"model.network.conv_block": "conv - batch norm - conv - maxpool"})
    run.test_acc, run.plot()

The names are those of :mod:`lightning_vgg.api`, found when they are first asked for: this import loads nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lightning_vgg.common.lazy import lazy_names

if TYPE_CHECKING:
    from lightning_vgg.api import (
        ExperimentError,
        RunFolder,
        build_network,
        compare_arms,
        evaluate,
        export_weights,
        extract_features,
        fit,
        load_images,
        measure_parity,
        parse_recipe,
        plan_network,
        predict_probabilities,
        report_runs,
        show_augmentation,
        show_network,
        show_run,
        train_twins,
        tune_settings,
    )

__all__ = [
    "ExperimentError",
    "RunFolder",
    "build_network",
    "compare_arms",
    "evaluate",
    "export_weights",
    "extract_features",
    "fit",
    "load_images",
    "measure_parity",
    "parse_recipe",
    "plan_network",
    "predict_probabilities",
    "report_runs",
    "show_augmentation",
    "show_network",
    "show_run",
    "train_twins",
    "tune_settings",
]

__getattr__, __dir__ = lazy_names(__name__, "lightning_vgg.api", __all__)
