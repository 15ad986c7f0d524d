"""Recognition by CTC: features, an encoder, and the best token of each frame."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor
from typing_extensions import Self, override

from rayconvai.asr.ctc import CTCDecoder, CTCLoss, FrameRate
from rayconvai.asr.dataset import SpeechBatch
from rayconvai.asr.decoding.greedy import GreedyCTCDecoder
from rayconvai.asr.encoder import Encoder
from rayconvai.asr.features import LogMel
from rayconvai.asr.metrics import WordErrorRate, align
from rayconvai.asr.specaugment import SpecAugment
from rayconvai.core import AudioSignal, LabelsType, LengthsType, LogprobsType, NeuralType, typecheck
from rayconvai.core.build import build
from rayconvai.core.model import Model
from rayconvai.core.sample import Part, Sample, Sound
from rayconvai.core.typecheck import trace
from rayconvai.data.audio import read_audio
from rayconvai.data.batch import padded
from rayconvai.data.module import dataset_of, refuse_not_finite
from rayconvai.data.speech import heard
from rayconvai.errors import GraphError
from rayconvai.tokenizers import Tokenizer, load_tokenizer


# B batch, S samples, T frames, V classes, U tokens
class CTCModel(Model):
    """A recognizer trained by CTC and read greedily.

    Args:
        preprocessor: audio to features.
        encoder: features to encoded frames.
        decoder: encoded frames to log-probabilities of the tokenizer's tokens and, last, the blank.
        tokenizer: tokens to text.
        spec_augment: masks on the features, in training.

    Raises:
        GraphError: the parts do not fit together.
    """

    metric_names = ("train_loss", "val_loss", "val_wer", "val_cer", "test_loss", "test_wer", "test_cer")
    usage = "transcribe {} FILE.wav"

    def __init__(
        self,
        *,
        preprocessor: LogMel,
        encoder: Encoder,
        decoder: CTCDecoder,
        tokenizer: Tokenizer,
        spec_augment: SpecAugment | None = None,
    ) -> None:
        super().__init__()
        if decoder.num_classes != tokenizer.vocab_size + 1:
            raise GraphError(
                f"decoder ({type(decoder).__name__}) has {decoder.num_classes} classes, but the tokenizer's "
                f"{tokenizer.vocab_size} tokens and the blank make {tokenizer.vocab_size + 1}"
            )
        self.preprocessor, self.encoder, self.decoder = preprocessor, encoder, decoder
        self.tokenizer, self.spec_augment = tokenizer, spec_augment
        self.loss = CTCLoss(blank_id=decoder.blank_id)
        self.greedy = GreedyCTCDecoder(decoder.blank_id)
        self.val_wer, self.val_cer = WordErrorRate(), WordErrorRate("character")
        self.test_wer, self.test_cer = WordErrorRate(), WordErrorRate("character")
        self.check_graph()

    @classmethod
    @override
    def from_config(  # type: ignore[override]  # a model names its own nodes
        cls,
        *,
        preprocessor: Mapping[str, Any],
        encoder: Mapping[str, Any],
        decoder: Mapping[str, Any],
        tokenizer: Tokenizer,
        spec_augment: Mapping[str, Any] | None = None,
    ) -> Self:
        front = build(preprocessor)
        body = build(encoder, in_features=front.num_features)
        head = build(decoder, in_features=body.out_features, num_classes=tokenizer.vocab_size + 1)
        masks = None if spec_augment is None else build(spec_augment)
        return cls(preprocessor=front, encoder=body, decoder=head, tokenizer=tokenizer, spec_augment=masks)

    @property
    def frame_rate(self) -> FrameRate:
        """How many encoded frames an utterance gets."""
        front = self.preprocessor
        return FrameRate(front.sample_rate, front.hop_length, self.encoder.subsampling)

    @cached_property
    def input_types(self) -> dict[str, NeuralType]:
        return self.preprocessor.input_types

    @cached_property
    def output_types(self) -> dict[str, NeuralType]:
        return {
            "log_probs": NeuralType(("B", "T", f"D:{self.decoder.num_classes}"), LogprobsType()),
            "lengths": NeuralType(("B",), LengthsType()),
        }

    @typecheck()
    def forward(self, *, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, T, V), float32, and their lengths (B,)."""
        return self._recognize(audio, audio_lengths)

    def _recognize(self, audio: Tensor, audio_lengths: Tensor) -> tuple[Tensor, Tensor]:
        features, lengths = self.preprocessor(audio=audio, audio_lengths=audio_lengths)
        if self.spec_augment is not None:
            features = self.spec_augment(features=features, lengths=lengths)
        encoded, lengths = self.encoder(features=features, lengths=lengths)
        return self.decoder(encoded=encoded), lengths

    def step(
        self, *, audio: Tensor, audio_lengths: Tensor, tokens: Tensor, token_lengths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the loss, log-probabilities and their lengths: what training, validation and the graph check share."""
        log_probs, lengths = self._recognize(audio, audio_lengths)
        loss = self.loss(log_probs=log_probs, lengths=lengths, tokens=tokens, token_lengths=token_lengths)
        return loss, log_probs, lengths

    @override
    def dry_step(self, batch: SpeechBatch) -> Tensor:
        # The loss itself looks at lengths, and is little beside the network.
        return self._recognize(batch.audio, batch.audio_lengths)[0].mean()

    @override
    def check_graph(self) -> None:
        trace(
            self.step,
            audio=NeuralType(("B", "T"), AudioSignal(freq=self.preprocessor.sample_rate)),
            audio_lengths=NeuralType(("B",), LengthsType()),
            tokens=NeuralType(("B", "T"), LabelsType()),
            token_lengths=NeuralType(("B",), LengthsType()),
        )

    @override
    def seen(self, batch: SpeechBatch) -> Mapping[str, int | float | Tensor]:
        return heard(batch.audio_lengths, self.preprocessor.sample_rate)

    @override
    def training_step(self, batch: SpeechBatch, batch_idx: int) -> Tensor:
        loss, _, _ = self._step(batch)
        refuse_not_finite(self, loss, batch.indices, "train")
        self.log_training_mean("train_loss", loss, len(batch.audio_lengths))
        return loss

    @override
    def validation_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        self._evaluate(batch, "val", {"wer": self.val_wer, "cer": self.val_cer})

    @override
    def test_step(self, batch: SpeechBatch, batch_idx: int) -> None:
        self._evaluate(batch, "test", {"wer": self.test_wer, "cer": self.test_cer})

    def transcribe(self, sounds: Sequence[str | Path | Tensor], batch_size: int = 16) -> list[str]:
        """Return what is said in each sound.

        Args:
            sounds: files in any format that soundfile reads, or audio (S,) at the preprocessor's sample rate.
            batch_size: how many are held and recognized at a time.

        Raises:
            DataError: a file that cannot be read.
        """
        texts: list[str] = []
        with self.in_use():
            for first in range(0, len(sounds), batch_size):
                signals = [self._read(sound) for sound in sounds[first : first + batch_size]]
                audio, lengths = (tensor.to(self.device) for tensor in padded(signals))
                texts.extend(map(self.tokenizer.decode, self.greedy(*self(audio=audio, audio_lengths=lengths))))
        return texts

    @override
    def save_assets(self, directory: Path) -> None:
        self.tokenizer.save(directory / "tokenizer")

    @classmethod
    @override
    def load_assets(cls, directory: Path) -> dict[str, Any]:
        return {"tokenizer": load_tokenizer(directory / "tokenizer")}

    def _step(self, batch: SpeechBatch) -> tuple[Tensor, Tensor, Tensor]:
        audio, audio_lengths, tokens, token_lengths, _ = batch
        return self.step(audio=audio, audio_lengths=audio_lengths, tokens=tokens, token_lengths=token_lengths)

    def _evaluate(self, batch: SpeechBatch, stage: str, metrics: Mapping[str, WordErrorRate]) -> None:
        loss, log_probs, lengths = self._step(batch)
        refuse_not_finite(self, loss, batch.indices, stage)
        hypotheses = [self.tokenizer.decode(ids) for ids in self.greedy(log_probs, lengths)]
        references = [
            self.tokenizer.decode(ids[:length].tolist())
            for ids, length in zip(batch.tokens.cpu(), batch.token_lengths.tolist(), strict=True)
        ]
        count = len(batch.audio_lengths)
        self.log_evaluation_mean(f"{stage}_loss", loss, count)
        for name, metric in metrics.items():
            metric.update(hypotheses, references)
            self.log_evaluation_mean(f"{stage}_{name}", metric, count, prog_bar=name == "wer")
        self.keep_samples(stage, self._samples(batch, stage, references, hypotheses))

    def _samples(
        self, batch: SpeechBatch, stage: str, references: Sequence[str], hypotheses: Sequence[str]
    ) -> Iterator[Sample]:
        manifest = getattr(dataset_of(self, stage), "manifest", None)
        for row, reference, hypothesis in zip(batch.indices.tolist(), references, hypotheses, strict=True):
            said, heard = align(reference.split(), hypothesis.split())
            errors = sum(mark != "" for _, mark in said.pieces)
            parts: dict[str, Part] = {"reference": said, "hypothesis": heard}
            if manifest is not None:
                sound = manifest[row]
                parts["audio"] = Sound(str(sound.audio_filepath), sound.offset, sound.duration)
            where = str(row) if manifest is None else manifest.where(row)
            yield Sample(where, errors / max(1, len(reference.split())), parts)

    def _read(self, sound: str | Path | Tensor) -> Tensor:
        if isinstance(sound, Tensor):
            return sound
        return read_audio(sound, sample_rate=self.preprocessor.sample_rate)
