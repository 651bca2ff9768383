"""Keras's backend: its precision, and what run.json says of it."""

from __future__ import annotations

import importlib
import os
import platform
from typing import Any

import keras

from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.keras_support import PRECISIONS
from lightning_vgg.runs.machine import keep_freed_memory, processor_name, resident_memory, usable_cores

Tensor = Any
"""Of the backend that runs, symbolic or not."""
Logs = dict[str, float] | None
"""What Keras gives to a callback."""


def prepare_keras(precision: str, seed: int) -> None:
    """Set the precision of whatever is built from now on, seed every generator, and keep freed memory."""
    keep_freed_memory()
    policy = PRECISIONS[precision]
    keras.config.set_floatx("float64" if policy == "float64" else "float32")
    keras.config.set_dtype_policy(policy)
    keras.config.set_image_data_format("channels_last")  # a user's keras.json may say otherwise
    keras.utils.set_random_seed(seed)


def describe_backend() -> PlainDict:
    """The framework's part of run.json."""
    name = keras.config.backend()
    return {
        "framework": "keras",
        "backend": name,
        "versions": {"python": platform.python_version(), "keras": keras.__version__, name: _framework().__version__},
        "device": device_name(),
        "threads": threads(),
        "processes": 1,
    }


def device_name() -> str:
    """The first GPU, else the processor."""
    framework = _framework()
    match keras.config.backend():
        case "tensorflow":
            for gpu in framework.config.list_physical_devices("GPU"):
                return framework.config.experimental.get_device_details(gpu)["device_name"]
        case "torch" if framework.cuda.is_available():
            return framework.cuda.get_device_name()
        case "jax" if framework.default_backend() == "gpu":
            return framework.devices()[0].device_kind
    return processor_name()


def peak_memory() -> int:
    """Bytes: of the GPU where there is one, else the process's largest resident size."""
    framework = _framework()
    match keras.config.backend():
        case "tensorflow" if framework.config.list_physical_devices("GPU"):
            return framework.config.experimental.get_memory_info("GPU:0")["peak"]
        case "torch" if framework.cuda.is_available():
            return framework.cuda.max_memory_allocated()
        case "jax" if framework.default_backend() == "gpu":
            return framework.devices()[0].memory_stats()["peak_bytes_in_use"]
    return resident_memory()


def threads() -> int:
    """Threads that one operation may use."""
    framework = _framework()
    match keras.config.backend():
        case "tensorflow":  # 0 stands for what the variable says, or else for every core
            told = framework.config.threading.get_intra_op_parallelism_threads()
            return told or int(os.environ.get("TF_NUM_INTRAOP_THREADS", usable_cores()))
        case "torch":
            return framework.get_num_threads()
    return usable_cores()


def _framework() -> Any:
    """The backend's own package; Keras has loaded it, and its name is the backend's."""
    return importlib.import_module(keras.config.backend())
