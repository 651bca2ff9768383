"""Models that a user names on the command line: a file of Keras's, or a function or class of Python's."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lightning_vgg.common.errors import ExperimentError
from parity_tests.frameworks import keras


def load_keras_model(name: str) -> keras.Model:
    """The model of a file, or that a function returns.

    Args:
        name: a ``.keras`` or ``.h5`` file, ``module:function`` or ``file.py:function``.

    Raises:
        ExperimentError: there is no such file or function, or Keras cannot read it without running code from it.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        raise ExperimentError(
            f"{name} is a folder: Keras 3 loads no SavedModel; save it with model.save('model.keras')"
        )
    if not path.exists() and ":" in name:
        model = _made_by(name)
        if not isinstance(model, keras.Model):
            raise ExperimentError(f"{name} returns {type(model).__name__}, not a Keras model")
        return model
    if not path.exists():
        raise ExperimentError(f"there is no file {name}")
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ExperimentError(f"{name} is no .keras or .h5 file: save the model with model.save('model.keras')")
    try:
        with warnings.catch_warnings():
            # Said of one that has not trained yet; of the optimizer its settings alone are read.
            warnings.filterwarnings("ignore", message="Skipping variable loading for optimizer")
            return keras.saving.load_model(path, safe_mode=True)
    except Exception as error:  # a bad file raises anything from BadZipFile to KeyError
        if own := _own_classes(path):
            raise ExperimentError(
                f"{name} has objects of classes that are not Keras's own: {', '.join(own)}; name a function that "
                "builds the model instead, as my_net.py:make_model"
            ) from None
        reason = str(error).strip().split("\n")[0]
        raise ExperimentError(f"Keras cannot read {name}: {reason or type(error).__name__}") from None


def _own_classes(path: Path) -> list[str]:
    """The classes in a .keras file that Keras does not have, each with the name of its object."""
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return []

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, list):
            for each in value:
                yield from walk(each)
        if isinstance(value, dict):
            if value.get("registered_name") and not str(value.get("module")).startswith("keras"):
                yield f"{value['class_name']} ({value.get('config', {}).get('name')!r})"
            yield from walk(list(value.values()))

    return list(walk(config))


def load_torch_module(name: str) -> nn.Module:
    """The module that a class or function makes without arguments: ``my_net.py:Net`` or ``package.module:make``.

    Raises:
        ExperimentError: there is no such class or function, or it makes no ``nn.Module``.
    """
    if ":" not in name:
        raise ExperimentError(f"{name} names no class or function: write it as my_net.py:Net or package.module:Net")
    module = _made_by(name)
    if not isinstance(module, nn.Module):
        raise ExperimentError(f"{name} makes {type(module).__name__}, not a torch.nn.Module")
    return module


def _made_by(name: str) -> Any:
    source, _, function = name.rpartition(":")
    sys.path.insert(0, os.getcwd())
    try:
        return getattr(_imported(source), function)()
    except (ImportError, AttributeError, OSError, SyntaxError, TypeError) as error:
        raise ExperimentError(f"{name}: {error}") from None
    finally:
        sys.path.remove(os.getcwd())


def _imported(source: str) -> ModuleType:
    """A module by its name, or from its file."""
    if not source.endswith(".py"):
        return importlib.import_module(source)
    path = Path(source).expanduser()
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # as its own classes expect
    spec.loader.exec_module(module)
    return module
