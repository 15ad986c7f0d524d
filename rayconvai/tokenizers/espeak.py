"""eSpeak NG as a source of pronunciations: its library, from the wheel espeakng-loader, gives IPA for text."""

from __future__ import annotations

import ctypes
import tempfile
import threading
from functools import lru_cache
from pathlib import Path

from rayconvai._optional import require
from rayconvai.errors import ConfigError, StorageError

_SYNCHRONOUS, _DONT_EXIT, _UTF8 = 2, 0x8000, 1
_IPA, _SEPARATED = 2, ord("_") << 8
_LONGEST_PATH = 120
"""eSpeak cuts paths of more than 160 bytes, to files below this one too."""
_lock = threading.Lock()


@lru_cache(maxsize=1 << 16)
def ipa(text: str, language: str) -> tuple[tuple[str, ...], ...]:
    """Return what eSpeak says for a text: for each word its sounds, in IPA, stress marks before vowels.

    Raises:
        ConfigError: espeakng-loader is not installed, or eSpeak has no such language.
    """
    with _lock:
        library = _library()
        if library.espeak_SetVoiceByName(language.encode()) != 0:
            raise ConfigError(f"tokenizer.language is {language!r}, which eSpeak NG has not; use en-us, de, fr ...")
        rest = ctypes.c_char_p(text.encode())
        said = []
        while rest.value is not None:  # a clause at a time
            said.append(library.espeak_TextToPhonemes(ctypes.byref(rest), _UTF8, _IPA | _SEPARATED).decode())
    words = " ".join(said).split()
    # A word of another language stands between their names, (en) (de), and a hyphen joins a word to the next.
    return tuple(tuple(s for sound in word.split("_") if (s := sound.strip("-")) and s[0] != "(") for word in words)


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    loader = require("espeakng_loader", extra="tts")
    data = Path(loader.get_data_path())
    if len(str(data)) > _LONGEST_PATH:
        try:
            short = Path(tempfile.mkdtemp(prefix="espeak-")) / "espeak-ng-data"
            short.symlink_to(data)
        except OSError as error:
            raise StorageError(f"{tempfile.gettempdir()}: cannot be written ({error.strerror}); set TMPDIR") from error
        data = short
    library = ctypes.CDLL(loader.get_library_path())
    library.espeak_TextToPhonemes.restype = ctypes.c_char_p
    if library.espeak_Initialize(_SYNCHRONOUS, 0, str(data).encode(), _DONT_EXIT) < 0:
        raise ConfigError(f"eSpeak cannot start from {data}; reinstall espeakng-loader")
    return library
