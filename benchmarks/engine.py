"""What the sweep engine costs by itself: python benchmarks/engine.py [--trials 4] [--seconds 30] [--rounds 3]

The same trials, which mostly sleep, run through ``python -m rayconvai.sweep`` and through a bare Ray Tune script that
trains the same Lightning module with Lightning's own checkpoints and reports as often, in turns. Prints the seconds of
each whole command, imports and start of Ray included, their medians, and how much of a core our driver takes while the
trials run. To reach: at most 5 % more than the bare one for trials of 30 s, and a driver under 5 % of a core. Linux
only.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "crash"))

from harness import Place, Session

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 10
STEPS = 8
"""Of an epoch of ChanceData."""


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30, help="of a trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrent", type=int, default=1)
    parser.add_argument("--bare", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    pause = arguments.seconds / EPOCHS / STEPS
    if arguments.bare:
        _bare(arguments.bare, arguments.trials, pause, arguments.concurrent)
        return
    seen: dict[str, list[float]] = {"bare": [], "ours": [], "ours, trials alone": [], "driver, % of a core": []}
    for turn in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            root = Path(scratch)
            began = time.monotonic()
            options = ["--trials", str(arguments.trials), "--seconds", str(arguments.seconds)]
            options += ["--concurrent", str(arguments.concurrent), "--bare", str(root / "bare")]
            subprocess.run([sys.executable, __file__, *options], check=True, env=_environment(), capture_output=True)
            seen["bare"].append(time.monotonic() - began)
            overrides = [f"budget.trials={arguments.trials}", f"resources.concurrent={arguments.concurrent}"]
            overrides += [f"overrides=[model.pause={pause}, trainer.max_epochs={EPOCHS}]", "search.name=optuna"]
            _ours(Place(root / "ours", *overrides), arguments.trials, seen)
        for name, values in seen.items():
            print(f"round {turn + 1}: {name} {values[-1]:.2f}", flush=True)
    medians = {name: statistics.median(values) for name, values in seen.items()}
    print(", ".join(f"{name} {value:.2f}" for name, value in medians.items()))
    print(f"our whole command takes {100 * (medians['ours'] / medians['bare'] - 1):.1f} % more than the bare one")


def _ours(place: Place, trials: int, seen: dict[str, list[float]]) -> None:
    began = time.monotonic()
    with place.started() as session:
        session.wait_for("result")
        watched, ticks = time.monotonic(), _ticks(session)
        for number in range(trials):
            session.wait_for("end", trial=number)
        seen["driver, % of a core"].append(100 * (_ticks(session) - ticks) / (time.monotonic() - watched))
        assert session.end() == 0, place.output
    seen["ours"].append(time.monotonic() - began)
    times = [record["time"] for record in place.records("attempt", "end")]
    seen["ours, trials alone"].append(times[-1] - times[0])


def _ticks(session: Session) -> float:
    """Return the CPU seconds that the driver has taken."""
    fields = Path(f"/proc/{session.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _environment() -> dict[str, str]:
    quiet = {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **quiet, "PYTHONPATH": os.pathsep.join([str(ROOT / "tests" / "crash"), str(ROOT)])}


def _bare(storage: Path, trials: int, pause: float, concurrent: int) -> None:
    """Run the trials as one would with Ray Tune and Lightning alone."""
    import ray
    from ray import tune

    ray.init(address="local", include_dashboard=False, object_store_memory=128 * 2**20, log_to_driver=False)
    tune.Tuner(
        tune.with_resources(tune.with_parameters(_train, storage=storage, pause=pause), {"cpu": 1}),
        param_space={"lr": tune.loguniform(1e-3, 1e-1), "dropout": tune.choice([0.0, 0.1, 0.3])},
        tune_config=tune.TuneConfig(
            metric="val_loss", mode="min", num_samples=trials, max_concurrent_trials=concurrent, reuse_actors=True
        ),
        run_config=tune.RunConfig(name="bare", storage_path=str(storage), verbose=0),
    ).fit()


def _train(config: dict[str, float], storage: Path, pause: float) -> None:
    import torch
    from chance_recipe import ChanceData, ChanceModel
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from ray import tune

    class Report(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
            tune.report({**metrics, "epoch": trainer.current_epoch + 1})

    class Bare(ChanceModel):
        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=config["lr"])

    directory = storage / "trials" / tune.get_context().get_trial_id()
    trainer = Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        logger=CSVLogger(directory),
        callbacks=[Report(), ModelCheckpoint(directory, monitor="val_loss", save_last=True)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Bare(width=16, depth=2, dropout=config["dropout"], pause=pause), datamodule=ChanceData())


if __name__ == "__main__":
    main()
