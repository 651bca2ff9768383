"""Which parts of an image speak for a class: Grad-CAM, by captum."""

from __future__ import annotations

import warnings

import numpy as np
from torch import Tensor, nn
from tqdm import TqdmWarning


def grad_cam(network: nn.Module, images: Tensor, label: int, convolution: nn.Conv2d) -> np.ndarray:
    """Of one image and one class, float (h, w), at least 0: Selvaraju et al. 2017, equations 1 and 2.

    Args:
        network: in evaluation mode; all its layers have gradients.
        images: what it reads, (1, C, S, S).
        label: the class.
        convolution: whose output is weighted by the gradients of the class's logit.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # in a notebook without widgets, for progress bars that it has
        from captum.attr import LayerGradCam

    heat = LayerGradCam(network, convolution).attribute(images, target=label, relu_attributions=True)
    return heat.detach()[0, 0].numpy()
