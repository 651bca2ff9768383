"""``keras-reference COMMAND``."""

from __future__ import annotations

from lightning_vgg.common.program import Program

_MODULE = "keras_reference.command_line"

PROGRAM = Program(
    "keras-reference",
    "The experiments of lightning-vgg, trained with Keras.",
    {
        "fit": (_MODULE, "train in Keras, then test the best checkpoint"),
        "test": (_MODULE, "evaluate the best checkpoint of a run on the test images"),
        "features": (_MODULE, "write the backbone's features of all images"),
        "export": (_MODULE, "write a run's weights, or its network, as a file: safetensors, ONNX, Keras"),
    },
)
main = PROGRAM.main
run = PROGRAM.run
