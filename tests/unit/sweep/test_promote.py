"""What becomes of a sweep: its best measured again, averaged or trained anew, and written as an artefact."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rayconvai.core.model import Model
from rayconvai.errors import CheckpointError, SweepError
from rayconvai.sweep.checkpoints import best_first
from rayconvai.sweep.journal import read_journal
from rayconvai.sweep.promote import Options, main, promote
from rayconvai.sweep.retention import Retention
from rayconvai.sweep.spec import CheckpointsSpec, MetricSpec, recorded_spec

ByHand = Callable[..., Any]
LOSS = MetricSpec(name="val_loss", mode="min")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, sweep_by_hand: ByHand) -> Path:
    """A finished sweep of three trials, t0001 the best."""
    sweep = sweep_by_hand(tmp_path_factory.mktemp("made"))
    sweep.run([0.002, 0.05, 0.01])
    return Path(sweep.directory)


@pytest.fixture
def sweep(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it."""
    monkeypatch.setenv("RAYCONVAI_CACHE", str(tmp_path / "cache"))
    return shutil.copytree(made, tmp_path / "demo")


def card_of(sweep: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((sweep / "best" / "card.json").read_text())
    return card


def slope_of(sweep: Path) -> float:
    return float(Model.restore_from(sweep / "best").slope.detach())


def test_the_winner_is_chosen_on_dev_and_the_card_says_how(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "--top", "2"]) == 0
    output = capsys.readouterr().out
    assert "best: t0001 of 3 trials, by val_loss on dev (test chooses nothing)" in output
    assert [line.split()[:2] for line in output.splitlines()[1:3]] == [["1", "t0001"], ["2", "t0002"]]
    state, card = read_journal(sweep), card_of(sweep)
    told, best = card["sweep"], state.trials[1].best("val_loss", "min")
    assert best is not None
    assert (told["name"], told["trial"], told["point"]) == ("demo", "t0001", {"optim.lr": 0.05})
    assert (told["chosen_on_dev"]["value"], told["chosen_on_dev"]["epoch"]) == best
    assert told["best_of"] == {"trials": 3, "ended": 3}
    assert sorted(told["measured"]) == ["t0001", "t0002"]
    assert told["measured"]["t0001"] == card["metrics"]
    assert set(card["metrics"]) == {"test_loss"}
    assert told["identity"] == state.identity


def test_a_sweep_from_before_a_key_was_there_is_promoted(sweep: Path) -> None:
    for config in sweep.glob("trials/*/config.yaml"):
        written = config.read_text()
        assert "\nsamples: true" in written
        config.write_text(written.replace("\nsamples: true", ""))
    assert promote(sweep, read_journal(sweep), LOSS).trial.name == "t0001"


def test_the_test_set_does_not_choose(sweep: Path) -> None:
    promoted = promote(sweep, read_journal(sweep), LOSS, Options(top=3))
    tests = {one.trial.name: one.metrics["test_loss"] for _, trials in promoted.ranks for one in trials}
    assert promoted.trial.name == "t0001"
    assert promoted.metrics["test_loss"] == tests["t0001"]
    assert promote(sweep, read_journal(sweep), LOSS, Options(split="dev")).metrics.keys() == {"val_loss"}


def test_a_checkpoint_that_went_is_replaced_by_the_next_best(sweep: Path) -> None:
    state, metric = read_journal(sweep), LOSS
    left = best_first(sweep / "trials" / "t0001", state.trials[1], metric)
    assert [one.epoch for one in left] == [4, 3, 2]
    left[0].path.write_bytes(b"damaged")
    assert promote(sweep, state, metric).trial.name == "t0001"
    assert card_of(sweep)["sweep"]["chosen_on_dev"]["epoch"] == 4  # the newest one holds it too
    shutil.rmtree(sweep / "trials" / "t0001" / "checkpoints")
    with pytest.raises(CheckpointError, match=r"t0001 has no sound checkpoint left in .*replay .*demo t0001 trains it"):
        promote(sweep, state, metric)


def test_however_little_room_is_left_the_best_can_be_promoted(sweep: Path) -> None:
    state = read_journal(sweep)
    spec = dataclasses.replace(recorded_spec(state.spec, sweep), checkpoints=CheckpointsSpec(gigabytes=1e-9))
    Retention(sweep, state, spec).finish()
    kept = sorted(path.name for path in sweep.rglob("*.ckpt*"))
    assert [re.sub(".*-epoch", "epoch", name) for name in kept] == ["epoch=3-step=12.ckpt", "epoch=3-step=12.ckpt.json"]
    assert promote(sweep, state, LOSS).trial.name == "t0001"


@pytest.mark.parametrize(
    ("rates", "taken"),
    [pytest.param([0.05], False, id="still_falling"), pytest.param([0.6], True, id="to_and_fro")],
)
def test_an_average_is_taken_only_if_it_is_no_worse_on_dev(
    tmp_path: Path, sweep_by_hand: ByHand, capsys: pytest.CaptureFixture[str], rates: list[float], taken: bool
) -> None:
    by_hand = sweep_by_hand(tmp_path)
    by_hand.run(rates)
    assert main([str(by_hand.directory)]) == 0
    alone = slope_of(by_hand.directory)
    assert main([str(by_hand.directory), "--average", "2"]) == 0
    output = capsys.readouterr().out
    assert f"is {'taken' if taken else 'worse on dev and not taken'}" in output, output
    mean, single = re.findall(r"val_loss ([\d.]+), of the best alone ([\d.]+)", output)[0]
    assert (float(mean) <= float(single)) == taken
    assert (slope_of(by_hand.directory) != alone) == taken
    assert ("averaged" in card_of(by_hand.directory)) == taken


def test_retrained_on_train_and_dev(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "--top", "1", "--retrain"]) == 0
    assert "trained anew on train and dev as far as epoch 4" in capsys.readouterr().out
    card = card_of(sweep)
    assert card["trained_on"] == "train and dev"
    assert (card["data"]["train"]["utterances"], card["data"]["dev"]["utterances"]) == (8, 2)
    assert set(card["metrics"]) == {"test_loss"}
    assert card["metrics"] != card["sweep"]["measured"]["t0001"]


def test_data_that_cannot_be_joined_says_so(tmp_path: Path, sweep_by_hand: ByHand) -> None:
    tiny = sweep_by_hand(tmp_path, recipe="tiny/tiny")
    tiny.run([0.05])
    with pytest.raises(SweepError, match=r"the data of this recipe \(tiny_recipe.TinyData\) has no corpus"):
        main([str(tiny.directory), "--retrain"])


def test_repeats_rank_by_their_mean(tmp_path: Path, sweep_by_hand: ByHand, capsys: pytest.CaptureFixture[str]) -> None:
    twice = sweep_by_hand(tmp_path, repeats=2)
    twice.run([0.01, 0.01, 0.05, 0.05])
    assert main([str(twice.directory)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[:2] for line in lines[1:7]][2] == ["1", "mean"]
    assert {line[1] for line in lines[1:3]} == {"t0002", "t0003"}
    chosen = card_of(twice.directory)["sweep"]["chosen_on_dev"]
    assert chosen["value"] == min(chosen["repeats"])
    assert chosen["low"] <= chosen["mean"] <= chosen["high"]


def test_nothing_to_promote(tmp_path: Path, sweep_by_hand: ByHand) -> None:
    with pytest.raises(SweepError, match="holds no sweep: it has no journal"):
        main([str(tmp_path)])
    sweep_by_hand(tmp_path).journal.close()
    with pytest.raises(SweepError, match=r"no trial of the sweep in .* has a val_loss"):
        main([str(tmp_path / "demo")])
