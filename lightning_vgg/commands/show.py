"""``lightning-vgg show WHAT``: pictures of a network."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightning_vgg.api import Picture, plan_specs, show_run, title_of
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.experiment.parsing import framework_free_parser
from lightning_vgg.runs.folder import atomic_write

PICTURES: dict[Picture, str] = {
    "filters": "the kernels of the first convolution",
    "activations": "what a convolution makes of an image",
    "mistakes": "the most wrong predictions on the test images",
    "attention": "Grad-CAM: what of an image speaks for its class",
}


def main(command: str, args: list[str]) -> None:
    program = f"lightning-vgg {command}"
    what, *rest = args or ["--help"]
    if what == "network":
        _show_network(program, rest)
    elif what in PICTURES:
        _show_picture(program, what, rest)
    elif what in ("-h", "--help"):
        print(_overview(program))
    else:
        raise ExperimentError(f"{command}: there is no {what!r} to show; there are network, {', '.join(PICTURES)}")


def _show_network(program: str, args: list[str]) -> None:
    parser = framework_free_parser(f"{program} network", "The layers of an experiment's network: a table, a picture.")
    parser.add_argument("--num_classes", type=int, default=10, help="logits")
    parser.add_argument("--output", type=str | None, default=None, help="a PNG, too")
    if "-h" in args or "--help" in args:
        parser.print_help()
        return
    config = parser.instantiate(parser.parse_args(args))
    from rich.console import Console

    from lightning_vgg.show.architecture import draw_network, network_table

    plan, title = plan_specs(config, config.num_classes), title_of(config)
    Console().print(network_table(plan, title))
    if config.output is not None:
        with atomic_write(Path(config.output)) as file:
            draw_network(plan, title, file)
        print(config.output)


def _show_picture(program: str, what: Picture, args: list[str]) -> None:
    parser = argparse.ArgumentParser(f"{program} {what}", description=f"{PICTURES[what]}.".capitalize())
    parser.add_argument("run", type=Path, help="a run folder")
    if what in ("activations", "attention"):
        parser.add_argument("image", help="a file, or the number of a test image")
        parser.add_argument("--layer", help="a convolution, such as block2.conv1; default: the last one")
    parser.add_argument("--output", type=Path, help=f"default: RUN/{what}.png")
    arguments = parser.parse_args(args)
    picture = show_run(arguments.run, what, getattr(arguments, "image", None), getattr(arguments, "layer", None))
    output = arguments.output or arguments.run / f"{what}.png"
    with atomic_write(output) as file:
        picture.save(file, format="png")
    print(output)


def _overview(program: str) -> str:
    lines = [f"  {'network':<13}its layers, before any training"]
    lines += [f"  {name:<13}{text}" for name, text in PICTURES.items()]
    return "\n".join([f"usage: {program} WHAT ...", "", *lines, "", f"{program} WHAT --help tells more."])
