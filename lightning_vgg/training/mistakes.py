"""The pictures of a run's worst mistakes, with Grad-CAM of its best network."""

from __future__ import annotations

from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.mistakes import NO_CONVOLUTION, Attention, ImagesByNumber, keep_mistakes
from lightning_vgg.training.grad_cam import grad_cam
from lightning_vgg.training.trained_run import TrainedRun


def picture_mistakes(run: RunFolder, images: ImagesByNumber) -> None:
    """Keep them in the folder of a tested run.

    Args:
        run: which.
        images: all test images.
    """
    trained = TrainedRun(run)
    attention: Attention | str = NO_CONVOLUTION
    if trained.convolutions():
        name, layer = trained.convolution(None)
        attention = Attention(
            name.removeprefix("backbone."),
            lambda image, label: grad_cam(trained.classifier, trained.batch(image), label, layer),
        )
    keep_mistakes(run, images, attention)
