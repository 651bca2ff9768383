"""The worst mistakes of a single run, with the pictures that it has left in its folder."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.report.results import Result
from lightning_vgg.runs.mistakes import confused_pairs, read_mistakes, shown_mistakes, surest_mistakes


def find_mistakes(result: Result, folder: Path) -> PlainDict | None:
    """What the report shows of them; None where the run has kept no pictures.

    Args:
        result: of the run.
        folder: where the report will lie; the pictures' paths are relative to it.

    Raises:
        ExperimentError: the list of the pictures is damaged, or does not belong to the predictions.
    """
    kept = read_mistakes(result.run)
    if kept is None:
        return None
    if {*kept["pictures"]} != {*shown_mistakes(result.labels, result.logits)}:
        raise ExperimentError(
            f"{result.run.mistakes} does not belong to the test_predictions.npz beside it: test the run again with "
            "--report true, or remove that folder"
        )
    names = result.record["class_names"]
    pictures = {
        number: {**each, **_paths(each, result.run.path, folder), "image": number}
        for number, each in kept["pictures"].items()
    }
    return {
        "wrong": int((result.logits.argmax(1) != result.labels).sum()),
        "layer": kept["layer"],
        "without_grad_cam": kept["without_grad_cam"],
        "surest": [pictures[number] for number in surest_mistakes(result.labels, result.logits)],
        "pairs": [
            {
                "true": names[pair.true],
                "predicted": names[pair.predicted],
                "count": pair.count,
                "of": int((result.labels == pair.true).sum()),
                "pictures": [pictures[number] for number in pair.images],
            }
            for pair in confused_pairs(result.labels, result.logits)
        ],
    }


def _paths(picture: PlainDict, run: Path, folder: Path) -> dict[str, str | None]:
    return {
        kind: picture[kind] and Path(os.path.relpath(run / picture[kind], folder)).as_posix()
        for kind in ("picture", "grad_cam")
    }


def data_uri(file: Path) -> str:
    """A picture as an address that holds it, so that the page needs no other file.

    Raises:
        ExperimentError: it is gone.
    """
    try:
        return f"data:image/jpeg;base64,{base64.b64encode(file.read_bytes()).decode()}"
    except OSError as error:
        raise ExperimentError(
            f"{file}: {error.strerror}; lightning-vgg test -c {file.parents[1]}/config.yaml --report true makes the "
            "pictures again"
        ) from None
