"""What FastPitch learns of a voice in a given time: its losses, its alignments, its speech.

python benchmarks/fastpitch.py MANIFEST --minutes 40       train tts/fastpitch_small on the train split, then look
python benchmarks/fastpitch.py MANIFEST --artefact DIR     look at one that is there
python benchmarks/fastpitch.py MANIFEST --minutes 6 tts/fastpitch trainer=gpu       on a GPU

Printed are the run's losses by step and, of the dev split, how sharp and monotonic alignments are. Beside this file:
fastpitch.png, the alignments (tokens upwards, frames to the right) of one utterance before and after training, each
frame's probabilities divided by their largest; fastpitch.ogg, the recording of that utterance, Griffin-Lim of its own
mel spectrogram, of the predicted one with the true durations, pitch and energy, and of its text alone.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from rayconvai.config.compose import compose
from rayconvai.core.model import Model, build_model
from rayconvai.data.audio import write_audio
from rayconvai.data.corpus import ManifestCorpus
from rayconvai.experiment import read_metrics
from rayconvai.train.finish import train
from rayconvai.train.runtime import Runtime
from rayconvai.tts.data import TTSData
from rayconvai.tts.griffin_lim import GriffinLim
from rayconvai.tts.models.fastpitch import FastPitchModel


def main() -> None:
    """Train, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="whose rows have a split")
    parser.add_argument("--minutes", type=float, default=40, help="of training, by the clock")
    parser.add_argument("--artefact", type=Path, help="a trained model, instead")
    parser.add_argument("recipe", nargs="?", default="tts/fastpitch_small")
    parser.add_argument("overrides", nargs="*")
    given = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as scratch:
        model = Model.restore_from(given.artefact or _train(given, Path(scratch)))
        assert isinstance(model, FastPitchModel)
        look(model, given.manifest)


def _train(given: argparse.Namespace, scratch: Path) -> Path:
    limit = f"trainer.max_time=00:00:{int(given.minutes):02}:{int(given.minutes % 1 * 60):02}"
    corpus = ["data=voice", f"data.corpus.manifest={given.manifest.absolute()}"]
    config = compose(given.recipe, [*corpus, limit, *given.overrides])
    runtime = Runtime(run_dir=scratch / "run", progress=False)
    outcome = train(config, runtime, runtime)
    for row in read_metrics(outcome.run_dir / "metrics.jsonl"):
        print({name: value for name, value in row.items() if name not in ("time", "kind")})
    assert outcome.artefact is not None
    return outcome.artefact


def look(model: FastPitchModel, manifest: Path) -> None:
    """Print figures of the dev split, and write the picture and the sounds."""
    torch.manual_seed(0)
    fresh = build_model(model._cfg, tokenizer=model.tokenizer).eval()
    assert isinstance(fresh, FastPitchModel)
    data = TTSData(corpus=ManifestCorpus(manifest=manifest), batch_size=1)
    data.bind(model)
    fresh.targets.load_state_dict(model.targets.state_dict())
    dataset = data.dataset("dev")
    lengths = dataset.lengths.tolist()
    chosen = sorted(range(len(lengths)), key=lengths.__getitem__)[len(lengths) // 2]
    batch = dataset.collate_fn([dataset[chosen]])._asdict()
    del batch["indices"]
    with torch.inference_mode():
        before, after = fresh.step(**batch), model.step(**batch)
    write_png(Path(__file__).with_suffix(".png"), [step.log_soft[0].exp().T for step in (before, after)])
    vocoder = GriffinLim(model.preprocessor)
    spoken = model.generate_spectrogram(batch["tokens"])
    made = [vocoder.convert_spectrogram_to_audio(spec=mel)[0] for mel in (after.mel, after.predicted, spoken)]
    pause = torch.zeros(model.preprocessor.sample_rate // 2)
    sounds = [batch["audio"][0], *(sound / sound.abs().amax().clamp(min=1) for sound in made)]
    joined = torch.cat([part for sound in sounds for part in (sound, pause)])
    write_audio(Path(__file__).with_suffix(".ogg"), joined, model.preprocessor.sample_rate)
    print(f"{dataset.manifest.where(chosen)}: {dataset.manifest[chosen].text!r}")


def write_png(path: Path, pictures: list[Tensor], zoom: int = 6) -> None:
    """Write matrices of values from 0 to 1 side by side, the first row at the bottom, the largest of a column black."""
    scaled = [torch.nn.functional.pad(picture / picture.amax(0), (0, 4), value=1.0) for picture in pictures]
    grey = (255 * (1 - torch.cat(scaled, 1).flip(0))).byte()
    grey = grey.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    Image.fromarray(grey.numpy()).save(path, optimize=True)


if __name__ == "__main__":
    main()
