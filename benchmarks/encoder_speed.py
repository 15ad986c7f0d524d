"""How many seconds of audio an encoder trains on in a second of CPU time: features, forward, loss, backward, step.

python benchmarks/encoder_speed.py                       one thread, Conformer of about 2.6 M parameters
python benchmarks/encoder_speed.py --profile             where the time goes
python benchmarks/encoder_speed.py --set stem=image      another variant

No padding, and no reading of files: what is measured is the arithmetic. CPU time, so that other work on the machine
disturbs it less.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch
from torch import Tensor

from rayconvai.asr.conformer import ConformerEncoder, Variant
from rayconvai.asr.ctc import CTCDecoder, CTCLoss
from rayconvai.asr.encoder import Encoder
from rayconvai.asr.features import LogMel
from rayconvai.asr.quartznet import QuartzNetEncoder

CLASSES = 30


def main() -> None:
    """Measure, and print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", choices=("conformer", "quartznet"), default="conformer")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="of the Conformer's variant")
    parser.add_argument("--d-model", type=int, default=144)
    parser.add_argument("--num-layers", type=int, default=5)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--batch", type=int, default=16, help="utterances")
    parser.add_argument("--seconds", type=float, default=3.5, help="of each utterance")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--profile", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    step = TrainingStep(make_encoder(options), options.batch, options.seconds)
    for _ in range(3):
        step()
    if options.profile:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            step()
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25))
        return
    times = []
    for _ in range(options.steps):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    audio = options.batch * options.seconds
    print(
        f"{step.parameters / 1e6:.2f} M parameters: {audio / median(times):.1f} audio seconds per CPU second "
        f"(best {audio / min(times):.1f}; {options.threads} threads, {options.batch} x {options.seconds} s)"
    )


def make_encoder(options: argparse.Namespace) -> Encoder:
    """Return the encoder that the command line asks for."""
    if options.encoder == "quartznet":
        return QuartzNetEncoder(in_features=80, dropout=options.dropout)
    given = dict(item.split("=", 1) for item in options.set)
    variant = Variant(**{key: int(value) if value.isdecimal() else value for key, value in given.items()})
    return ConformerEncoder(
        in_features=80,
        d_model=options.d_model,
        num_layers=options.num_layers,
        dropout=options.dropout,
        variant=variant,
    )


class TrainingStep:
    """One optimizer step on random audio."""

    def __init__(self, encoder: Encoder, batch: int, seconds: float) -> None:
        self.front, self.encoder = LogMel(), encoder
        self.decoder = CTCDecoder(in_features=encoder.out_features, num_classes=CLASSES)
        self.loss = CTCLoss(blank_id=CLASSES - 1)
        weights = [*encoder.parameters(), *self.decoder.parameters()]
        self.parameters = sum(weight.numel() for weight in weights)
        self.optimizer = torch.optim.AdamW(weights, fused=True)
        samples, tokens = int(seconds * 16_000), int(seconds * 8)
        self.audio: Tensor = torch.randn(batch, samples) * 0.1
        self.audio_lengths = torch.full((batch,), samples)
        self.tokens = torch.randint(0, CLASSES - 1, (batch, tokens))
        self.token_lengths = torch.full((batch,), tokens)

    def __call__(self) -> None:
        features, lengths = self.front(audio=self.audio, audio_lengths=self.audio_lengths)
        encoded, lengths = self.encoder(features=features, lengths=lengths)
        log_probs = self.decoder(encoded=encoded)
        loss = self.loss(log_probs=log_probs, lengths=lengths, tokens=self.tokens, token_lengths=self.token_lengths)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


if __name__ == "__main__":
    main()
