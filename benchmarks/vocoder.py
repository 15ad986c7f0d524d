"""What a vocoder makes of the mels of speech that it has never heard, beside Griffin-Lim: analysis by synthesis.

python benchmarks/vocoder.py MANIFEST --minutes 30        train tts/hifigan_small on the train split, then compare
python benchmarks/vocoder.py MANIFEST --artefact DIR      compare one that is there
python benchmarks/vocoder.py MANIFEST --minutes 4 tts/hifigan_small trainer=gpu model/generator=hifigan_v1 \\
    model/discriminators=full model.adversarial_from=2000 optim.lr=4e-4 data.batch_size=32 data.num_workers=8 \\
    trainer.max_epochs=40                                 on a GPU

Compared on the dev and test splits: distances of log-mels (of the whole band) and mel-cepstra, which Griffin-Lim comes
close to by its nature, as it inverts the mel itself; of short-time spectra at three other resolutions, and of pitch and
voicing, where harmonics and phases must be right. How good they sound by a model of hearing is said by PESQ (ITU-T
P.862.2, wide band, 1 to 4.6), how well they are understood by ESTOI (0 to 1); of both more is better, and both need
`pip install pesq pystoi`. Both get the same mels. Said are the CPU seconds and steps of the training. One utterance of
each is written beside this file: vocoder.ogg has the recording, Griffin-Lim and the vocoder one after the other.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torchaudio.functional import resample
from torchmetrics.functional.audio.pesq import perceptual_evaluation_speech_quality
from torchmetrics.functional.audio.stoi import short_time_objective_intelligibility

from rayconvai.config.compose import compose
from rayconvai.core.model import Model
from rayconvai.data.audio import read_utterance, write_audio
from rayconvai.data.manifest import Manifest, SoundManifest
from rayconvai.experiment import read_metrics
from rayconvai.train.finish import train
from rayconvai.train.runtime import Runtime
from rayconvai.tts.griffin_lim import GriffinLim
from rayconvai.tts.losses import stft_distances
from rayconvai.tts.metrics import LogMelDistance, MelCepstralDistortion, PitchError, VoicingError
from rayconvai.tts.models.hifigan import HifiGanModel
from rayconvai.tts.pitch import PitchRange, pitch_of

Vocoder = Callable[[Tensor], Tensor]


def main() -> None:
    """Train, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="whose rows have a split")
    parser.add_argument("--minutes", type=float, default=30, help="of training, by the clock")
    parser.add_argument("--artefact", type=Path, help="a trained vocoder, instead")
    parser.add_argument("--run", type=Path, help="directory for the run; one that is there goes on")
    parser.add_argument("recipe", nargs="?", default="tts/hifigan_small")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        artefact = given.artefact or _train(given, Path(scratch))
        model = Model.restore_from(artefact, map_location="cuda" if torch.cuda.is_available() else "cpu")
        assert isinstance(model, HifiGanModel)
        compare(model, given.manifest)


def _train(given: argparse.Namespace, scratch: Path) -> Path:
    minutes, seconds = divmod(round(60 * given.minutes), 60)
    limit = f"trainer.max_time=00:{minutes // 60:02}:{minutes % 60:02}:{seconds:02}"
    corpus = ["data=segments", f"data.corpus.manifest={given.manifest.absolute()}"]
    resume = ["exp_manager.resume_if_exists=true", "exp_manager.resume_ignore_no_checkpoint=true"]
    config = compose(given.recipe, [*corpus, limit, *resume, *given.overrides])
    began, cpu = time.monotonic(), time.process_time()
    outcome = train(config, Runtime(run_dir=given.run or scratch / "run"), Runtime(progress=False, devices=1))
    lines = list(read_metrics(outcome.run_dir / "metrics.jsonl"))
    steps, epochs = max(line["step"] for line in lines) + 1, [line for line in lines if "val_mel_loss" in line]
    taken, cpu_taken = time.monotonic() - began, time.process_time() - cpu
    print(f"{steps} steps in {taken:.0f} s, {cpu_taken:.0f} s of CPU time, validations and test included")
    curve = (f"{line['step'] + 1}:{line['val_mel_loss']:.3f}" for line in epochs if line["kind"] == "epoch")
    print("val_mel_loss by step", *curve)
    assert outcome.artefact is not None
    return outcome.artefact


