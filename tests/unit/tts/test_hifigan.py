"""HiFi-GAN: its networks and losses, one run of it, and what becomes of it."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import torch
from omegaconf import OmegaConf

from rayconvai.config.compose import compose
from rayconvai.core.model import Model, build_model
from rayconvai.errors import ConfigError, DataError, GraphError
from rayconvai.experiment import read_metrics
from rayconvai.experiment.storage import AtomicCheckpointIO, find_last
from rayconvai.sweep.estimate import measure_step, state_bytes
from rayconvai.train.finish import finish
from rayconvai.train.fit import build_parts, fit
from rayconvai.train.runtime import Runtime
from rayconvai.tts.discriminators import adversarial_loss, discriminators_loss, feature_loss
from rayconvai.tts.hifigan import InverseSpectrum, Istft
from rayconvai.tts.losses import RESOLUTIONS, SILENT, stft_distances
from rayconvai.tts.models.hifigan import HifiGanModel
from tests.unit.tts.tiny import TINY, write_hums

ISTFT = (
    "model.generator.istft={n_fft: 16, hop_length: 4}",
    "model.generator.upsample_rates=[4]",
    "model.generator.upsample_kernels=[8]",
)


def overrides(manifest: Path, *more: str) -> list[str]:
    return [*TINY, f"data.corpus.train={manifest}", f"data.corpus.dev={manifest}", "data.batch_size=4", *more]


@pytest.mark.parametrize(("variant", "millions"), [("hifigan_v1", 13.92), ("hifigan_v2", 0.92), ("hifigan_v3", 1.46)])
def test_sizes_are_the_papers(variant: str, millions: float) -> None:
    lines = [f"model/generator={variant}", "model.generator.weight_norm=false", "data.corpus.manifest=none"]
    config = compose("tts/hifigan", lines)
    with torch.device("meta"):
        model = build_model(config.model)
    assert isinstance(model, HifiGanModel)
    assert math.floor(model.generator.num_weights / 1e4) / 100 == millions
    mel = torch.empty(2, 80, 5, device="meta")
    assert model(mel=mel).shape == (2, 5 * 256)


@pytest.mark.parametrize(("n_fft", "hop_length"), [(16, 4), (12, 6), (256, 64)])
def test_an_inverse_transform_beside_torch(n_fft: int, hop_length: int) -> None:
    inverse = InverseSpectrum(Istft(n_fft=n_fft, hop_length=hop_length))
    x = 0.5 * torch.randn(2, n_fft + 2, 9, generator=torch.Generator().manual_seed(1))
    logarithms, phases = torch.cat([x, x[:, :, -1:]], dim=2).chunk(2, dim=1)
    spectrum = torch.polar(logarithms.exp(), math.pi * phases.sin())
    spectrum.imag[:, [0, -1]] = 0  # of the constant and of half the rate, only the real part counts
    expected = torch.istft(spectrum, n_fft, hop_length, window=torch.hann_window(n_fft))
    torch.testing.assert_close(inverse(x), expected, atol=1e-5, rtol=1e-4)
    assert expected.shape == (2, 9 * hop_length)


def test_losses_by_hand() -> None:
    real = [[torch.tensor([[1.0, 3.0]]), torch.tensor([[0.5]])], [torch.tensor([[2.0]]), torch.tensor([[1.0]])]]
    made = [[torch.tensor([[0.0, 1.0]]), torch.tensor([[0.2]])], [torch.tensor([[2.5]]), torch.tensor([[0.6]])]]
    assert discriminators_loss(real, made) == pytest.approx((0.5**2 + 0.2**2) + (0.0 + 0.6**2))
    assert adversarial_loss(made) == pytest.approx(0.8**2 + 0.4**2)
    assert feature_loss(real, made) == pytest.approx(1.5 + 0.3 + 0.5 + 0.4)


def test_distances_of_spectra_beside_scipy() -> None:
    generator = torch.Generator().manual_seed(1)
    made, real = (scale * torch.randn(3, 3000, generator=generator) for scale in (0.1, 0.01))
    real[:2, :2500] = 0  # silence counts by its floor
    real[2] = 0
    convergence, logarithms = [], []
    for points, hop in RESOLUTIONS:
        window = scipy.signal.get_window("hann", points)
        scale, sizes = window.sum(), {"nperseg": points, "noverlap": points - hop}
        spectra = [scipy.signal.stft(x.double(), window=window, **sizes, padded=False)[2] for x in (made, real)]
        ours, theirs = (np.abs(scale * spectrum).clip(1e-4) for spectrum in spectra)
        rms = [np.sqrt(np.square(x).mean((1, 2))) for x in (theirs - ours, theirs)]
        assert rms[1][1] > SILENT > rms[1][2]
        convergence.append((rms[0] / rms[1].clip(SILENT)).mean())
        logarithms.append(np.abs(np.log(theirs) - np.log(ours)).mean())
    expected = torch.tensor([np.mean(convergence), np.mean(logarithms)])
    torch.testing.assert_close(torch.stack(stft_distances(made, real)), expected.float(), rtol=1e-4, atol=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of 12 steps, of which the first four are without discriminators."""
    root = tmp_path_factory.mktemp("hums")
    manifest = write_hums(root)
    lines = overrides(
        manifest,
        "trainer.max_epochs=3",
        "trainer.log_every_n_steps=1",
        "model.adversarial_from=4",
        "model.stft_weight=10",
        "exp_manager.log_grad_norm=true",
        "exp_manager.checkpoint_callback_params.every_n_train_steps=5",
        "exp_manager.ema={enable: true, decay: 0.5}",
    )
    fit(compose("tts/hifigan", lines), Runtime(run_dir=root / "run", progress=False))
    return root, manifest


