"""Comparisons: what is refused beforehand, processes that come and go, and one real comparison of both frameworks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import CONFIGS, printed_by, run_in, wandb_records
from made_runs import HORIZON, TWIN

from lightning_vgg import cli
from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.compare import jobs, runner
from lightning_vgg.compare.jobs import Job, last_words, run_jobs
from lightning_vgg.compare.plan import ComparisonPlan, comparison_parser, hold_to_beginning, read_plan, write_beginning
from lightning_vgg.compare.runner import carry_out
from lightning_vgg.report.comparison import Control
from lightning_vgg.runs.folder import RunFolder
from lightning_vgg.runs.machine import share_of_machine
from lightning_vgg.runs.tracking import STEP, TWIN_DISTANCE, horizon_curve

QUICKSTART = CONFIGS / "quickstart.yaml"
MEASURED = ("ladder", "ablation", "horizon")
"""What a comparison measures beside its runs, in minutes."""

# --- what a comparison is ---------------------------------------------------------------------------------------------


def plan(*args: str | Path) -> ComparisonPlan:
    return read_plan(comparison_parser(), [str(arg) for arg in args])


def test_by_default_both_frameworks_and_both_semantics_are_compared() -> None:
    this = plan("-c", QUICKSTART, "--seeds", "2", "--seed_everything", "7", "--margin=0.005")
    assert [(arm.name, arm.spec.framework, arm.experiment.model.semantics) for arm in this.arms] == [
        ("lightning-keras", "lightning", "keras"),
        ("lightning-torch", "lightning", "torch"),
        ("keras", "keras", "keras"),
        ("lightning-keras-rounded", "lightning", "keras"),
    ]
    assert this.looks == [2]
    assert [(arm.name, seed) for arm, seed in this.members(2)][2:5] == [
        ("keras", 7),
        ("lightning-keras-rounded", 7),
        ("lightning-keras", 8),
    ]
    assert (this.compare.seeds, this.compare.margin, this.compare.reference) == (2, 0.005, "keras")
    assert this.folder == Path("runs/quickstart/compare-quickstart")


def test_rounding_gets_an_arm_where_both_frameworks_train_the_same(tmp_path: Path) -> None:
    this = plan("-c", QUICKSTART)
    assert this.control == Control("lightning-keras", "keras", "lightning-keras-rounded")
    assert [arm.experiment.model.other_kernels for arm in this.arms] == [False, False, False, True]
    arms: dict[str, Any] = {
        "torch": {"framework": "lightning", "settings": {"model.semantics": "torch"}},
        "longer": {"framework": "lightning", "settings": {"trainer.max_epochs": 11}},
        "compiled": {"framework": "lightning", "settings": {"model.compile": True, "model.channels_last": False}},
        "keras": {"framework": "keras"},
    }
    config = tmp_path / "my.yaml"

    def control(**compare: Any) -> Control | None:
        config.write_text(yaml.safe_dump({"compare": {"reference": "keras", "arms": arms, **compare}}))
        return plan("-c", config).control

    assert control() == Control("compiled", "keras", "compiled-rounded")
    assert control(rounding=False) is None
    arms["keras"]["settings"] = {"model.semantics_except": ["initialization"]}
    assert control() is None
    arms["compiled"]["settings"]["model.semantics_except"] = ["initialization"]
    assert control() == Control("compiled", "keras", "compiled-rounded")
    for name in ("keras", "compiled"):
        del arms[name]["settings"]["model.semantics_except"]
    arms["compiled-rounded"] = {"framework": "lightning"}
    with pytest.raises(ExperimentError, match="compiled-rounded is the name of the arm of rounding"):
        control()
    del arms["compiled"]
    assert control() == Control("compiled-rounded", "keras", "compiled-rounded-rounded")
    del arms["compiled-rounded"]
    assert control() is None


@pytest.mark.parametrize(
    ("base", "overlays"),
    [
        ("quickstart", ["quickstart"]),
        ("vgg/base", ["lesson"]),
        ("vgg/base", ["lesson", "switches"]),
        ("vgg/base", ["lesson", "blocks"]),
        ("vgg/base", ["backends"]),
        ("transfer/base", ["transfer"]),
    ],
)
def test_every_shipped_comparison_can_be_planned(base: str, overlays: list[str]) -> None:
    files = [CONFIGS / f"{base}.yaml", *(CONFIGS / "compare" / f"{name}.yaml" for name in overlays)]
    this = plan(*(word for file in files for word in ("-c", file)))
    assert this.name == overlays[-1]
    if "lesson" in overlays:  # later files add to earlier ones
        assert (this.compare.seeds, this.compare.margin, this.experiment.data.train_images) == (5, 0.01, 10000)
    if "blocks" in overlays:  # each with each, no two alike; a recipe with a colon stays a string
        networks = {str(arm.experiment.model.network) for arm in this.arms}
        assert len(this.arms) == len(networks) == 12 and this.control is None
    if "switches" in overlays:
        switches = [set(arm.experiment.model.semantics_except) for arm in this.arms]
        assert (
            len(this.arms) == 8
            and switches[0] == {"initialization"}
            and all(len(s ^ switches[0]) < 3 for s in switches)
        )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("compare:\n  arms:\n    a: {framwork: keras}", "line 3: unknown key 'compare.arms.a.framwork'; did you"),
        ("compare:\n  sedes: 3", "line 2: unknown key 'compare.sedes'; did you mean 'compare.seeds'?"),
        ("compare:\n  arms:\n    a:", "line 3: 'compare.arms.a' is a group of settings"),
        ("compare: {reference: a, arms: {a: {framework: pytorch}}}", "pytorch"),
        ("compare: {reference: b, arms: {a: {framework: keras}}}", "there is no arm 'b'; the arms are a"),
        ("compare: {reference: a, arms: {a: {framework: lightning, backend: jax}}}", "compare.arms.a.backend: jax is"),
        ("compare: {reference: a/b, arms: {a/b: {framework: keras}}}", "'a/b' becomes part of folder names"),
        ("compare: {seeds: 0}", "compare.seeds must be at least 1, or auto, not 0"),
        ("compare: {seeds: many}", 'Parser key "compare.seeds"'),
        ("compare: {seeds: auto, max_seeds: 1}", "compare.max_seeds must be at least 2, not 1"),
        ("compare: {margin: 1}", "compare.margin is a fraction such as 0.01, for one point, not 1.0"),
        (
            "compare: {reference: a, arms: {a: {framework: keras, settings: {model.semantic: keras}}}}",
            "compare.arms.a.settings: unknown key 'model.semantic'; did you mean 'model.semantics'?",
        ),
        ("compare: {reference: a, arms: {a: {framework: keras, settings: {seed_everything: 3}}}}", "same for all arms"),
        (
            "compare: {reference: a, arms: {a: {framework: keras, settings: {model.optimizer: {name: sgd}}}}}",
            "model.optimizer is a group of settings; name each of them, as model.optimizer.KEY",
        ),
        (
            "compare: {reference: a, arms: {a: {framework: keras, settings: {model.semantics: torch}}}}",
            "compare.arms.a: the Keras reference does not implement model.semantics: torch; leave it at keras",
        ),
        (
            "compare: {reference: a, arms: {a: {framework: lightning, settings: {model.network.filters: many}}}}",
            'compare.arms.a.settings: Parser key "model.network.filters"',
        ),
        (
            "compare: {reference: a, arms: {a: {framework: lightning, settings: {model.network.conv_block: maxpol}}}}",
            "compare.arms.a: unknown layer 'maxpol'; did you mean 'maxpool'?",
        ),
        (
            "compare: {reference: a, arms: {a: {framework: lightning, settings: {model.init_from: no.safetensors}}}}",
            "compare.arms.a: model.init_from: there is no file no.safetensors",
        ),
        ("data: {source: folder, root: nowhere}", "nowhere"),
    ],
)
def test_what_can_be_mended_is_said_by_name_and_before_anything_is_written(
    text: str, complaint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text(text + "\n")
    assert cli.run(["compare", "-c", "my.yaml"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("lightning-vgg: error: ") and complaint in error
    assert [path.name for path in tmp_path.iterdir()] == ["my.yaml"]


def test_a_backend_that_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    complaint = "compare.arms.keras: Keras is to run on tensorflow, which is not installed: pip install tensorflow"
    with pytest.raises(ExperimentError, match=complaint):
        plan("-c", QUICKSTART)


def test_planning_loads_no_framework() -> None:
    """Though what the Keras reference implements is asked for."""
    code = (
        "import sys\nfrom lightning_vgg.compare.plan import *\nread_plan(comparison_parser(), [])\n"
        "print(sorted({'torch', 'lightning', 'keras', 'tensorflow', 'wandb'} & set(sys.modules)))"
    )
    assert printed_by(code) == "[]\n"


def test_the_margin_and_the_experiment_are_what_they_were_when_the_comparison_began(tmp_path: Path) -> None:
    arms = {"k": {"framework": "keras"}, "l": {"framework": "lightning"}}
    config = tmp_path / "my.yaml"

    def again(*flags: str, **compare: Any) -> ComparisonPlan:
        config.write_text(yaml.safe_dump({"compare": {"reference": "k", "arms": arms, "margin": 0.02, **compare}}))
        this = plan("-c", config, "--trainer.default_root_dir", str(tmp_path), *flags)
        hold_to_beginning(this)
        return this

    write_beginning(again())
    again("--seeds", "9")
    with pytest.raises(ExperimentError, match=r"compare.seeds was 5 when .*, and is auto now; how often the seeds are"):
        again("--seeds", "auto")
    again(arms={**arms, "more": {"framework": "lightning", "settings": {"model.semantics": "torch"}}})
    again(arms={"k": arms["k"]})
    with pytest.raises(ExperimentError, match=r"compare.margin was 0.02 when .* began, and is 0.03 now: .*--name"):
        again(margin=0.03)
    with pytest.raises(ExperimentError, match=r"trainer\.max_epochs was 10"):
        again("--trainer.max_epochs", "11")
    with pytest.raises(ExperimentError, match=r"compare.arms.l.settings.* was .* when"):
        again(arms={**arms, "l": {"framework": "lightning", "settings": {"model.semantics": "torch"}}})
    assert plan("-c", tmp_path / "runs/vgg/compare-my/comparison.yaml").as_yaml() == again().as_yaml()
    write_beginning(again("--name", "looked", "--seeds", "auto", "--max-seeds", "10"))
    again("--name", "looked", "--seeds", "auto", "--max-seeds=10")
    for flags in (("--seeds", "10"), ("--seeds", "auto")):
        with pytest.raises(
            ExperimentError, match=r"seeds was (auto|10) when .* give the new comparison another --name"
        ):
            again("--name", "looked", *flags)


@pytest.mark.parametrize(
    ("jobs_at_once", "told", "threads"),
    [(1, None, None), (1, "3", "3"), (4, None, "2"), (16, None, "1"), (4, "3", "3")],
)
def test_both_frameworks_are_told_of_the_same_number_of_threads(
    jobs_at_once: int, told: str | None, threads: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_vgg.runs.machine.usable_cores", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if told is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", told)
    variables = share_of_machine(jobs_at_once)
    assert variables.get("OMP_NUM_THREADS") == variables.get("TF_NUM_INTRAOP_THREADS") == threads


# --- processes --------------------------------------------------------------------------------------------------------


@dataclass
class Notes:
    """A watcher that writes down what it hears."""

    heard: list[tuple[str, str]] = field(default_factory=list)
    running: int = 0
    most: int = 0
    on_tick: Callable[[], None] = lambda: None

    def started(self, job: Job) -> None:
        self.running += 1
        self.most = max(self.most, self.running)

    def made(self, job: Job, seconds: float) -> None:
        self.running -= 1
        self.heard.append((job.name, "made"))

    def failed(self, job: Job, words: str) -> None:
        self.running -= 1
        self.heard.append((job.name, words))

    def tick(self) -> None:
        self.on_tick()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Job]:
    monkeypatch.chdir(tmp_path)

    def job(name: str, code: str) -> Job:
        return Job(name, (sys.executable, "-c", code), tmp_path / f"{name}.log", (tmp_path / name).exists, {"N": name})

    return job


@pytest.fixture
def held() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


MAKE = "import os, pathlib; pathlib.Path(os.environ['N']).touch()"


@pytest.mark.parametrize("at_once", [1, 2])
def test_jobs_run_so_many_at_once_and_a_failure_stops_none_of_the_others(
    at_once: int, job: Callable[[str, str], Job], held: int
) -> None:
    notes = Notes()
    fails = "import sys; print('hello'); sys.exit('lightning-vgg: error: no such thing\\n  here')"
    run_jobs(
        [job("a", MAKE), job("b", fails), job("c", MAKE), job("d", "import os; os.kill(os.getpid(), 9)")],
        at_once,
        notes,
        held,
    )
    assert notes.most == at_once
    assert sorted(notes.heard) == [
        ("a", "made"),
        ("b", "exit status 1: no such thing\n  here"),
        ("c", "made"),
        ("d", "killed by SIGKILL, without any output"),
    ]
    if at_once == 1:
        assert [name for name, _ in notes.heard] == ["a", "b", "c", "d"]


def test_whoever_interrupts_leaves_no_process_behind_not_even_a_stubborn_one_or_its_child(
    job: Callable[[str, str], Job], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_GRACE", 1.0)
    code = (
        "import os, pathlib, signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "pathlib.Path('pids.part').write_text(f'{os.getpid()} {child.pid}')\nos.rename('pids.part', 'pids')\n"
        "time.sleep(60)"
    )

    def interrupt() -> None:
        if Path("pids").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_jobs([job("a", code), job("b", MAKE)], 1, Notes(on_tick=interrupt), held)
    deadline = time.monotonic() + 10
    for pid in map(int, Path("pids").read_text().split()):
        while alive(pid):
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert not Path("b").exists()


def alive(pid: int) -> bool:
    """Whether the process runs: one that ended and that nobody has waited for counts no more."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("epoch 1\nTraceback ...\nValueError: bad\n\n")
    assert last_words(log, 1) == "exit status 1: ValueError: bad"
    assert last_words(log, -15) == "killed by SIGTERM: ValueError: bad"


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

