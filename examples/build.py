"""Execute the notebooks: their text is NAME.py, NAME.ipynb is made of it, with the outputs.

python examples/build.py [NAME ...]
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parent
NOTEBOOKS = ("1_vgg_from_blocks", "2_transfer_learning", "3_port_your_keras_model")

_LOGS = re.compile(
    r"^((WARNING: All log|[IWE]\d{4} |WARNING:tensorflow).*\n|.*UserWarning: CUDA initialization.*\n.*\n)", re.MULTILINE
)


def main() -> None:
    for name in sys.argv[1:] or NOTEBOOKS:
        notebook = execute(name, EXAMPLES)
        nbformat.write(notebook, EXAMPLES / f"{name}.ipynb")


def read_text(name: str) -> Any:
    """The notebook of a text, without outputs."""
    notebook = jupytext.read(EXAMPLES / f"{name}.py")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name[0]}-{number}"  # the same every time: a new output changes nothing else
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return notebook


def execute(name: str, folder: Path, **parameters: int | str) -> Any:
    """The notebook with its outputs.

    Args:
        name: which.
        folder: in which it runs.
        parameters: other values for names in the cell tagged ``parameters``.

    Raises:
        CellExecutionError: a cell raises.
        ValueError: an output names a place of this machine.
    """
    notebook = read_text(name)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    for parameter, value in parameters.items():
        assignment = re.compile(rf"^{parameter} = \S+", re.MULTILINE)
        cell.source, found = assignment.subn(f"{parameter} = {value!r}", cell.source)
        assert found == 1, parameter
    client = NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": folder}}, record_timing=False, coalesce_streams=True
    )
    client.execute(env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"})  # on the CPU, as most readers will
    leave_out_logs(notebook)
    text = nbformat.writes(notebook)
    for place in (str(EXAMPLES.parent), sys.prefix, str(Path.home()) + "/", str(folder.resolve())):
        if place in text:
            where = text.index(place)
            raise ValueError(f"an output of {name} names {place}: {text[where - 200 : where + 300]}")
    return notebook


def leave_out_logs(notebook: Any) -> None:
    """What TensorFlow says of itself, and both of a GPU that is not there; and the places of installed packages."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "stream":
                output.text = _LOGS.sub("", output.text)
                output.text = re.sub(r"\S+/site-packages/", "", output.text)  # where a warning comes from
        cell.outputs = [output for output in cell.outputs if output.get("text") != ""]


if __name__ == "__main__":
    main()
