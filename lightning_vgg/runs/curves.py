"""Loss and accuracy over the epochs, as a picture for a slide."""

from __future__ import annotations

from typing import IO

from lightning_vgg.runs.best import Quantity, best_row

_COLOURS = {"train": "#8a96a3", "val": "#1f6feb"}
_NAMES = {"train": "training", "val": "validation"}
_OVER_CLASSES = {"val_balanced_acc": "validation, balanced", "val_macro_f1": "validation, macro F1"}
"""Column -> name of a curve that is drawn where it chooses the best epoch."""


def draw_curves(
    history: list[dict[str, float]], best_by: Quantity, title: str, test_acc: float | None, file: IO[bytes]
) -> None:
    """Draw the rows of history.csv as a PNG of 1,600 x 700 pixels.

    Args:
        history: rows as RunFolder.read_history gives them.
        best_by: what chooses the epoch that gets a circle.
        title: of the picture.
        test_acc: a fraction; drawn as a line where given.
        file: where the PNG goes.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import MaxNLocator

    style = {"fontsize": 13, "color": "#30363d"}
    figure = Figure(figsize=(16, 7), dpi=100, layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.12))
    figure.suptitle(title, fontsize=18, fontweight="bold", color="#1b1f24")
    loss, accuracy = figure.subplots(1, 2)
    for axes, quantity, factor in ((loss, "loss", 1), (accuracy, "acc", 100)):
        lines = [(f"{part}_{quantity}", _NAMES[part], colour, "-") for part, colour in _COLOURS.items()]
        if axes is accuracy and best_by in _OVER_CLASSES:
            lines.append((best_by, _OVER_CLASSES[best_by], _COLOURS["val"], "--"))
        for key, name, colour, dashes in lines:
            points = [(row["epoch"], row[key] * factor) for row in history if key in row]
            if not points:
                continue
            epochs, values = zip(*points, strict=True)
            axes.plot(epochs, values, dashes, color=colour, linewidth=2.6, marker="o", markersize=5, label=name)
        axes.set_xlabel("epoch", **style)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color="#d8dee4", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=12, colors="#57606a")
    loss.set_ylabel("cross-entropy (nats)", **style)
    accuracy.set_ylabel("accuracy (%)", **style)
    if any(best_by in row for row in history):
        best = best_row(history, best_by)
        value = best[best_by]
        axes, height, words = (
            (loss, value, f"{value:.4f}") if best_by == "val_loss" else (accuracy, value * 100, f"{value:.2%}")
        )
        axes.plot(
            best["epoch"],
            height,
            marker="o",
            markersize=14,
            fillstyle="none",
            markeredgewidth=2,
            color=_COLOURS["val"],
            linestyle="",
            label=f"best validation: {words}, epoch {best['epoch']}",
        )
    if test_acc is not None:
        accuracy.axhline(
            test_acc * 100, color="#cf222e", linestyle="--", linewidth=2, label=f"test images: {test_acc:.2%}"
        )
    for axes, place in ((loss, "upper right"), (accuracy, "lower right")):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc=place, fontsize=13, frameon=True, framealpha=0.9, edgecolor="none")
    figure.savefig(file, format="png")
