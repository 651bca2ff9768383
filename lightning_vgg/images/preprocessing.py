"""The preprocessing that pretrained weights expect, expressed as this project's normalization.

Every convention is an affine map of each channel, which `Normalization` can express. `keras_caffe` also reads the
channels in the order BGR: on loading such weights, the input channels of the first convolution are reversed once, and
from then on the network reads RGB like every other.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightning_vgg.images.batches import Normalization


@dataclass(frozen=True)
class Preprocessing:
    """A convention of input.

    Attributes:
        normalization: of the RGB pixels 0..255; None: mean 0 and deviation 1 over the training images.
        bgr: whether the weights read the channels as blue, green, red.
    """

    normalization: Normalization | None
    bgr: bool = False


def _unit(mean: tuple[float, ...], std: tuple[float, ...]) -> Normalization:
    """From constants for pixels in 0..1."""
    return Normalization(tuple(255 * value for value in mean), tuple(255 * value for value in std))


PREPROCESSING = {
    # torchvision.models.VGG16_Weights, transforms of IMAGENET1K_V1
    "torchvision": Preprocessing(_unit((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    # ... of IMAGENET1K_FEATURES, whose deviation is 1/255: the pixels stay 0..255
    "torchvision_features": Preprocessing(_unit((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255))),
    # keras.applications.vgg16.preprocess_input: mode "caffe"; there, its constants are in the order BGR
    "keras_caffe": Preprocessing(Normalization((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)), bgr=True),
    "cifar": Preprocessing(None),
}

NAMED_WEIGHTS = {"IMAGENET1K_V1": "torchvision", "IMAGENET1K_FEATURES": "torchvision_features"}
"""torchvision's weights -> the preprocessing they were trained with."""
