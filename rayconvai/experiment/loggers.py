"""TensorBoard and Weights & Biases, neither of which may stop a training."""

from __future__ import annotations

import logging
import netrc
import os
import re
import time
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import yaml
from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from lightning_utilities.core.rank_zero import rank_zero_only
from tensorboardX import SummaryWriter
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2
from tensorboardX.writer import FileWriter
from typing_extensions import override

from rayconvai._optional import require
from rayconvai.core.sample import Curve, Matrix, Part, Sample, Sound
from rayconvai.errors import nearest
from rayconvai.experiment.options import OptionError
from rayconvai.experiment.pictures import picture
from rayconvai.experiment.record import Best
from rayconvai.experiment.samples import load_sound

log = logging.getLogger(__name__)

_PATIENCE = {"init_timeout": 15.0, "login_timeout": 15.0, "finish_timeout": 60.0}
"""Seconds that W&B's server is waited for when a run begins and when it ends; what is not sent then stays in files."""
_CLIPS = 20
"""So many sounds that lie in files are logged in a run."""


class RunTensorBoardLogger(TensorBoardLogger):
    """Lightning's logger, always by tensorboardX, into the run's directory itself.

    Raises:
        OptionError: an argument that the SummaryWriter does not have, or its directory, which is the run's.
    """

    def __init__(self, directory: Path, writer_kwargs: Mapping[str, Any]) -> None:
        check_kwargs("summary_writer_kwargs", writer_kwargs, SummaryWriter)
        if writer_kwargs.keys() & {"logdir", "log_dir"}:
            raise OptionError("exp_manager.summary_writer_kwargs: events go to the run's directory; leave out log_dir")
        super().__init__(save_dir=directory, name="", version="", default_hp_metric=False, **writer_kwargs)
        self._clips = _Clips()
        self.purge_step: int | None = None
        """What was written for this step and later, by an attempt that was killed, is hidden."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The SummaryWriter."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir, **{"purge_step": self.purge_step, **self._kwargs})
        return self._experiment

    @property
    @override
    def log_dir(self) -> str:
        return str(self._root_dir)

    @override
    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        """Show the config under Text, as YAML."""
        self.experiment.add_text("config", f"```yaml\n{_yaml(params)}\n```")

    @rank_zero_only
    def log_samples(self, samples: Sequence[Sample], step: int) -> None:
        """Show what the model made of examples: a table under Text, sounds under Audio, the rest under Images."""
        board = self.experiment
        header, *rows = _rows(samples)
        table = [header, ["---"] * len(header), *rows]
        board.add_text("samples", "\n".join("| " + " | ".join(map(str, row)) + " |" for row in table), step)
        for tag, part in _parts(samples):
            if isinstance(part, Sound) and (clip := self._clips.load(part)):
                board.add_audio(tag, clip[0].clip(-1, 1), step, sample_rate=clip[1])
            elif isinstance(part, (Matrix, Curve)):
                board.add_image(tag, np.asarray(picture(part).convert("RGB")), step, dataformats="HWC")

    @override
    @rank_zero_only
    def save(self) -> None:
        if self._experiment is not None:
            self._experiment.flush()

    @override
    @rank_zero_only
    def finalize(self, status: str) -> None:
        # Lightning finalizes after fit and again after test: only flush here; close() ends it.
        self.save()

    def close(self) -> None:
        """Close the event file; what is logged afterwards goes to a new one."""
        if self._experiment is not None:
            self._experiment.close()
            self._experiment = None


class RunWandbLogger(WandbLogger):
    """Lightning's logger; offline where there is no key, and when the server cannot be had.

    Args:
        directory: the run's; W&B's run is called as it is, unless ``kwargs`` have a name.
        kwargs: arguments of Lightning's WandbLogger and of wandb.init.
        project: where the run is put, unless ``kwargs`` have a project.

    Raises:
        OptionError: an argument does not exist.
    """

    best: Best | None = None
    """The best value of the metric that ranks goes into the run's summary."""
    _open_run: ClassVar[Any] = None

    def __init__(self, directory: Path, kwargs: Mapping[str, Any], project: str) -> None:
        check_kwargs("wandb_logger_kwargs", kwargs, WandbLogger, import_wandb().init)
        offline = bool(kwargs.get("offline")) or os.environ.get("WANDB_MODE") in ("offline", "dryrun")
        if not offline and os.environ.get("WANDB_MODE") != "disabled" and not has_wandb_key():
            log.info("W&B: no API key, so the run is kept offline in %s/wandb; `wandb sync` sends it", directory)
            offline = True
        # wandb makes a directory `wandb` below; Lightning's `offline` would set an environment variable for good.
        mode = {"mode": "offline"} if offline else {}
        named = {"name": directory.name, "project": re.sub(r"[/\\#?%:]", "-", project)}  # W&B takes none of these
        given = named | {key: value for key, value in kwargs.items() if key != "offline" and value is not None}
        if isinstance(settings := given.get("settings", {}), Mapping):
            given["settings"] = {**_PATIENCE, **settings}
        super().__init__(save_dir=str(directory), **{**given, **mode})
        self._clips = _Clips()
        if self._wandb_init["anonymous"] is None:
            del self._wandb_init["anonymous"]  # W&B warns of it, whatever its value

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run."""
        if self._experiment is not None:
            return self._experiment
        wandb = import_wandb()
        if wandb.run is not None and wandb.run is RunWandbLogger._open_run:
            # The run before in this process was not closed; Lightning would log into it.
            wandb.finish()
        try:
            run = super().experiment
        except (ValueError, TypeError) as error:
            raise OptionError(f"exp_manager.wandb_logger_kwargs: {' '.join(str(error).split())[:300]}") from error
        except Exception as error:  # noqa: BLE001 (a server, a network and a disk are behind it)
            run = self._offline_run(error)
        RunWandbLogger._open_run = run
        return run

    def _offline_run(self, error: Exception) -> Any:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.warning("W&B cannot be had (%s); the run is kept offline in %s/wandb", reason, self.save_dir)
        self._wandb_init["mode"] = "offline"
        try:
            import_wandb().teardown()  # its process would hold on to the id of the run that did not come about
            return super().experiment
        except Exception as error:  # noqa: BLE001
            log.warning("W&B cannot keep the run offline either (%s); the training goes on without", error)
            nothing: Any = _DummyExperiment()
            self._experiment = nothing
            return nothing

    @override
    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics(metrics, step)
        kept = not isinstance(self._experiment, _DummyExperiment)
        if kept and self.best is not None and self.best.monitor in metrics:
            name = self.best.monitor
            self.experiment.summary[f"best/{name}"] = self.best.after(float(metrics[name]))

    @rank_zero_only
    def log_samples(self, samples: Sequence[Sample], step: int) -> None:
        """Show what the model made of examples: a table of the texts, and sounds and pictures, under the names that
        TensorBoard has them by."""
        wandb = import_wandb()
        columns, *rows = _rows(samples)
        media: dict[str, Any] = {"samples": wandb.Table(columns=columns, data=rows)}
        for tag, part in _parts(samples):
            if isinstance(part, Sound) and (clip := self._clips.load(part)):
                media[tag] = wandb.Audio(clip[0].clip(-1, 1), sample_rate=clip[1])
            elif isinstance(part, (Matrix, Curve)):
                media[tag] = wandb.Image(picture(part))
        super().log_metrics(media, step)

    def close(self) -> None:
        """End the W&B run; its files are complete a moment later, when W&B's own process has written them."""
        if self._experiment is not None:
            self._experiment.finish()
            self._experiment = None


