"""eSpeak NG, loaded into this process from the wheel espeakng-loader: 16 kHz speech, the same bytes every time."""

from __future__ import annotations

import ctypes
import importlib.metadata
import shutil
import tempfile
import threading
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from typing_extensions import Self

from rayconvai._optional import require
from rayconvai.errors import DataError, StorageError

SAMPLE_RATE = 16_000
ESPEAK_RATE = 22_050
UP, DOWN = 320, 441  # 22050 * 320 / 441 = 16000
HALF_WIDTH = 18  # input samples on each side of the low-pass filter: 12 zero crossings
FILTER_BITS = 15

Samples = npt.NDArray[np.int16]
Integers = npt.NDArray[np.int64]

_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8 = 1
_POSITION_CHARACTER = 1
_RATE, _PITCH = 1, 3
_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
_lock = threading.Lock()


class Synthesizer:
    """A context in which text can be spoken.

    eSpeak keeps much of its state in global variables (phases of the oscillators, the last voice's stress lengths),
    which even ``espeak_Terminate`` leaves as they are, and draws its noise from libc's ``rand``. So every utterance is
    spoken by a library loaded afresh, from a private copy that nobody else in the process holds, after ``srand``:
    its bytes depend on nothing but its arguments. Voices with a ``breath`` line read memory that eSpeak never wrote,
    and stay random; ``speak`` does not check for them.

    Raises:
        ConfigError: espeakng-loader is not installed.
        StorageError: the temporary directory cannot be written.
    """

    def __enter__(self) -> Self:
        loader = require("espeakng_loader", extra="demo")
        try:
            self._directory = Path(tempfile.mkdtemp(prefix="rayconvai-espeak-"))
            self._library = self._directory / "libespeak.so"
            shutil.copyfile(loader.get_library_path(), self._library)
            # eSpeak cuts paths of more than 160 bytes
            self._data = self._directory / "espeak-ng-data"
            self._data.symlink_to(loader.get_data_path())
        except OSError as error:
            raise StorageError(
                f"{tempfile.gettempdir()}: cannot write eSpeak's files: {error.strerror}; set TMPDIR"
            ) from error
        self._filter = _polyphase_filter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._directory, ignore_errors=True)

    def speak(self, text: str, voice: str, *, rate: int = 175, pitch: int = 50) -> Samples:
        """Speak ``text``.

        Args:
            text: what to say.
            voice: eSpeak's name, as ``en-us+m3``: language and variant.
            rate: words a minute.
            pitch: 0 to 99; 50 is the voice's own.

        Returns:
            (S,), int16, at 16 kHz.

        Raises:
            DataError: eSpeak has no such voice.
        StorageError: the temporary directory forbids programs.
        """
        with _lock:
            return _resample(self._synthesize(text, voice, rate, pitch), *self._filter)

    def _synthesize(self, text: str, voice: str, rate: int, pitch: int) -> Samples:
        library = self._load()
        pieces: list[bytes] = []

        def receive(wave: int | None, count: int, _events: int | None) -> int:
            if wave and count > 0:
                pieces.append(ctypes.string_at(wave, 2 * count))
            return 0

        callback = _Callback(receive)  # must outlive the call
        try:
            if library.espeak_Initialize(_SYNCHRONOUS, 0, str(self._data).encode(), _DONT_EXIT) != ESPEAK_RATE:
                raise DataError(f"eSpeak cannot start from {self._data.resolve()}; reinstall espeakng-loader")
            library.espeak_SetSynthCallback(callback)
            variant = voice.partition("+")[2]  # a missing one is passed over in silence
            missing = variant and not (self._data / "voices" / "!v" / variant).is_file()
            if missing or library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise DataError(f"eSpeak has no voice {voice!r}")
            library.espeak_SetParameter(_RATE, rate, 0)
            library.espeak_SetParameter(_PITCH, pitch, 0)
            ctypes.CDLL(None).srand(1)
            spoken = text.encode()
            library.espeak_Synth(spoken, ctypes.c_size_t(len(spoken) + 1), 0, _POSITION_CHARACTER, 0, _UTF8, None, None)
            library.espeak_Terminate()
        finally:
            _unload(library)
        return np.frombuffer(b"".join(pieces), dtype=np.int16)

    def _load(self) -> ctypes.CDLL:
        try:
            return ctypes.CDLL(str(self._library))
        except OSError as error:
            fix = "set TMPDIR to a directory from which programs may run"
            raise StorageError(f"{self._library}: eSpeak cannot be loaded: {error}; {fix}") from error


def wheel_version() -> str:
    """Return the version of espeakng-loader, which decides every byte of the speech.

    Raises:
        ConfigError: it is not installed.
    """
    require("espeakng_loader", extra="demo")
    return importlib.metadata.version("espeakng-loader")


def _unload(library: ctypes.CDLL) -> None:
    close = ctypes.CDLL(None).dlclose
    close.argtypes = [ctypes.c_void_p]
    close(library._handle)


def _polyphase_filter() -> tuple[Integers, Integers]:
    """Return which inputs of a period each output of that period is made from, and their weights, both (UP, taps).

    A windowed sinc (Hann) at 0.95 of the output's Nyquist frequency, in whole numbers.
    """
    cutoff = 0.95 * UP / DOWN
    centre = np.arange(UP) * DOWN / UP
    inputs = np.ceil(centre)[:, None].astype(np.int64) + np.arange(2 * HALF_WIDTH)
    at = inputs - HALF_WIDTH - centre[:, None]
    hann = 0.5 + 0.5 * np.cos(np.pi * at / HALF_WIDTH)
    return inputs, np.rint(cutoff * np.sinc(cutoff * at) * hann * 2**FILTER_BITS).astype(np.int64)


def _resample(samples: Samples, inputs: Integers, weights: Integers) -> Samples:
    """From 22.05 to 16 kHz, in whole numbers: the same on every machine."""
    length = -(-len(samples) * UP // DOWN)
    periods = -(-length // UP)
    padded = np.zeros(periods * DOWN + 2 * HALF_WIDTH, dtype=np.int64)
    padded[HALF_WIDTH : HALF_WIDTH + len(samples)] = samples
    frames = np.lib.stride_tricks.sliding_window_view(padded, DOWN + 2 * HALF_WIDTH)[::DOWN]
    sums = np.einsum("pot,ot->po", frames[:, inputs], weights).reshape(-1)[:length]
    rounded = (sums + 2 ** (FILTER_BITS - 1)) >> FILTER_BITS
    return to_int16(rounded)


def to_int16(samples: Integers) -> Samples:
    """Clip to what 16 bits hold."""
    clipped: Samples = np.clip(samples, -(2**15), 2**15 - 1).astype(np.int16)
    return clipped