FAKE = """#!{python}
import json, os, pathlib, sys, time
if pathlib.Path("slow").exists():
    pathlib.Path("pid.part").write_text(str(os.getpid()))
    os.rename("pid.part", "pid")
    started = time.monotonic()
    while pathlib.Path("slow").exists() and time.monotonic() < started + 60:
        time.sleep(0.05)
run = pathlib.Path("runs/vgg") / sys.argv[sys.argv.index("--name") + 1]
run.mkdir(parents=True)
(run / "run.json").write_text(json.dumps(dict(test_acc=0.5)))
"""
DRIVE = (
    "import sys\nfrom lightning_vgg.compare import jobs, runner as command\n"
    "from lightning_vgg.commands.compare import main\n"
    "jobs.PROGRAMS = dict.fromkeys(('lightning', 'keras'), sys.argv[1])\n"
    "command.initial_weights = lambda plan, _, seeds: {(arm.name, seed): '' for arm, seed in plan.members(seeds)}\n"
    "command.publish = lambda plan: print('published')\n"
    "main('compare', sys.argv[2:])"
)


def fake_comparison(folder: Path, seeds: int) -> list[str]:
    """The command, with a program in the frameworks' place that takes no time, but while there is a file `slow`."""
    fake = folder / "fake"
    fake.write_text(FAKE.format(python=sys.executable))
    fake.chmod(0o755)
    (folder / "slow").touch()
    flags = ["--data.source", "digits", "--compare.twin=false", *(f"--compare.{name}=false" for name in MEASURED)]
    return [sys.executable, "-c", DRIVE, str(fake), *flags, "--seeds", str(seeds)]