def test_a_step_is_counted_once_everywhere(trained: tuple[Path, Path]) -> None:
    root, _ = trained
    lines = list(read_metrics(root / "run" / "metrics.jsonl"))
    steps = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in steps] == list(range(12))
    assert ["train_discriminators_loss" in line for line in steps] == [False] * 4 + [True] * 8
    assert all(line["train_loss"] > 10 * line["train_stft_loss"] > 0 for line in steps)
    assert all(line["grad_norm"] > 0 for line in steps)
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [line["step"] for line in epochs] == [3, 7, 11]
    assert epochs[-1]["val_mel_loss"] < epochs[0]["val_mel_loss"]
    last = find_last(root / "run" / "checkpoints")
    assert last is not None
    assert "step=12" in last.name
    state = AtomicCheckpointIO().load_checkpoint(last)
    assert state["global_step"] == 12
    steps_of = [{int(s["step"]) for s in one["state"].values()} for one in state["optimizer_states"]]
    assert steps_of == [{8}, {12}]
    assert [schedule["last_epoch"] for schedule in state["lr_schedulers"]] == [3, 3]


def test_the_artefact_is_for_use(trained: tuple[Path, Path], tmp_path: Path) -> None:
    root, manifest = trained
    config = compose("tts/hifigan", overrides(manifest))
    [best, *_] = sorted((root / "run" / "checkpoints").glob("*val_mel_loss*"))
    finish(config, root / "run", best, tmp_path / "artefact", Runtime(progress=False))
    used = Model.restore_from(tmp_path / "artefact")
    assert isinstance(used, HifiGanModel)
    assert not [name for name, _ in used.named_parameters() if "parametrizations" in name or "discriminator" in name]
    model, _ = build_parts(config)
    model.load_state_dict(AtomicCheckpointIO().load_checkpoint(best)["state_dict"])
    assert isinstance(model, HifiGanModel)
    mel = torch.randn(2, 8, 11)
    expected = model.convert_spectrogram_to_audio(mel)
    assert expected.shape == (2, 11 * 16)
    torch.testing.assert_close(used.convert_spectrogram_to_audio(mel), expected)
    used.save_to(tmp_path / "again")
    with pytest.raises(ConfigError, match="discriminators is null"):
        used.trained_parts()


@pytest.mark.parametrize("more", [(), ISTFT], ids=["samples", "istft"])
def test_what_a_trial_needs_is_estimated(trained: tuple[Path, Path], more: tuple[str, ...]) -> None:
    config = compose("tts/hifigan", overrides(trained[1], *more))
    model, data = build_parts(config)
    weights = sum(parameter.nbytes for parameter in model.parameters())
    kept = state_bytes(config.optim, model)
    assert kept is not None
    assert kept >= 4 * weights
    step = measure_step(model, data)
    assert step is not None
    assert step.activations > 0
    assert step.flops > 0


@pytest.mark.parametrize(
    ("line", "error", "message"),
    [
        ("model.preprocessor.hop_length=8", GraphError, r"makes 16 samples of a frame .*hop_length is 8"),
        ("model.generator.channels=6", ConfigError, "model.generator.channels"),
        ("model.generator.istft={n_fft: 16, hop_length: 9}", ConfigError, r"hop_length \(9\) must be at most half"),
        ("model.discriminators.scale_channels=8", ConfigError, "model.discriminators.scale_channels is 8"),
    ],
)
def test_what_cannot_be(trained: tuple[Path, Path], line: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_parts(compose("tts/hifigan", overrides(trained[1], line)))


def test_discriminators_that_come_too_late(
    trained: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = overrides(trained[1], "trainer.max_steps=1", "model.adversarial_from=1", "trainer.max_epochs=-1")
    with caplog.at_level(logging.WARNING, "rayconvai"):
        fit(compose("tts/hifigan", lines), Runtime(run_dir=tmp_path, progress=False))
    assert "discriminators will not be trained: model.adversarial_from is 1, and the run ends at step 1" in caplog.text


def test_a_schedule_by_a_metric(trained: tuple[Path, Path], tmp_path: Path) -> None:
    config = compose("tts/hifigan", overrides(trained[1]))
    OmegaConf.update(config, "schedule", {"name": "ReduceLROnPlateau"}, merge=False)
    with pytest.raises(ConfigError, match="ReduceLROnPlateau, which goes by a metric"):
        fit(config, Runtime(run_dir=tmp_path, progress=False))


def test_a_recording_of_a_lower_rate(tmp_path: Path) -> None:
    manifest = write_hums(tmp_path, count=2, rate=4000)
    with pytest.raises(DataError, match=r"hums.jsonl:1: .*has 4000 Hz, and the vocoder makes 8000 Hz"):
        build_parts(compose("tts/hifigan", overrides(manifest)))
