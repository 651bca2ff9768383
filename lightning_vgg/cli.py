"""``lightning-vgg COMMAND``."""

from __future__ import annotations

from lightning_vgg.common.program import Program

_ROOM = "lightning_vgg.commands"

PROGRAM = Program(
    "lightning-vgg",
    "VGG networks from recipes, trained with PyTorch Lightning.",
    {
        "fit": (f"{_ROOM}.training", "train, then test the best checkpoint"),
        "validate": (f"{_ROOM}.training", "evaluate a checkpoint on the validation images"),
        "test": (f"{_ROOM}.training", "evaluate a checkpoint on the test images"),
        "predict": (f"{_ROOM}.predict", "classify image files with a trained run"),
        "show": (f"{_ROOM}.show", "pictures: layers, augmentation, filters, activations, mistakes, Grad-CAM"),
        "features": (f"{_ROOM}.features", "write the backbone's features of all images"),
        "export": (f"{_ROOM}.export", "write a run's weights, or its network, as a file: safetensors, ONNX, Keras"),
        "compare": (f"{_ROOM}.compare", "train arms over several seeds, and report how they compare"),
        "twin": (f"{_ROOM}.twin", "train once in both frameworks in float64: is it the same training?"),
        "report": (f"{_ROOM}.report", "report how runs compare: verdicts, curves, speed, in one HTML file"),
        "dashboard": (f"{_ROOM}.dashboard", "build the W&B project's workspace and report"),
        "tune": (f"{_ROOM}.tune", "search for the best settings of an experiment with Optuna"),
        "configs": (f"{_ROOM}.configs", "list the experiments that come with the package, or copy them"),
        "port": ("parity_tests.port", "turn a Keras model into an experiment, with proof that it is the same"),
        "parity": ("parity_tests.command", "measure how far Lightning and Keras differ on an experiment"),
    },
    "To begin:\n  lightning-vgg fit -c quickstart.yaml",
)
main = PROGRAM.main
run = PROGRAM.run
