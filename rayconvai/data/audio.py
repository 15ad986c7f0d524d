"""Sound files in and out, by soundfile: wav, flac, ogg (Vorbis, Opus), mp3; no FFmpeg."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import Resample

from rayconvai.data.manifest import Manifest
from rayconvai.data.soundcheck import DURATION_TOLERANCE, SILENT_PEAK, open_sound
from rayconvai.errors import DataError, StorageError

_LEAD = {"MP3": 0.5, "MPEG": 0.5}
"""Seconds to decode before a place that was sought: MP3 frames need data of earlier frames, and are noise without."""
_CONTAINERS = {".opus": ("OGG", "OPUS"), ".oga": ("OGG", None)}


def mel_filters(n_fft: int, num_mels: int, sample_rate: int, fmin: float, fmax: float) -> Tensor:
    """Return the triangular filters (F, D) of Slaney's mel scale, each of unit area, from ``fmin`` to ``fmax`` Hz."""
    with torch.device("cpu"):  # it looks at values, which a model built on the meta device does not have
        filters: Tensor = melscale_fbanks(n_fft // 2 + 1, fmin, fmax, num_mels, sample_rate, "slaney", "slaney")
    return filters


def read_audio(path: str | Path, *, sample_rate: int, offset: float = 0.0, duration: float | None = None) -> Tensor:
    """Read a sound file, or a part of it, as mono at a sample rate.

    Args:
        path: a wav, flac, ogg (Vorbis or Opus) or mp3 file, of any rate and number of channels.
        sample_rate: Hz of what is returned.
        offset: seconds into the file; found by seeking.
        duration: seconds to read; None reads to the end.

    Returns:
        (S,) float32, the mean of the channels.

    Raises:
        DataError: no such file, not a sound file, no samples there, ends before ``offset + duration``, or NaN inside.
    """
    with open_sound(path) as file:
        rate = file.samplerate
        first = round(offset * rate)
        if first >= file.frames:
            raise DataError(f"{path}: offset {offset:g} s is past its end ({file.frames / rate:.2f} s)")
        wanted = file.frames - first if duration is None else max(1, round(duration * rate))
        lead = min(first, round(_LEAD.get(file.format, 0.0) * rate))
        try:
            if first:
                file.seek(first - lead)
            samples = file.read(lead + wanted, dtype="float32", always_2d=True)[lead:]
        except soundfile.SoundFileError as error:
            raise DataError(f"{path}: damaged sound file ({error}); replace it") from error
    if len(samples) == 0 or len(samples) < wanted - DURATION_TOLERANCE * rate:
        end = offset + len(samples) / rate
        raise DataError(f"{path}: ends at {end:.2f} s, but {offset + wanted / rate:.2f} s were asked for")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    if not np.isfinite(mono).all():
        raise DataError(f"{path}: holds NaN or infinite samples; write it again")
    return resample(torch.from_numpy(np.ascontiguousarray(mono)), rate, sample_rate)


def read_utterance(manifest: Manifest, index: int, *, sample_rate: int) -> Tensor:
    """Read the sound of one row of a manifest, (S,) float32.

    Raises:
        DataError: as ``read_audio``, or all-silent; names the manifest's line.
    """
    row = manifest[index]
    try:
        audio = read_audio(row.audio_filepath, sample_rate=sample_rate, offset=row.offset, duration=row.duration)
    except DataError as error:
        raise DataError(f"{manifest.where(index)}: {error}") from error
    if is_silent(audio):
        raise DataError(f"{manifest.where(index)}: {row.audio_filepath}: all-silent; remove the line")
    return audio


def is_silent(audio: Tensor) -> bool:
    """Return whether nothing is heard: no sample exceeds two steps of 16-bit audio (-84 dB)."""
    return float(audio.abs().amax()) < SILENT_PEAK


def resample(audio: Tensor, rate: int, new_rate: int) -> Tensor:
    """Change the sample rate of (..., S); S becomes ``ceil(S * new_rate / rate)``.

    Rates without a small common ratio (44,101 to 16,000 Hz) would need a filter of gigabytes; the ratio is then taken
    to one part in a million, which nobody hears.
    """
    if rate == new_rate:
        return audio
    ratio = Fraction(rate, new_rate).limit_denominator(1000)
    resampled: Tensor = _resampler(ratio.numerator, ratio.denominator)(audio)
    length = -(-audio.shape[-1] * new_rate // rate)
    return torch.nn.functional.pad(resampled, (0, length - resampled.shape[-1]))


@lru_cache(maxsize=64)
def _resampler(rate: int, new_rate: int) -> Resample:
    return Resample(rate, new_rate)


def write_audio(path: str | Path, audio: Tensor, sample_rate: int, *, subtype: str | None = None) -> None:
    """Write (S,) or (C, S) samples; the suffix names the format (.wav .flac .ogg .opus .mp3).

    Samples beyond -1 to 1 are clipped in integer formats. ``subtype`` is soundfile's ("PCM_16", "FLOAT", ...).

    Raises:
        DataError: a suffix, subtype or rate that the format does not have.
        StorageError: the file cannot be written.
    """
    path = Path(path)
    container, default = _CONTAINERS.get(path.suffix.lower(), (None, None))
    samples = audio.detach().cpu().float().numpy()
    try:
        encoded = io.BytesIO()
        kind = container or path.suffix[1:].upper()
        soundfile.write(encoded, samples.T, sample_rate, subtype=subtype or default, format=kind)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        what = f"{path.suffix or 'a file without suffix'} ({error})"
        raise DataError(f"{path}: cannot be written as {what}; use wav, flac, ogg, opus or mp3") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded.getbuffer())
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}); choose another place") from error
