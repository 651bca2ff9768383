"""The pictures of a run's worst mistakes, with Grad-CAM of its best network."""

from __future__ import annotations

import keras

from keras_reference.data import Preprocess
from keras_reference.grad_cam import grad_cam, last_convolution
from keras_reference.transfer import Network
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.mistakes import NO_CONVOLUTION, Attention, ImagesByNumber, keep_mistakes


def picture_mistakes(run: RunFolder, images: ImagesByNumber, network: Network, preprocess: Preprocess) -> None:
    """Keep them in the folder of a tested run.

    Args:
        run: which.
        images: all test images.
        network: with the weights that were tested.
        preprocess: pixels to what it reads.
    """
    keep_mistakes(run, images, _attention(network, preprocess))


def _attention(network: Network, preprocess: Preprocess) -> Attention | str:
    if keras.config.backend() != "tensorflow":
        return f"the Keras reference computes it on TensorFlow alone, and not on {keras.config.backend()}"
    convolution = last_convolution(network)
    if convolution is None:
        return NO_CONVOLUTION
    return Attention(convolution, lambda image, label: grad_cam(network, preprocess(image[None]), label, convolution))
