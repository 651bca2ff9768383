"""results.md: every figure of the pages that a benchmark measured, with its command, machine and date.

    python benchmarks/table.py             writes it, and names the pages that say something else
    python benchmarks/table.py --check     changes nothing; status 1 if the table or a page differs from the results

A figure is written out here as the pages have it, word for word, with its numbers taken from ``results/*.json``. So a
page is stale where the words are not found. Whoever words a figure anew on a page does so here, too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

README, FIGURES, FAST = "README.md", "docs/figures.md", "docs/fast.md"
BACKBONE = "--root images.tar.xz --weights vgg16.safetensors --preprocessing keras_caffe"

Results = dict[str, Any]
"""Contents of a file."""


class Figure(NamedTuple):
    """Words of some pages; of none where the figure stands in the table alone. A page's dates are not listed there."""

    words: str
    pages: tuple[str, ...] = (FIGURES,)
    listed: bool = True


@dataclass(frozen=True)
class Benchmark:
    """What is said of a file of results, and the command that makes it."""

    file: str
    command: str
    figures: Callable[[Results], Iterator[Figure]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    root = Path(__file__).parent.parent
    if not options.check:
        (root / "benchmarks" / "results.md").write_text(table(root))
    found = differences(root)
    print("\n".join(found) or "the pages say what was measured")
    sys.exit(bool(found and options.check))


def differences(root: Path) -> list[str]:
    """Of results.md and the pages of a clone from its results, a line for each."""
    found = []
    if (root / "benchmarks" / "results.md").read_text() != table(root):
        found.append("benchmarks/results.md is not that of the results: python benchmarks/table.py")
    known = {benchmark.file for benchmark in BENCHMARKS}
    found += [
        f"benchmarks/table.py knows no figures of {path.name}" for path in result_files(root) if path.name not in known
    ]
    for benchmark, results in measured(root):
        for figure in benchmark.figures(results):
            for page in figure.pages:
                if one_line(figure.words) not in one_line((root / page).read_text()):
                    found.append(f"{page} does not say, as {benchmark.file} does: {figure.words}")
    return found


def table(root: Path) -> str:
    """The text of results.md."""
    lines = [HEAD]
    for benchmark, results in measured(root):
        machine = results["machine"]
        where = f"{machine['gpu'] or machine['processor']}, {machine['cores']} cores"
        when = ", ".join(filter(None, [machine["date"], machine.get("commit")]))
        for figure in filter(attrgetter("listed"), benchmark.figures(results)):
            pages = ", ".join(figure.pages) or "none"
            words = one_line(figure.words.strip("| ")).replace("|", "\\|")
            lines.append(f"| {words} | {pages} | `{benchmark.command}` | {where} | {when} |\n")
    return "".join([*lines, TAIL])


def measured(root: Path) -> Iterator[tuple[Benchmark, Results]]:
    """Those that have results."""
    for benchmark in BENCHMARKS:
        path = root / "benchmarks" / "results" / benchmark.file
        if path.exists():
            yield benchmark, json.loads(path.read_text())


def result_files(root: Path) -> list[Path]:
    return sorted((root / "benchmarks" / "results").glob("*.json"))


def one_line(text: str) -> str:
    return " ".join(text.split())


def ratio(arm: Results) -> str:
    """To the bare loop: median, and range."""
    return "{median:.2f} ({min:.2f} to {max:.2f})".format(**arm["ratio_to_bare_loop"])


def ratio_alone(arm: Results) -> str:
    return f"{arm['ratio_to_bare_loop']['median']:.2f}"


def speed(arm: Results) -> float:
    return arm["images_per_second"]["median"]


def throughput(results: Results) -> Iterator[Figure]:
    arms = results["arms"]
    fp32, bf16 = (
        {
            name: arms[f"{precision}, batch 128, {name}"]
            for name in ("bare loop", "fit", "fit, augmented", "Keras reference")
        }
        for precision in ("32-true", "bf16-mixed")
    )
    to_keras = [f"{speed(of['fit']) / speed(of['Keras reference']):.2f}" for of in (fp32, bf16)]
    yield Figure(
        f"fp32: {ratio_alone(fp32['fit'])} and {to_keras[0]}; bf16: {ratio_alone(bf16['fit'])} and {to_keras[1]}",
        (README,),
    )
    yield Figure(
        f"{speed(fp32['bare loop']):.0f} images/s in the bare loop in fp32 and {speed(bf16['bare loop']):.0f} in bf16"
    )
    yield Figure(f"in bf16 ({results['machine']['date']},", listed=False)
    yield Figure(
        f"fp32: {ratio(fp32['fit'])}, with augmentation in both {ratio(fp32['fit, augmented'])}; "
        f"bf16: {ratio(bf16['fit'])}, with augmentation {ratio(bf16['fit, augmented'])}"
    )
    varied = ("{min:.0f} to {max:.0f}".format(**of["Keras reference"]["images_per_second"]) for of in (fp32, bf16))
    yield Figure(
        f"of the medians, fp32: {to_keras[0]}; bf16: {to_keras[1]}; Keras's own speed varied most, "
        f"{' and '.join(varied)} images/s"
    )
    shares = ["fit", "bare loop", "Keras reference"]
    fp32_shares, bf16_shares = (
        [f"{of[name]['share_of_peak']:.0%}".replace("%", " %") for name in shares] for of in (fp32, bf16)
    )
    yield Figure(
        f"fp32: {fp32_shares[0]} (bare loop {fp32_shares[1]}, Keras {fp32_shares[2]}); "
        f"bf16: {bf16_shares[0]} ({bf16_shares[1]}, {bf16_shares[2]})"
    )


def throughput_batches(results: Results) -> Iterator[Figure]:
    def both(batch: int) -> list[str]:
        return [
            ratio_alone(results["arms"][f"{precision}, batch {batch}, fit"]) for precision in ("32-true", "bf16-mixed")
        ]

    yield Figure("32: {} in fp32, {} in bf16".format(*both(32)))
    yield Figure("512: {} and {}; ".format(*both(512)) + "1,024: {} and {}".format(*both(1024)))


def throughput_batch_32(results: Results) -> Iterator[Figure]:
    plain, augmented = (
        ratio_alone(results["arms"][f"bf16-mixed, batch 32, {arm}"]) for arm in ("fit", "fit, augmented")
    )
    yield Figure(f"(in {results['turns']} turns {plain}, with augmentation {augmented})")


def heads(results: Results) -> Iterator[Figure]:
    def both(head: str, batch: int) -> str:
        fit, keras = (
            ratio_alone(results["arms"][f"{head}, batch {batch}, {arm}"]) for arm in ("fit", "Keras reference")
        )
        return f"{fit} ({keras})"

    yield Figure(
        f"linear: {both('linear', 64)} with batches of 64, {both('linear', 1024)} with 1,024; "
        f"fully connected: {both('dense', 64)} and {both('dense', 1024)}"
    )


def features(results: Results) -> Iterator[Figure]:
    arms = [results["arms"][f"{precision}, extraction"] for precision in ("32-true", "bf16-mixed")]
    ratios, speeds = [ratio_alone(arm) for arm in arms], [f"{speed(arm):.0f}" for arm in arms]
    yield Figure(
        f"{ratios[0]} (fp32) and {ratios[1]} (bf16) times the speed of a bare `vgg16().features` loop, "
        f"{speeds[0]} and {speeds[1]} images/s"
    )


def startup(results: Results) -> Iterator[Figure]:
    seconds = {name: command["seconds"]["median"] for name, command in results["commands"].items()}
    helps = [value for name, value in seconds.items() if name.endswith("--help")]
    yield Figure(
        f"every `--help` in {min(helps):.2f} to {max(helps):.1f} s; the first training step is done "
        f"{seconds['lightning-vgg fit, first step']:.1f} s after the start of `lightning-vgg fit`, "
        f"{seconds['keras-reference fit, first step']:.1f} s after that of `keras-reference fit`; a wrong setting of "
        f"the network is named after {seconds['lightning-vgg fit --model.network.filters [3,x]']:.1f} s"
    )


def growth(results: Results) -> Iterator[Figure]:
    powers = {
        name: f"{found['exponent_of_seconds']:z.2f}".replace("-", "−")
        for name, found in results.items()
        if name != "machine"
    }
    yield Figure(
        f"images (5,000 to 50,000) to the power of {powers['images']}, classes (10 to 1,000) {powers['classes']}, "
        f"pixels a side (16 to 64) {powers['pixels a side']}, convolutions (2 to 16) {powers['convolutions']}"
    )
    peaks = [point["peak_memory_bytes"] / 1e9 for name in powers for point in results[name]["points"]]
    yield Figure(f"peak memory {min(peaks):.1f} to {max(peaks):.1f} GB")
    yield Figure(f"growth: {results['machine']['date']},", listed=False)


def accuracy(results: Results) -> Iterator[Figure]:
    runs = results["cells"]
    fast = [run for name, run in runs.items() if name.startswith("fast,")]
    lesson, keras = runs["lesson, seed 0"], runs["lesson in Keras, seed 0"]

    def mean(name: str) -> float:
        return statistics.mean(run[name] for run in fast)

    def each(name: str, form: str, scale: float = 1.0) -> str:
        return ", ".join(format(scale * run[name], form) for run in fast)

    yield Figure(
        f"`fast.yaml` {percent(mean('test_acc'), 1)} in {mean('seconds') / 60:.0f} minutes, the lesson's network "
        f"{percent(lesson['test_acc'], 1)} in {lesson['seconds'] / 60:.0f}",
        (README,),
    )
    yield Figure(
        f"{percent(mean('test_acc'), 1)} of the test images ({percent(mean('augmented_test_acc'), 1)} with test-time "
        f"augmentation) after {mean('seconds') / 60:.0f} minutes",
        (FAST,),
    )
    yield Figure(
        f"| {each('test_acc', '.2f', 100)} %; mean {percent(mean('test_acc'))} "
        f"| {each('augmented_test_acc', '.2f', 100)} %; mean {percent(mean('augmented_test_acc'))} "
        f"| {each('seconds', '.0f')}; mean {mean('seconds'):.0f} | {each('bare_loop_images_per_second', ',.0f')} |"
    )
    for run in (lesson, keras):
        yield Figure(
            f"| {percent(run['test_acc'])} | | {run['seconds']:.0f} | {run['bare_loop_images_per_second']:,.0f} |"
        )
    yield Figure(f"all 50,000 images ({results['machine']['date']}, commit", listed=False)


def transfer_table(results: Results) -> Iterator[Figure]:
    cells = results["cells"]
    for name, linear in cells.items():
        layer, pooling, size, head = name.split(", ")
        if head == "linear":
            dense = cells[f"{layer}, {pooling}, {size}, dense"]
            both = (f"{percent(cell['test_acc'])} ({percent(cell['val_acc'])})" for cell in (linear, dense))
            yield Figure(f"| `{layer}` | {pooling} | {size} | {' | '.join(both)} |")
    yield Figure(f"`--heads dense`, {results['machine']['date']}", listed=False)


def tuning(results: Results) -> Iterator[Figure]:
    def spread(accuracies: list[float]) -> str:
        return f"{100 * statistics.mean(accuracies):.2f} ± {100 * statistics.stdev(accuracies):.2f} %"

    as_it_is, best = results["test_acc"].values()
    yield Figure(
        f"the best settings reach {spread(best)} of the test images over three seeds, the experiment as it is "
        f"{spread(as_it_is)}"
    )
    yield Figure(f"--jobs 1`, {results['machine']['date']}, commit", listed=False)
    yield Figure(f"saved {results['seconds_saved']:.0f} s beside the {results['seconds_spent']:,.0f} s spent")


def gpu(results: Results) -> Iterator[Figure]:
    """No page quotes them."""
    cells = results["cells"]
    for name, cell in cells.items():
        match cell:
            case {"images_per_second": float(rate), "peak_memory_bytes": memory}:
                bare_loop = cells[f"{name.rpartition(', ')[0]}, bare loop"]
                share = rate / bare_loop["images_per_second"]
                yield Figure(f"{name}: {rate:,.0f} images/s, {share:.2f} of the bare loop, {memory / 1e9:.2f} GB", ())
            case {"images_per_second": speeds}:
                yield Figure(
                    f"{name}: {'; '.join(f'{arm}: {speed:,.0f}' for arm, speed in speeds.items())} images/s", ()
                )
            case {"test_acc": found, "augmented_test_acc": augmented, "seconds_of_epochs": seconds}:
                yield Figure(f"{name}: {percent(found)}, augmented {percent(augmented)}, {sum(seconds):.1f} s", ())
            case {"compared": compared, "different": different}:
                yield Figure(f"{name}: {different:,} of {compared:,} numbers differ", ())
            case {"rungs": rungs, "passed": passed}:
                yield Figure(f"{name}: {passed} of {len(rungs)} rungs pass", ())
            case _:
                yield Figure(f"{name}: {json.dumps(cell)}", ())


def photos(results: Results) -> Iterator[Figure]:
    ours, pillow, torchvision = (
        f"{results['decoding'][name]['median']:,.0f}"
        for name in ("lightning_vgg", "Pillow, one thread", "torchvision, all cores")
    )
    yield Figure(f"{ours} photos/s are decoded, {pillow} by Pillow in one thread, {torchvision} by torchvision")
    file, memory = (results["peak_memory_bytes"][name] / 1e9 for name in ("from the file", "from memory"))
    of_memory = "{median:.2f} ({min:.2f} to {max:.2f})".format(**results["file_to_memory"])
    yield Figure(
        f"a training from the file: {of_memory} of the speed from memory, {file:.1f} GB instead of {memory:.1f}"
    )


def more_photos(results: Results) -> Iterator[Figure]:
    trained, peak = results["training"]["from the file"]["median"], results["peak_memory_bytes"]["from the file"]
    yield Figure(
        f"{results['photos']:,} photos, {results['gigabytes']:.0f} GB of pixels: {trained:,.0f} images/s, "
        f"{peak / 1e9:.1f} GB of memory; read for the first time in {results['seconds_of_the_first_reading']:.0f} s"
    )


def percent(share: float, digits: int = 2) -> str:
    return f"{100 * share:.{digits}f} %"


BENCHMARKS = [
    Benchmark("startup.json", "python benchmarks/startup.py", startup),
    Benchmark("throughput.json", "python benchmarks/throughput.py --root images.tar.xz --keras", throughput),
    Benchmark(
        "throughput_batches.json",
        "python benchmarks/throughput.py --root images.tar.xz --batches 32 512 1024 --turns 1 --images 4096",
        throughput_batches,
    ),
    Benchmark(
        "throughput_batch_32.json",
        "python benchmarks/throughput.py --root images.tar.xz --batches 32 --precisions bf16-mixed --images 3200",
        throughput_batch_32,
    ),
    Benchmark("features.json", f"python benchmarks/features.py {BACKBONE}", features),
    Benchmark("photos.json", "python benchmarks/photos.py --root images.tar.xz", photos),
    Benchmark(
        "photos_20_gb.json", "python benchmarks/photos.py --root images.tar.xz --photos 133000 --no-ratio", more_photos
    ),
    Benchmark("heads.json", f"python benchmarks/heads.py {BACKBONE}", heads),
    Benchmark("growth.json", "python benchmarks/growth.py --root images.tar.xz", growth),
    Benchmark("accuracy.json", "python benchmarks/accuracy.py --root images.tar.xz", accuracy),
    Benchmark("transfer_table.json", f"python benchmarks/transfer_table.py {BACKBONE}", transfer_table),
    Benchmark("tuning.json", "python benchmarks/tuning.py --root images.tar.xz", tuning),
    Benchmark("gpu.json", "python benchmarks/gpu.py --root images.tar.xz", gpu),
]

HEAD = """# Results of the benchmarks

Written by `python benchmarks/table.py` from `results/*.json`; `--check`, which a test runs, fails where a page does not
say word for word what stands here. `images.tar.xz` and `vgg16.safetensors` are described in docs/figures.md.

| figures | pages | command | machine | date, commit |
| --- | --- | --- | --- | --- |
"""

TAIL = """
## Not checked

These figures of README.md and docs/figures.md come from single commands or by hand, whose raw results are not in the
repository: trainings of hours, and what other programs reach. The command stands beside each on the page.

| figures | command |
| --- | --- |
| parity: the rungs of the ladder, embeddings of VGG16 | `lightning-vgg parity` |
| twins: steps, predictions, distances | `lightning-vgg twin` |
| comparisons: accuracies, differences, verdicts | `lightning-vgg compare`, `make quickstart` |
| accuracies of single trainings: `best.yaml`, 50,000 images on a frozen backbone, fine-tuning | `lightning-vgg fit` |
| the goal of `fast.yaml` | airbench94 itself |
| "1.16 in another run" of growth, the dates and commits of pages that name several | |
"""

if __name__ == "__main__":
    main()