def test_a_signal_stops_cleanly_and_a_repeat_goes_on(tmp_path: Path) -> None:
    command, pid = fake_comparison(tmp_path, seeds=2), tmp_path / "pid"
    for number in (signal.SIGINT, signal.SIGTERM):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while not pid.exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        if number == signal.SIGINT:
            busy = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
            assert "another process is working on runs/vgg/compare-defaults" in busy.stderr
        process.send_signal(number)
        output, error = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert error == "stopped; the same command continues runs/vgg/compare-defaults\n"
        assert "published" not in output
        assert not alive(int(pid.read_text()))
        pid.unlink()
    (tmp_path / "slow").unlink()
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "keras seed 1: test_acc 50.00%" in result.stdout and result.stdout.endswith("published\n")
    arms = json.loads((tmp_path / "runs/vgg/compare-defaults/comparison.json").read_text())["arms"]
    assert {name: list(seeds) for name, seeds in arms.items()} == {
        name: ["0", "1"] for name in ("lightning-keras", "lightning-torch", "keras", "lightning-keras-rounded")
    }


def test_what_a_killed_command_left_running_is_waited_for_and_kept(tmp_path: Path) -> None:
    command, pid = fake_comparison(tmp_path, seeds=1), tmp_path / "pid"
    killed = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not pid.exists():
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    again = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert again.stdout is not None
    assert "compares" in again.stdout.readline()
    assert again.stdout.readline() == "waiting for the trainings that a killed attempt left running\n"
    assert alive(int(pid.read_text()))
    (tmp_path / "slow").unlink()
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 0 and output.endswith("published\n")
    assert "lightning-torch seed 0: started" in output and "lightning-keras seed 0" not in output


