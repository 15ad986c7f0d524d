"""``python -m rayconvai.train --config-name RECIPE [KEY=VALUE ...]``: train one model; Hydra's own flags work too.

``--rerun RUN_DIR [KEY=VALUE ...]`` trains what a run's directory holds once more, and compares.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from rayconvai.config.check import complete, resources
from rayconvai.config.compose import Composer, config_root
from rayconvai.config.overrides import Split, parse, quote
from rayconvai.errors import ConfigError, RayconvaiError, run_cli
from rayconvai.places import is_address, lasting_place

if TYPE_CHECKING:
    from rayconvai.train.rerun import RecordedRun

_NAME = "python -m rayconvai.train"
_DIRECTORIES = ("--config-dir", "-cd", "--rerun")


class _Stop(BaseException):
    """Carries an error past Hydra, which would print more than its one line."""

    def __init__(self, error: RayconvaiError) -> None:
        self.error = error


def main() -> int:
    """Check every run that the command line asks for, then let Hydra do what it asks."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then leaves its errors to us
    sys.argv[1:] = _fetched(sys.argv[1:])
    flag = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    flag.add_argument("--rerun", nargs="?", const="", metavar="RUN_DIR")
    asked, tokens = flag.parse_known_args()
    arguments = get_args_parser().parse_intermixed_args(tokens)  # flags may stand among the overrides
    flags = _without(tokens, arguments.overrides)
    recorded = None if asked.rerun is None else _recorded(asked.rerun, arguments, flags)
    if arguments.config_path is not None:
        raise ConfigError("--config-path is not supported; add a directory of your own recipes with --config-dir")
    asked_for = {"-m": arguments.multirun, "--cfg": arguments.cfg, "--info": arguments.info}
    if len(both := [name for name, is_asked in asked_for.items() if is_asked]) > 1:
        raise ConfigError(f"{' and '.join(both)} exclude each other")
    if arguments.resolve and not (arguments.cfg or arguments.help):
        raise ConfigError("--resolve goes with --cfg job")
    directories = [] if arguments.config_dir is None else [Path(arguments.config_dir)]
    composer = Composer(str(arguments.config_name), arguments.overrides, directories)
    settings = ["hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.run.dir=.", "hydra.output_subdir=null"]
    if arguments.help:
        settings += _help(composer)
        lines = Split((), tuple(arguments.overrides))
    elif arguments.hydra_help or arguments.info or arguments.shell_completion:
        lines = Split((), tuple(arguments.overrides))
    else:
        if arguments.config_name is None:
            raise ConfigError(f"no recipe: give --config-name; recipes: {', '.join(composer.recipes())}")
        lines = composer.split(allow_sweeps=arguments.multirun)
        if recorded and lines.groups:
            raise ConfigError(
                f"--rerun: a recorded config has no groups to choose {lines.groups[0]!r} of; set its keys"
            )
        settings += _check_all(arguments, composer, lines, directories)
    given = [override.key_or_group for override in parse(lines.groups)]
    settings = [line for line in settings if line.partition("=")[0] not in given]
    # Flags come last: --info alone would take what follows for its value.
    sys.argv[1:] = [*settings, *lines.groups, *lines.values, *flags]

    def task(composed: DictConfig) -> None:
        _task(composed, recorded)

    try:
        hydra.main(config_path=str(config_root()), config_name=None, version_base="1.3")(task)()
    except _Stop as stop:
        raise stop.error from stop.error.__cause__
    except HydraException as error:
        raise ConfigError(composer.explain(error)) from error
    return 0


def _fetched(tokens: list[str]) -> list[str]:
    """Return the command line with the working copy of a run in a bucket where its address was."""
    asked = [at for at in range(1, len(tokens)) if tokens[at - 1] in _DIRECTORIES and is_address(tokens[at])]
    if not asked:
        return tokens
    from rayconvai.experiment.mirror import fetched  # torch: --help need not load it

    return [str(fetched(token)) if at in asked else token for at, token in enumerate(tokens)]


def _recorded(directory: str, arguments: argparse.Namespace, flags: list[str]) -> RecordedRun:
    """Read the run that is to be had once more, and let Hydra compose its config."""
    from rayconvai.train.rerun import read_run  # torch: --help need not load it

    if arguments.config_name is not None or arguments.config_dir is not None:
        raise ConfigError("--rerun takes the config from the run's directory; leave out --config-name and --config-dir")
    recorded = read_run(Path(directory))
    recorded.take_threads()
    arguments.config_name, arguments.config_dir = "config", directory
    flags += ["--config-name", "config", "--config-dir", directory]
    arguments.overrides[:0] = recorded.overrides()
    return recorded


