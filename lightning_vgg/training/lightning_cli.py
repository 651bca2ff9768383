"""The LightningCLI of this project: specs instead of classes, and a run folder for every fit."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning_utilities.core.rank_zero import rank_zero_only

from lightning_vgg.common.errors import ExperimentError
from lightning_vgg.common.plain import PlainDict
from lightning_vgg.experiment.backbone_plan import plan_model
from lightning_vgg.experiment.parsing import ExplainsErrors, add_experiment_arguments, config_files, experiment_spec
from lightning_vgg.experiment.settings import config_text, plain_settings, refuse_changes
from lightning_vgg.experiment.specs import LoggerName, TrainerSpec
from lightning_vgg.experiment.trainer_flags import refuse_flags, require_loggers
from lightning_vgg.images.dataset import refuse_other_images
from lightning_vgg.runs import weight_trace
from lightning_vgg.runs.class_counts import class_count_lines
from lightning_vgg.runs.folder import MEASURED, RunFolder, test_lines
from lightning_vgg.runs.machine import keep_freed_memory
from lightning_vgg.runs.tracking import end_wandb_run
from lightning_vgg.training.callbacks import RunRecorder
from lightning_vgg.training.cuda_check import make_cuda_checks_cheap
from lightning_vgg.training.data import ImageData
from lightning_vgg.training.loggers import build_loggers, log_summary
from lightning_vgg.training.mistakes import picture_mistakes
from lightning_vgg.training.module import VGGClassifier
from lightning_vgg.training.patience import Patience
from lightning_vgg.training.pretrained import load_pretrained
from lightning_vgg.training.weight_trace import TraceWeights
from lightning_vgg.weights.pretrained import recorded_pretrained


def run_command(command: str, args: list[str], cli: Callable[..., ExperimentCLI] | None = None) -> ExperimentCLI:
    """Run ``fit``, ``validate`` or ``test`` with its arguments, by ExperimentCLI or a kind of it."""
    keep_freed_memory()
    make_cuda_checks_cheap()
    for name in ("pytorch", "fabric"):
        logging.getLogger(f"lightning.{name}").setLevel(logging.WARNING)  # or it lists absent hardware and advertises
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # whose results are such messages, too
    # lightning 2.6 calls what torch 2.14 deprecates; nothing that a user could change.
    warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
    warnings.filterwarnings("ignore", message="Total length of `list` across ranks is zero")  # validation_fraction: 0
    try:
        return (cli or ExperimentCLI)(
            parser_class=ExperimentParser,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults={
                "max_epochs": 10,
                "precision": "32-true",
                "log_every_n_steps": 1,  # nothing is logged by the step; a larger number only warns of short epochs
                "num_sanity_val_steps": 0,
            },
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            args=[command, *args],
        )
    except MisconfigurationException as error:  # of the trainer's settings
        raise ExperimentError(f"trainer: {error}") from None
    except torch.OutOfMemoryError as error:
        raise ExperimentError(f"the GPU's memory is full; lower data.batch_size ({error})") from None
    finally:
        end_wandb_run(failed=sys.exception() is not None)


def _are_of_the_user(loggers: object) -> bool:
    """Whether they are loggers by class path, and not the names of known ones."""
    return any(isinstance(logger, Logger) for logger in (loggers if isinstance(loggers, list) else [loggers]))


def _rank() -> int:
    """Of this process among all, by what the launcher has put into the environment."""
    return int(rank_zero_only.rank)  # type: ignore[attr-defined]


_COUNTS_OR_SHARES = ("limit_train_batches", "limit_val_batches", "limit_test_batches")
"""1 is a batch, and 1.0 all of them. Lightning's own annotation may become Union[float, int], which reads 1 as 1.0:
typing keeps unions in a cache that takes both orders for the same."""


class ExperimentParser(ExplainsErrors, LightningArgumentParser):
    """LightningArgumentParser with errors that help."""


class ExperimentCLI(LightningCLI):
    """Builds the data, the network, the run folder and the trainer of an experiment."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        return {name: skip for name, skip in LightningCLI.subcommands().items() if name != "predict"}

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        types = {
            "logger": bool | LoggerName | list[LoggerName] | Logger | list[Logger] | None,
            **dict.fromkeys(_COUNTS_OR_SHARES, int | float | None),
            "val_check_interval": int | float | str | timedelta | dict[str, int] | None,
        }
        parser.add_class_arguments(
            Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True, skip=set(types)
        )
        for name, kind in types.items():
            parser.add_argument(f"--trainer.{name}", type=kind, default=None)
        parser.set_defaults({f"trainer.{key}": value for key, value in self.trainer_defaults.items()})
        add_experiment_arguments(parser)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """LightningCLI's own warns where the program has arguments, too, as a notebook's kernel has."""
        self.arguments: list[str] = args
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        """Settings come from YAML and flags alone; a checkpoint holds none."""

    def instantiate_classes(self) -> None:
        assert self.subcommand is not None
        refuse_flags(vars(self.config[self.subcommand].trainer))
        try:
            self.config_init = self.parser.instantiate(self.config)
        except ExperimentError:
            raise
        except Exception as error:  # of the constructor of a logger or callback
            raise ExperimentError(f"trainer: {' '.join(str(error).split())}") from None
        config = self.config_init[self.subcommand]
        self.experiment = experiment_spec(config)
        require_loggers(self.experiment.trainer)
        # Whatever can be refused is refused before an image is read or a folder made.
        spec, size = self.experiment.model, self.experiment.image_size
        self._check_sync_batchnorm(config)
        resumed = None
        if self.subcommand != "fit" or config.ckpt_path is not None:
            resumed, config.ckpt_path = self._trained_run(config)
            resuming = self.subcommand == "fit"
            refuse_changes(resumed.path / "config.yaml", self.experiment, vars(config.trainer), resuming)
            if resumed.read_record().get("framework") == "keras":
                raise ExperimentError(f"{resumed.path} was trained by Keras: continue it with keras-reference")
        if resumed and config.ckpt_path:
            pretrained = recorded_pretrained(spec.backbone, size, resumed)
        else:  # perhaps stopped before there was a checkpoint with the weights
            pretrained = (
                load_pretrained(spec.backbone, size, spec.resolved_semantics) if spec.backbone is not None else None
            )
        plan_model(self.experiment, num_classes=2, backbone=pretrained.plan if pretrained else None)
        normalization = pretrained.normalization if pretrained else None
        self.datamodule = ImageData(self.experiment, normalization)
        if resumed:
            refuse_other_images(self.datamodule.dataset, resumed, resuming=self.subcommand == "fit")
        weights = self.datamodule.dataset.class_weights
        self.model = VGGClassifier(self.experiment, self.datamodule.num_classes, pretrained, weights)
        self.validated = self.datamodule.count("val") > 0 and config.trainer.limit_val_batches != 0
        callbacks = config.trainer.callbacks or []
        self.callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        self._check_monitors()
        self.is_new = resumed is None
        self.run = resumed or self._new_run()
        with self._leaving_nothing_untrained():
            self.trainer = self.instantiate_trainer(**self._trainer_arguments(config))
            if self.subcommand == "fit" and self.trainer.world_size > 1 and (reason := spec.needs_one_process):
                raise ExperimentError(reason)  # before the other processes start
        if self.subcommand == "fit" and _rank() == 0:
            self.run.write_config(config_text(self.experiment, self._trainer_settings()))

    def _check_sync_batchnorm(self, config: Namespace) -> None:
        if not config.trainer.sync_batchnorm:
            return
        if config.trainer.accelerator == "cpu" or not torch.cuda.is_available():
            raise ExperimentError("trainer.sync_batchnorm needs GPUs: torch.nn.SyncBatchNorm does not run on CPUs")
        if self.experiment.model.resolved_semantics.batch_norm_variance == "biased":
            raise ExperimentError(
                "trainer.sync_batchnorm keeps torch's unbiased variance, Keras's is biased: choose torch's by "
                "--model.semantics_except [batch_norm_variance], or --model.semantics torch"
            )

    def _check_monitors(self) -> None:
        """Lightning itself would miss the quantity after the first epoch."""
        if not self.validated and (needing := self.experiment.model.needs_validation):
            raise ExperimentError(f"{needing} needs validation images, but there is no validation: leave it out")
        measured = [name for name in MEASURED if self.validated or not name.startswith("val_")]
        for callback in self.callbacks:
            monitor = getattr(callback, "monitor", None)
            if monitor is not None and monitor not in measured:
                raise ExperimentError(
                    f"trainer.callbacks: {type(callback).__name__} monitors {monitor!r}, which is not measured; "
                    f"choose one of {', '.join(measured)}"
                )

    @contextmanager
    def _leaving_nothing_untrained(self) -> Iterator[None]:
        """Remove the folder of a new run that is refused before its first step."""
        try:
            yield
        except BaseException:
            if self.is_new and _rank() == 0 and not self.recorder.began:
                end_wandb_run(failed=True)
                self.run.discard()
            raise

    def _new_run(self) -> RunFolder:
        if _rank() != 0:
            return RunFolder(Path())  # the first process makes it, and tells the others in RunRecorder.setup
        spec = self.experiment
        return RunFolder.create(spec.root, spec.experiment, spec.name, spec.seed_everything)

    def _trained_run(self, config: Namespace) -> tuple[RunFolder, str | None]:
        """The run that ckpt_path means, and its checkpoint's file; none for one that was stopped before its first.

        A file says it itself; otherwise it is the run whose config.yaml was given, or the newest of the experiment.
        """
        asked = config.ckpt_path or "best"
        if asked not in ("best", "last"):
            path = Path(asked)
            if not path.is_file():
                raise ExperimentError(f"--ckpt_path: there is no checkpoint {path}")
            run = RunFolder.open(path.parent.parent)
            return run, str(run.sound(path))
        given = config_files(self.arguments)
        resuming = self.subcommand == "fit" and asked == "last"
        if given and (given[-1].parent / "checkpoints").is_dir():
            run = RunFolder.open(given[-1].parent)
        else:
            spec = self.experiment
            run = RunFolder.newest(spec.root, spec.experiment, spec.name, trained=not resuming)
        if resuming and not any(run.checkpoints.glob("*.ckpt")):
            return run, None
        return run, str(run.checkpoint("last" if asked == "last" else "best"))

    def _trainer_arguments(self, config: Namespace) -> PlainDict:
        fitting = self.subcommand == "fit"
        bar = self.experiment.trainer.enable_progress_bar
        if bar is None:
            bar = sys.stderr.isatty()
        self.recorder = RunRecorder(self.run, self.validated, echo=fitting and not bar)
        trace = [TraceWeights(self.run)] if fitting and weight_trace.is_wanted() else []
        model = self.experiment.model
        patience = [Patience(self.run)] if fitting and (model.early_stopping or model.reduce_on_plateau) else []
        logger, summary = config.trainer.logger, config.trainer.enable_model_summary
        if not fitting or config.trainer.fast_dev_run:
            logger = False
        elif not _are_of_the_user(logger):
            settings = plain_settings(self.experiment, self._trainer_settings())
            names = self.experiment.trainer.loggers
            logger = build_loggers(names, self.run, self.experiment.experiment, settings) or False
        return {
            "callbacks": [*self.callbacks, *trace, *patience, self.recorder],
            "enable_progress_bar": bar,
            "enable_model_summary": fitting and (bar if summary is None else summary),
            "logger": logger,
        }

    def _trainer_settings(self) -> PlainDict:
        """Of the trainer, as plain values: what every framework reads, and what differs from Lightning's defaults."""
        parser = self._parser(self.subcommand)
        ours, defaults = (
            yaml.safe_load(parser.dump(values, skip_unset=False, skip_validation=True))["trainer"]
            for values in (self.config[self.subcommand], parser.get_defaults())
        )
        shared = {field.name for field in fields(TrainerSpec)}
        return {key: value for key, value in ours.items() if key in shared or value != defaults[key]}

    def before_fit(self) -> None:
        """Show how many images each class has, where that differs much."""
        if self.trainer.is_global_zero:
            data, model = self.datamodule.dataset, self.experiment.model
            weighted = data.class_weights is not None
            for line in class_count_lines(data.images_per_class, weighted, model.best_by):
                print(line, flush=True)

    def fit(self, **arguments: Any) -> None:
        with (
            self._leaving_nothing_untrained(),
            self.run.being_trained() if self.trainer.is_global_zero else nullcontext(),
        ):
            self.trainer.fit(**arguments)

    def after_fit(self) -> None:
        """Test the best checkpoint, and say which one it was."""
        self.run = self.recorder.run
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            if self.trainer.is_global_zero and self.is_new:
                self.run.discard()
                print("trainer.fast_dev_run: all parts run; nothing is kept")
            return
        best = str(self.run.checkpoint("best")) if self.trainer.is_global_zero else ""
        self.trainer.test(self.model, self.datamodule, ckpt_path=self.trainer.strategy.broadcast(best), verbose=False)
        if self.trainer.is_global_zero:
            log_summary(self.trainer.loggers, self.run)
        self._after_test()

    def test(self, **arguments: Any) -> None:
        self.trainer.test(**{**arguments, "verbose": False})

    def after_test(self) -> None:
        self._after_test()

    def _after_test(self) -> None:
        """Keep what the report shows of the images, and say the results."""
        if self.reports:
            picture_mistakes(self.run, self.datamodule.part("test").images)
        if self.trainer.is_global_zero:
            print(test_lines(self.run))

    @property
    def reports(self) -> bool:
        """Whether the command, in this process, is to end with a report."""
        tested = self.subcommand in ("fit", "test") and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        return self.experiment.report and tested and self.trainer.is_global_zero