@pytest.mark.parametrize(("decided_after", "seeds"), [(3, 3), (4, 4), (99, 5)])
def test_seeds_are_added_until_everything_is_decided(
    decided_after: int, seeds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, _, _, fake, *flags = fake_comparison(tmp_path, seeds=1)
    (tmp_path / "slow").unlink()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(jobs, "PROGRAMS", dict.fromkeys(("lightning", "keras"), fake))

    def no_weights(this: ComparisonPlan, classes: object, seeds: int) -> dict[tuple[str, int], str]:
        return {(arm.name, seed): "" for arm, seed in this.members(seeds)}

    monkeypatch.setattr(runner, "initial_weights", no_weights)

    def trained(path: Path) -> int:
        return min(len(runs) for runs in json.loads(path.read_text())["arms"].values())

    monkeypatch.setattr(runner, "read_comparison", trained)
    monkeypatch.setattr(runner, "undecided", lambda seeds: [] if seeds >= decided_after else ["keras"])
    this = plan(*flags[:-2], "--seeds", "auto", "--max-seeds", "5", "--jobs", "2")
    assert this.looks == [3, 4, 5]
    assert carry_out(this)
    assert trained(this.folder / "comparison.json") == seeds
    record = json.loads((this.folder / "comparison.json").read_text())
    assert record["looks"] == [3, 4, 5] and record["control"]["rounded"] == "lightning-keras-rounded"
    output = capsys.readouterr().out
    assert output.count("undecided after") == seeds - 3 and ("undecided after 3 seeds: keras" in output) == (seeds > 3)


# --- both frameworks, really ------------------------------------------------------------------------------------------

ARMS = {
    "as-keras": {"framework": "lightning"},
    "as-torch": {"framework": "lightning", "settings": {"model.semantics": "torch"}},
    "keras": {"framework": "keras"},
    "broken": {"framework": "lightning", "settings": {"trainer.precision": "8-nonsense"}},
}


@dataclass(frozen=True)
class Trained:
    """A folder in which a comparison has run.

    Attributes:
        root: the folder.
        args: the comparison's command line, to be given there.
        complete: what carry_out returned.
    """

    root: Path
    args: list[str]
    complete: bool

    @property
    def folder(self) -> Path:
        return self.root / "runs" / "tiny" / "compare-my"

    def read(self) -> dict[str, Any]:
        return json.loads((self.folder / "comparison.json").read_text())

    def run(self, arm: str) -> RunFolder:
        return RunFolder.open(self.folder / self.read()["arms"][arm]["3"])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    root = tmp_path_factory.mktemp("compare")
    settings = {
        "experiment": "tiny",
        "seed_everything": 3,
        "model": {"network": {"filters": [4], "units": [4]}},
        "data": {"source": "digits", "image_size": 8, "train_images": 200, "batch_size": 60},
        "trainer": {"max_epochs": 2, "default_root_dir": str(root)},
        "compare": {"seeds": 1, "reference": "keras", **dict.fromkeys(MEASURED, False), "arms": ARMS},
    }
    (root / "my.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    args = ["-c", str(root / "my.yaml"), "--jobs", "2"]
    return Trained(root, args, carry_out(read_plan(comparison_parser(), args)))


@pytest.mark.slow
def test_comparison_json_names_what_is_finished_and_what_failed_with_its_last_words(trained: Trained) -> None:
    record = trained.read()
    assert not trained.complete
    assert (record["experiment"], record["margin"], record["reference"]) == ("tiny", 0.01, "keras")
    assert record["arms"] == {
        arm: {"3": f"../compare-my_{arm}_seed3"} for arm in ("as-keras", "as-torch", "keras", "as-keras-rounded")
    }
    (failure,) = record["failed"]
    assert (failure["arm"], failure["seed"], failure["log"]) == ("broken", 3, "logs/broken_seed3.log")
    assert failure["message"].startswith('exit status 2: Parser key "trainer.precision":')
    assert (record["parity"], record["ablation"], record["horizon"]) == (None, None, None)
    answer = json.loads((trained.folder / record["twin"]).read_text())
    assert (answer["identical"], answer["images"], answer["epochs"]) == (True, 360, 2)


@pytest.mark.slow
def test_arms_start_from_the_same_weights_where_they_draw_them_alike(trained: Trained) -> None:
    digests = {arm: trained.run(arm).read_record()["initial_weights_sha256"] for arm in trained.read()["arms"]}
    assert digests["as-keras"] == digests["as-keras-rounded"] == digests["keras"] != digests["as-torch"]
    assert len(list((trained.folder / "initial_weights").iterdir())) == 2
    histories = [trained.run(arm).read_history() for arm in ("as-keras", "as-keras-rounded")]
    losses = [[row["train_loss"] for row in history] for history in histories]
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=1e-4)  # by rounding alone
    seeds = {trained.run(arm).read_record()["seed"] for arm in digests}
    assert seeds == {3}


@pytest.mark.slow
def test_start_up_is_recorded_by_both_frameworks(trained: Trained) -> None:
    """It goes from before the imports, which take seconds, to the first step, so the rest of its epoch comes after."""
    for arm in ("as-keras", "keras"):
        run = trained.run(arm)
        whole = (run.path / "run.json").stat().st_mtime - (trained.folder / "comparison.yaml").stat().st_mtime
        later = sum(row["seconds"] for row in run.read_history()[1:])
        assert 2 < run.read_record()["startup_seconds"] < whole - later


@pytest.mark.slow
def test_a_repeat_keeps_what_is_finished_and_tries_again_what_failed(
    trained: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.root.rglob("history.csv")}
    assert not carry_out(read_plan(comparison_parser(), trained.args))
    assert {path: path.stat().st_mtime_ns for path in trained.root.rglob("history.csv")} == before
    output = capsys.readouterr().out
    assert output.startswith("broken seed 3: started\nbroken seed 3: FAILED, exit status 2: ")
    assert "(7 of 7)" in output and "keras" not in output.replace(str(trained.root), "")


def logged_names(records: list[dict[str, Any]]) -> set[str]:
    points = [record["history"]["item"] for record in records if record["type"] == "history"]
    summaries = [record["summary"]["update"] for record in records if record["type"] == "summary"]
    return {name for values in (*points, *summaries) for name in values}


@pytest.mark.slow
def test_wandb_has_both_frameworks_curves_under_the_same_names_and_steps_in_one_group_by_arm(trained: Trained) -> None:
    charts = {}
    for arm in trained.read()["arms"]:
        run, records = trained.run(arm), wandb_records(trained.run(arm).path)
        (about,) = (record["run"] for record in records if record["type"] == "run")
        assert (about["run_group"], about["job_type"]) == ("tiny/compare-my", arm)
        points = [record["history"]["item"] for record in records if record["type"] == "history"]
        names = ("train_loss", "train_acc", "val_loss", "val_acc", "learning_rate", "test_loss", "test_acc")
        charts[arm] = {name: [p["trainer/global_step"] for p in points if name in p] for name in names}
        values = [point["val_acc"] for point in points if "val_acc" in point]
        assert values == [row["val_acc"] for row in run.read_history()]
        summary = {
            name: value for r in records if r["type"] == "summary" for name, value in r["summary"]["update"].items()
        }
        for name in ("startup_seconds", "images_per_second", "peak_memory_bytes"):
            assert summary[name] == run.read_record()[name]
    assert charts["as-keras"] == charts["as-torch"] == charts["keras"]
    assert charts["keras"]["train_loss"] == [2, 5] and charts["keras"]["test_acc"] == [6]  # 180 images, 60 a step


@pytest.mark.slow
def test_the_dashboard_shows_what_both_frameworks_log(trained: Trained) -> None:
    from lightning_vgg.report.dashboard import BARS, CURVES

    shown = {name for charts in (*CURVES.values(), *BARS.values()) for name in charts}
    for arm in ("as-keras", "keras"):
        assert shown <= logged_names(wandb_records(trained.run(arm).path))


VERDICT = {
    "arm": "as-keras",
    "reference": "keras",
    "paired": True,
    "seeds": 1,
    "difference": 0.01,
    "low": -0.01,
    "high": 0.03,
    "margin": 0.01,
    "p_value": None,
    "verdict": "undecided",
    "seeds_needed": 12,
}


@pytest.mark.slow
def test_the_report_goes_to_wandb_as_an_artifact_and_the_verdicts_as_a_table(trained: Trained, tmp_path: Path) -> None:
    folder = tmp_path / "compare-my"
    folder.mkdir()
    for name in ("comparison.json", "comparison.yaml"):
        (folder / name).write_bytes((trained.folder / name).read_bytes())
    for name in ("report.html", "report.md"):
        (folder / name).write_text(name)
    verdicts = [{**VERDICT, "by_seed": None}, {**VERDICT, "by_seed": {"3": 0.01}}]
    answers = {"training": TWIN, "rounding": None, "settings": []}
    report = {"answers": answers, "verdicts": verdicts, "twin": TWIN, "horizon": HORIZON}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "parity.json").write_text(json.dumps({"rungs": [{"name": "forward", "measured": 1e-15, "passed": True}]}))
    code = (
        "import sys, pathlib\nfrom lightning_vgg.compare.publish import log_report\n"
        "log_report(pathlib.Path(sys.argv[1]), 'g')"
    )
    home = {"HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", code, folder], check=True, env={**os.environ, **home})
    records = wandb_records(folder)
    (about,) = (record["run"] for record in records if record["type"] == "run")
    assert (about["run_group"], about["job_type"]) == ("g", "report")
    contents = {
        file["path"]: Path(file["local_path"]).read_text()
        for record in records
        if record["type"] == "artifact" and record["artifact"]["type"] == "report"
        for file in record["artifact"]["manifest"]["contents"]
    }
    assert set(contents) == {"report.html", "report.json", "report.md", "comparison.json", "comparison.yaml"}
    assert contents["report.html"] == "report.html"
    summary = {name: value for r in records if r["type"] == "summary" for name, value in r["summary"]["update"].items()}
    tables = {
        name: json.loads(next(folder.glob(f"wandb/offline-run-*/files/{summary[name]['path']}")).read_text())
        for name in ("verdicts", "parity")
    }
    assert tables["verdicts"] == {"columns": list(VERDICT), "data": [list(VERDICT.values())] * 2}
    assert summary["Same training"].startswith("Yes. The same training: both frameworks make")
    assert tables["parity"]["data"] == [["forward", 1e-15, True]]
    points = [record["history"]["item"] for record in records if record["type"] == "history"]
    curves = {TWIN_DISTANCE: TWIN["distances"]}
    for each in HORIZON:
        name = horizon_curve("predictions", each["precision"], each["arm"])
        curves[name] = [list(point) for point in zip(each["steps"], each["predictions"], strict=True)]
    for name, curve in curves.items():
        assert [[point[STEP], point[name]] for point in points if name in point] == curve
    assert not list((tmp_path / "home").rglob("staging/*"))  # what is to be uploaded lies with the run


@pytest.mark.slow
def test_the_command_ends_with_the_path_of_the_report(trained: Trained) -> None:
    pytest.importorskip("lightning_vgg.report")
    arms = {name: arm for name, arm in ARMS.items() if name != "broken"}
    settings = yaml.safe_load((trained.root / "my.yaml").read_text())
    settings["compare"]["arms"] = arms
    (trained.root / "my.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    output = run_in(trained.root)("compare", *trained.args).stdout
    report = trained.folder / "report.html"
    assert output.splitlines()[-1] == f"report   {report}" and report.exists()
    (about,) = (record["run"] for record in wandb_records(trained.folder) if record["type"] == "run")
    assert (about["run_group"], about["job_type"]) == ("tiny/compare-my", "report")
