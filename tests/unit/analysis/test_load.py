"""What a sweep's journal and files say, as frames."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from rayconvai.analysis import Sweep
from rayconvai.core.sample import Marked, Sample, Sound, Text
from rayconvai.errors import StorageError, SweepError
from rayconvai.experiment.samples import write_samples

from .conftest import Writer

Made = Callable[..., Writer]


def test_trials_are_a_frame(demo: Path) -> None:
    sweep = Sweep(demo)
    trials = sweep.trials
    assert list(trials.index) == [f"t{number:04d}" for number in range(12)]
    assert sweep.params == list(trials.columns[:4]) == ["optim.lr", "layers", "optim", "optim.momentum"]
    assert np.isnan(trials.at["t0000", "optim.momentum"])
    third = trials.loc["t0003"]
    said = third[
        ["state", "attempts", "lost", "epoch", "node", "parameters", "seen.audio_seconds", "val_wer.best_epoch"]
    ]
    assert list(said) == ["finished", 2, 1, 4, "b", 1003, 500.0, 4]  # 100 of the attempt that was lost
    assert third["val_wer"] == pytest.approx(0.9 / 4 + 0.2)
    assert third["ended"] >= third["began"] > pd.Timestamp("2020-01-01", tz="UTC")
    assert sweep.best.equals(trials.loc["t0007"])
    assert trials.at["t0007", "rank"] == 1
    assert pd.isna(trials.at["t0005", "rank"])
    assert list(sweep.failures.index) == ["t0003", "t0005"]
    assert sweep.saved == pytest.approx(2 * 2 * 10)
    assert repr(sweep) == "<Sweep demo: asr/conformer_ctc, val_wer (min); 2 stopped, 9 finished, 1 infeasible>"


def test_history_of_epochs_needs_no_trial(demo: Path) -> None:
    epochs = Sweep(demo).history
    assert list(epochs) == ["trial", "kind", "epoch", "step", "time", "metric", "value"]
    third = epochs[(epochs["trial"] == "t0003") & (epochs["metric"] == "val_wer")]
    assert list(third["epoch"]) == [1, 2, 3, 4]
    assert list(third["step"]) == [4, 9, 14, 19]
    assert third["value"].tolist() == pytest.approx([0.9 / epoch + 0.2 for epoch in range(1, 5)])


def test_attempts_say_where_and_how(demo: Path) -> None:
    attempts = Sweep(demo).attempts.set_index(["trial", "attempt"])
    assert list(attempts.loc["t0003"]["node"]) == ["a", "b"]
    assert list(attempts.loc["t0003"]["how"]) == ["lost", "finished"]
    assert attempts.loc[("t0005", 1), "how"] == "infeasible"


def test_trials_files_add_to_it(writer: Made) -> None:
    made = writer()
    for trial in (0, 1):
        made.point(trial, {"optim.lr": 0.1 + trial})
        made.attempt(trial, [0.5])
        run = made.directory / "trials" / f"t000{trial}"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(yaml.safe_dump({"optim": {"lr": 0.1 + trial, "name": "adamw"}}))
        (run / "provenance.json").write_text(json.dumps({"git": {"sha": f"abc{trial}"}, "seed": 1}))
        lines = [{"kind": "step", "step": 0, "epoch": 1, "time": 1.0, "train_loss": 2.0, "lr": None},
                 {"kind": "validation", "step": 4, "epoch": 1, "time": 2.0, "val_wer": 0.5}]  # fmt: skip
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run / "metrics.jsonl").write_text(text + '{"kind": "st')
    sweep = Sweep(made.close())
    steps = sweep.history[sweep.history["kind"] == "step"]
    assert list(steps["metric"]) == ["train_loss", "lr"] * 2
    assert set(sweep.history["kind"]) == {"epoch", "step", "validation"}
    differ = sweep.compare("t0000", "t0001").set_index("key")
    assert list(differ.index) == ["point.optim.lr", "config.optim.lr", "provenance.git.sha"]
    assert list(differ.loc["provenance.git.sha"]) == ["abc0", "abc1"]
    with pytest.raises(SweepError, match="has no trial t0009; it has t0000 to t0001"):
        sweep.compare("t0000", "t0009")


def test_samples_are_those_of_the_best_or_a_trial(writer: Made) -> None:
    made = writer()
    made.point(0, {"optim.lr": 0.1})
    kept = [Sample(f"dev:{number}", 1 - number / 10, {"text": Text(str(number))}) for number in range(6)]
    write_samples(made.directory / "best" / "samples", "test", kept)
    sweep = Sweep(made.close())
    assert sweep.samples() == kept
    assert [sample.where for sample in sweep.samples(n=2)] == ["dev:0", "dev:5"]
    assert sweep.samples("t0000") == []
    assert "No samples were kept" in sweep.samples("t0000")._repr_html_()


def test_samples_become_a_page_of_their_own() -> None:
    from rayconvai.analysis.samples import to_html

    said = Marked((("the", ""), ("<b>", "sub"), ("", "ins")))
    heard = Marked((("the", ""), ("cat", "sub"), ("sat", "ins")))
    tone = np.sin(np.arange(800) / 3).astype(np.float32)
    parts = {
        "reference": said,
        "hypothesis": heard,
        "audio": Sound(signal=tone, sample_rate=8000),
        "gone": Sound("x.wav"),
    }
    label = Sample("dev:2", None, {"text": Marked((("Paris", "!ORG"), ("is", "")))})
    page = to_html([Sample("dev:1", 0.5, parts), label])
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("data:audio/flac;base64,") == page.count("data:image/png;base64,") == 1
    assert "x.wav cannot be read from here" in page
    assert "<span class='rv-wrong'>Paris<sup>ORG</sup></span>" in page


def test_several_sweeps_together(demo: Path, writer: Made) -> None:
    made = writer("other", name="other")
    made.point(0, {"optim.lr": 0.1, "width": 3})
    made.attempt(0, [0.01])
    both = Sweep.concat([Sweep(demo), Sweep(made.close())])
    assert both.best.name == "other/t0000"
    assert both.trials.at["demo/t0007", "rank"] == 2
    assert list(both.trials["sweep"].unique()) == ["demo", "other"]
    assert both.params[-1] == "width"
    assert set(both.history["trial"]) >= {"demo/t0000", "other/t0000"}
    third = writer("third", metric={"name": "val_loss", "mode": "min"})
    with pytest.raises(SweepError, match=r"not demo by val_wer \(min\) and demo by val_loss \(min\)"):
        Sweep.concat([Sweep(demo), Sweep(third.close())])


def test_a_place_without_a_sweep_is_said(demo: Path, tmp_path: Path) -> None:
    with pytest.raises(SweepError, match=r"dem holds no sweep: there is no journal in .*/dem/journal; nearest: demo"):
        Sweep(demo.parent / "dem")
    (tmp_path / "notes.txt").write_text("no directory")
    with pytest.raises(SweepError, match=r"notes.txt holds no sweep: there is no journal"):
        Sweep(tmp_path / "notes.txt")
    (tmp_path / "cut" / "journal").mkdir(parents=True)
    (tmp_path / "cut" / "journal" / "0000.jsonl").write_text('{"kind": "sweep", "ti')
    with pytest.raises(SweepError, match=r"cut holds no sweep: no line of the journal in .*cut/journal is whole$"):
        Sweep(tmp_path / "cut")


def test_a_torn_end_is_passed_over_and_damage_is_named(writer: Made) -> None:
    made = writer()
    made.point(0, {"optim.lr": 0.1})
    made.attempt(0, [0.5, 0.4])
    journal = made.close() / "journal" / "0000.jsonl"
    text = journal.read_text()
    journal.write_text(text[: text.rindex('"val_wer": 0.4')])  # a kill in the middle of a line
    assert Sweep(made.directory).trials.at["t0000", "epoch"] == 1
    lines = text.splitlines()
    journal.write_text("\n".join([*lines[:2], lines[2][:20], *lines[3:], ""]))
    with pytest.raises(SweepError, match=r"0000.jsonl:3: not JSON; the journal is damaged"):
        Sweep(made.directory)


def test_a_bucket_without_access_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    def denied(*_: object, **__: object) -> None:
        raise PermissionError("Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "ls", denied)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", denied)
    with pytest.raises(StorageError, match=r"memory://runs/asr cannot be read: Access Denied"):
        Sweep("memory://runs/asr")


def test_reading_brings_neither_torch_nor_ray(demo: Path) -> None:
    code = (
        "import sys; from rayconvai.analysis import Sweep; s = Sweep(sys.argv[1]); s.trials, s.history, s.attempts;"
        "assert not {'torch', 'ray', 'lightning', 'plotly', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(demo)], check=True)
