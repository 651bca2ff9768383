"""How far a comparison is: bars on a terminal, a line for each start and end elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from lightning_vgg.compare.jobs import Job
from lightning_vgg.runs.folder import RunFolder


class Display:
    """Shows jobs as they go; a context manager.

    Args:
        jobs: how many there are.
        done: how many of them were done before.
        runs: job's name -> the run folder that it fills and its epochs, for those that train.
    """

    def __init__(self, jobs: int, done: int, runs: Mapping[str, tuple[RunFolder, int]]) -> None:
        self.runs = runs
        self.console = Console(highlight=False, soft_wrap=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[news]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.total = self.progress.add_task("all", total=jobs, completed=done, news="")
        self.bars: dict[str, TaskID] = {}

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.progress.stop()

    def started(self, job: Job) -> None:
        epochs = self.runs[job.name][1] if job.name in self.runs else None
        self.bars[job.name] = self.progress.add_task(job.name, total=epochs, news="")
        if not self.console.is_terminal:
            self.say(f"{job.name}: started")

    def made(self, job: Job, seconds: float) -> None:
        result = "done"
        if job.name in self.runs:
            result = f"test_acc {self.runs[job.name][0].read_record()['test_acc']:.2%}"
        self._ended(job, f"{result}, {seconds:.0f} s")

    def failed(self, job: Job, words: str) -> None:
        self._ended(job, f"[bold red]FAILED[/], {escape(words)}\n  its output: {job.log}")

    def _ended(self, job: Job, outcome: str) -> None:
        self.progress.remove_task(self.bars.pop(job.name))
        self.progress.advance(self.total)
        task = self.progress.tasks[0]
        self.say(f"{job.name}: {outcome}  ({task.completed:.0f} of {task.total:.0f})")

    def tick(self) -> None:
        for name, bar in self.bars.items():
            history = self.runs[name][0].read_history() if name in self.runs else []
            if history:
                row = history[-1]
                news = "  ".join(f"{key} {row[key]:.2%}" for key in ("train_acc", "val_acc") if key in row)
                self.progress.update(bar, completed=row["epoch"], news=news)

    def say(self, text: str) -> None:
        self.console.print(text)