class _Writer(SummaryWriter):  # type: ignore[misc]
    """tensorboardX writes from a thread through a queue: when the disk is full the thread dies and the queue blocks
    the training for ever. Events are small, so this one writes them at once."""

    file_writer: Any
    all_writers: Any
    purge_step: int | None

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            self.file_writer = _SameThreadFileWriter(self.logdir, self._filename_suffix)
            self.all_writers = {self.logdir: self.file_writer}
            if self.purge_step is not None:
                start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
                self.file_writer.add_event(event_pb2.Event(step=self.purge_step, session_log=start))
                self.purge_step = None
        return self.file_writer


class _SameThreadFileWriter(FileWriter):  # type: ignore[misc]
    def __init__(self, logdir: str, suffix: str) -> None:
        self.event_writer = _Events(logdir, suffix)
        self._default_metadata: dict[str, Any] = {}


class _Events:
    """Writes events to one file; a failure is said once, and the training goes on without."""

    def __init__(self, logdir: str, suffix: str) -> None:
        self._logdir = logdir
        # tensorboardX names files by the second: two attempts in one second would share a file.
        suffix = f".{time.time_ns()}.{os.getpid()}{suffix}"
        self._writer: EventsWriter | None = None
        try:
            os.makedirs(logdir, exist_ok=True)
            self._writer = EventsWriter(os.path.join(logdir, "events"), suffix)
        except OSError as error:
            self._give_up(error)

    def get_logdir(self) -> str:
        return self._logdir

    def add_event(self, event: Any) -> None:
        if self._writer is not None:
            try:
                self._writer.write_event(event)
            except OSError as error:
                self._give_up(error)

    def flush(self) -> None:
        if self._writer is not None:
            try:
                # Not the writer's own flush, which waits for the disk at every call.
                self._writer._py_recordio_writer._writer.flush()
            except OSError as error:
                self._give_up(error)

    def close(self) -> None:
        self.flush()
        if self._writer is not None:
            self._writer._py_recordio_writer.close()
            self._writer = None

    def _give_up(self, error: OSError) -> None:
        self._writer = None
        log.warning("TensorBoard events cannot be written to %s (%s); training goes on without", self._logdir, error)


def import_wandb() -> Any:
    # Its import takes as long as the start of a small run; only runs that ask for it pay for it.
    return require("wandb")


def has_wandb_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(path).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def check_kwargs(option: str, kwargs: Mapping[str, Any], *targets: Any) -> None:
    names = {name for target in targets for name in signature(target).parameters if name not in ("self", "kwargs")}
    for key in kwargs:
        if key not in names:
            raise OptionError(f"exp_manager.{option} has no option {key}{nearest(key, names)}")


def _yaml(params: dict[str, Any] | Namespace) -> str:
    plain = vars(params) if isinstance(params, Namespace) else params
    return yaml.safe_dump(_plain(plain), sort_keys=False, allow_unicode=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _rows(samples: Sequence[Sample]) -> list[list[Any]]:
    """Return the samples as a table, its header first."""
    names = list(dict.fromkeys(name for sample in samples for name in sample.texts))
    rows = [[sample.where, sample.score, *(sample.texts.get(name, "") for name in names)] for sample in samples]
    return [["where", "score", *names], *rows]


def _parts(samples: Sequence[Sample]) -> Iterator[tuple[str, Part]]:
    for place, sample in enumerate(samples, start=1):
        for name, part in sample.parts.items():
            yield f"samples/{place}_{name}", part


class _Clips:
    """The sounds of a run's samples. Those that a model made are all shown; of those that lie in files, and stay
    there, the first few: logs of a thousand epochs would be large."""

    def __init__(self) -> None:
        self._left = _CLIPS

    def load(self, sound: Sound) -> tuple[np.ndarray[Any, Any], int] | None:
        if sound.signal is None:
            self._left -= 1
            if self._left < 0:
                return None
        return load_sound(sound)