def compare(model: HifiGanModel, path: Path) -> None:
    """Print how far both are from the recordings, and write one utterance of each."""
    griffin_lim = GriffinLim(model.preprocessor, iterations=60)
    vocoders: dict[str, Vocoder] = {
        "Griffin-Lim, 60 iterations": griffin_lim.convert_spectrogram_to_audio,
        "HiFi-GAN": model.convert_spectrogram_to_audio,
    }
    sounds = [_sound(model, manifest, row) for manifest in _held_out(path) for row in range(len(manifest))]
    seconds = sum(map(len, sounds)) / model.sample_rate
    print(f"{len(sounds)} utterances, {seconds:.0f} s; {model.num_weights} weights")
    heard = [max(sounds, key=lambda sound: min(len(sound), 4 * model.sample_rate))]
    for name, vocoder in vocoders.items():
        began, cpu = time.monotonic(), time.process_time()
        made = [_speak(model, vocoder, sound) for sound in sounds]
        speed = seconds / (time.monotonic() - began)
        figures = ", ".join(f"{what} {value:.4g}" for what, value in distances(model, made, sounds).items())
        print(f"{name}: {figures}; {speed:.1f} times real time ({time.process_time() - cpu:.1f} s of CPU)")
        heard.append(made[next(i for i, sound in enumerate(sounds) if sound is heard[0])])
    pause = torch.zeros(model.sample_rate // 4)
    joined = torch.cat([part for sound in heard for part in (sound[: 4 * model.sample_rate], pause)])
    write_audio(Path(__file__).with_suffix(".ogg"), joined, model.sample_rate)


def distances(model: HifiGanModel, made: list[Tensor], real: list[Tensor]) -> dict[str, float]:
    """Return all measures of made beside real signals, each (S,)."""
    mel, cepstrum, pitch, voicing = LogMelDistance(), MelCepstralDistortion(), PitchError(), VoicingError()
    spectral, heard = [], []
    for ours, theirs in zip(made, real, strict=True):
        length = torch.tensor([len(theirs)])
        (a, frames), (b, _) = (model.whole_band.cpu()(audio=x[None], audio_lengths=length) for x in (ours, theirs))
        mel.update(a, b, frames)
        cepstrum.update(a, b, frames)
        hop = model.preprocessor.hop_length
        curves = [
            pitch_of(x, sample_rate=model.sample_rate, hop_length=hop, within=PitchRange()) for x in (ours, theirs)
        ]
        f0 = [torch.from_numpy(curve)[None] for curve in curves]
        pitch.update(f0[0], f0[1], frames)
        voicing.update(f0[0], f0[1], frames)
        spectral.append(torch.stack(stft_distances(ours[None], theirs[None])))
        at_16k = [resample(x, model.sample_rate, 16000) for x in (ours, theirs)]
        quality = perceptual_evaluation_speech_quality(*at_16k, 16000, "wb")
        heard.append(torch.stack([quality, short_time_objective_intelligibility(*at_16k, 16000, extended=True)]))
    total, senses = torch.stack(spectral).mean(0), torch.stack(heard).mean(0)
    metrics = {"log-mel L1": mel, "MCD (dB)": cepstrum, "F0 RMSE (cents)": pitch, "voicing error": voicing}
    found = {name: float(metric.compute()) for name, metric in metrics.items()}
    found |= {"spectral convergence": float(total[0]), "log-STFT L1": float(total[1])}
    return {**found, "PESQ": float(senses[0]), "ESTOI": float(senses[1])}


def _held_out(path: Path) -> list[Manifest]:
    return [SoundManifest.open(path, split=split) for split in ("dev", "test")]


def _sound(model: HifiGanModel, manifest: Manifest, row: int) -> Tensor:
    audio = read_utterance(manifest, row, sample_rate=model.sample_rate)
    hop = model.preprocessor.hop_length
    return audio[: len(audio) // hop * hop]


def _speak(model: HifiGanModel, vocoder: Vocoder, sound: Tensor) -> Tensor:
    audio, lengths = sound[None].to(model.device), torch.tensor([len(sound)], device=model.device)
    mel, _ = model.preprocessor(audio=audio, audio_lengths=lengths)
    return vocoder(mel)[0].float().cpu().clone()


if __name__ == "__main__":
    main()