def _task(composed: DictConfig, recorded: RecordedRun | None) -> None:
    """Train the run that Hydra composed; with -m, in the directory that Hydra has made for it."""
    config = complete(composed)
    OmegaConf.set_struct(config, True)
    job = HydraConfig.get()
    run_dir = Path(job.runtime.output_dir) if job.mode == RunMode.MULTIRUN else None
    try:
        _train(config, [line.removeprefix("++") for line in job.overrides.task], run_dir, recorded)
    except RayconvaiError as error:
        raise _Stop(error) from error


def _train(config: DictConfig, overrides: list[str], run_dir: Path | None, recorded: RecordedRun | None) -> None:
    from rayconvai.experiment.interrupt import Interrupted  # data, audio, checkpoints: --help need not load them
    from rayconvai.experiment.mirror import lasting
    from rayconvai.train.finish import train
    from rayconvai.train.fit import process_rank
    from rayconvai.train.runtime import Runtime

    runtime = Runtime(run_dir=run_dir, overrides=overrides)
    if recorded:
        runtime = recorded.runtime(runtime, config)
    try:
        if resources(config).has_workers:
            from rayconvai.train.launch import train_with_workers

            outcome = train_with_workers(config, runtime)
        else:
            outcome = train(config, runtime, Runtime(progress=False))
    except Interrupted as stop:
        if stop.checkpoint is not None and not process_rank():
            print(f"interrupted; to go on: {_to_go_on(str(stop.run_dir))}", file=sys.stderr)
        raise
    if process_rank():
        return
    if outcome.artefact is not None:
        print(f"artefact: {lasting(outcome.artefact)}")
    for name, value in sorted(outcome.metrics.items()):
        print(f"{name}: {value:.4g}")
    if recorded:
        print(recorded.compare(outcome.run_dir))
    print(f"run: {lasting(outcome.run_dir)}")


def _to_go_on(run: str) -> str:
    """Return the command, for a shell, that goes on with the run in a directory."""
    hydra_path = run if re.fullmatch(r"[\w/.:-]+", run) else quote(run)
    flags = ["--config-dir", run, "--config-name", "config"]
    lines = [f"exp_manager.explicit_log_dir={hydra_path}", "exp_manager.resume_if_exists=true"]
    return shlex.join([*_NAME.split(), *flags, *lines])


def _check_all(arguments: argparse.Namespace, composer: Composer, lines: Split, directories: list[Path]) -> list[str]:
    """Compose and check every run before the first starts; return the settings of Hydra that follow from them."""
    if not arguments.multirun:
        composer.compose()
        return []
    points = Composer(composer.recipe, (), directories)
    configs = [points.compose(point) for point in _points((*lines.groups, *lines.values))]
    first = configs[0]
    place = lasting_place(first.exp_manager.exp_dir or "runs")
    if is_address(place):
        raise ConfigError("-m keeps its runs in directories; for a bucket, make it a sweep: python -m rayconvai.sweep")
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    directory = Path(place) / first.name / f"multirun_{now}"
    return [f"hydra.sweep.dir={quote(str(directory))}", "hydra.sweep.subdir=${hydra.job.num}"]


def _points(lines: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """Yield the overrides of each run that Hydra's own sweeper would make of these."""
    choices = []
    for line, override in zip(lines, parse(lines), strict=True):
        key = line.partition("=")[0]
        values = override.sweep_string_iterator() if override.is_sweep_override() else None
        choices.append([line] if values is None else [f"{key}={value}" for value in values])
    return itertools.product(*choices)


def _help(composer: Composer) -> list[str]:
    header = (
        f"{_NAME} --config-name RECIPE [KEY=VALUE ...] trains one model;\n"
        f"{_NAME} --rerun RUN_DIR [KEY=VALUE ...] trains what a run's directory holds once more, and compares."
    )
    footer = f"Recipes: {', '.join(composer.recipes())}. Every key of one: {_NAME} --config-name RECIPE --cfg job"
    return [f"hydra.help.header={quote(header)}", f"hydra.help.footer={quote(footer)}"]


def _without(tokens: list[str], overrides: list[str]) -> list[str]:
    left = list(overrides)
    kept = []
    for token in tokens:
        if token in left:
            left.remove(token)
        else:
            kept.append(token)
    return kept


if __name__ == "__main__":
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        sys.argv.append("--debug")
    run_cli(main)
