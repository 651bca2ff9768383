"""``lightning-vgg show WHAT``: pictures of networks, of what they see, and of what they have learned."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from lightning_vgg.api import Picture, plan_experiment, show_run, title_of
from lightning_vgg.common.command_parser import CommandParser
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.nearest import or_all
from lightning_vgg.experiment.parsing import experiment_spec, framework_free_parser
from lightning_vgg.runs.folder import atomic_write

PICTURES: dict[str, str] = {
    "filters": "the kernels of the first convolution",
    "activations": "the output of a convolution for an image",
    "mistakes": "the wrong predictions on the test images that the network was surest of",
    "attention": "Grad-CAM: which parts of an image speak for its class",
}
"""Of a run."""
assert set(PICTURES) == set(get_args(Picture))
_OF_EXPERIMENTS = {
    "network": "its layers, before any training",
    "augmentation": "training images as the network sees them",
}


def main(command: str, args: list[str]) -> None:
    program = f"lightning-vgg {command}"
    what, *rest = args or ["--help"]
    if what == "network":
        _show_network(program, rest)
    elif what == "augmentation":
        _show_augmentation(program, rest)
    elif what in ("-h", "--help"):
        print(_overview(program))
    elif what in PICTURES:
        _show_picture(program, what, rest)  # type: ignore[arg-type]
    else:
        raise ExperimentError(f"{command}: there is no {what!r} to show{or_all(what, [*_OF_EXPERIMENTS, *PICTURES])}")


def _show_network(program: str, args: list[str]) -> None:
    parser = framework_free_parser(
        f"{program} network", "Show the layers of an experiment's network as a table, and as a picture."
    )
    parser.add_argument("--num_classes", type=int, default=10, help="logits")
    parser.add_argument("--output", type=str | None, default=None, help="also draw them into this PNG file")
    config = parser.read(args)
    from rich.console import Console

    from lightning_vgg.show.architecture import draw_network, network_table

    experiment = experiment_spec(config)
    plan, title = plan_experiment(experiment, config.num_classes), title_of(experiment)
    Console().print(network_table(plan, title))
    if config.output is not None:
        with atomic_write(Path(config.output)) as file:
            draw_network(plan, title, file)
        print(config.output)


def _show_augmentation(program: str, args: list[str]) -> None:
    parser = framework_free_parser(
        f"{program} augmentation",
        "Draw training images as the network sees them in the first epochs; without data.augmentation, each kind of it "
        "by itself.",
    )
    parser.add_argument("--output", type=str, default="augmentation.png", help="a PNG file")
    config = parser.read(args)
    from lightning_vgg.show.augmentation import draw_augmentation

    experiment = experiment_spec(config)
    with atomic_write(Path(config.output)) as file:
        draw_augmentation(experiment, file)
    print(config.output)


def _show_picture(program: str, what: Picture, args: list[str]) -> None:
    parser = CommandParser(f"{program} {what}", f"{PICTURES[what][0].upper()}{PICTURES[what][1:]}.")
    parser.add_argument("run", type=Path, help="a run folder")
    if what in ("activations", "attention"):
        parser.add_argument("image", help="a file, or the number of a test image")
        parser.add_argument("--layer", help="a convolution, such as block2.conv1; default: the last one")
    parser.add_argument("--output", type=Path, help=f"default: RUN/{what}.png")
    arguments = parser.read(args)
    picture = show_run(arguments.run, what, getattr(arguments, "image", None), getattr(arguments, "layer", None))
    output = arguments.output or arguments.run / f"{what}.png"
    with atomic_write(output) as file:
        picture.save(file, format="png")
    print(output)


def _overview(program: str) -> str:
    lines = [f"  {name:<13}{text}" for name, text in {**_OF_EXPERIMENTS, **PICTURES}.items()]
    return "\n".join([f"usage: {program} WHAT ...", "", *lines, "", f"{program} WHAT --help says more."])
