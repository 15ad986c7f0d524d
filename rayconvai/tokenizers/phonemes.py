"""Notations of speech sounds: ARPAbet with stress, as CMUdict has it, and IPA, as eSpeak NG has it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

VOWELS = {
    "AA": "ɑː", "AE": "æ", "AH": "ʌ", "AO": "ɔː", "AW": "aʊ", "AY": "aɪ", "EH": "ɛ", "ER": "ɜː", "EY": "eɪ",
    "IH": "ɪ", "IY": "iː", "OW": "oʊ", "OY": "ɔɪ", "UH": "ʊ", "UW": "uː",
}  # fmt: skip
UNSTRESSED = {"AH": "ə", "ER": "ɚ", "IY": "i"}
"""Vowels that are written otherwise in IPA where they have no stress."""
CONSONANTS = {
    "B": "b", "CH": "tʃ", "D": "d", "DH": "ð", "F": "f", "G": "ɡ", "HH": "h", "JH": "dʒ", "K": "k", "L": "l",
    "M": "m", "N": "n", "NG": "ŋ", "P": "p", "R": "ɹ", "S": "s", "SH": "ʃ", "T": "t", "TH": "θ", "V": "v",
    "W": "w", "Y": "j", "Z": "z", "ZH": "ʒ",
}  # fmt: skip
ARPABET = (*(vowel + stress for vowel in VOWELS for stress in "012"), *CONSONANTS)
"""All phonemes: each vowel without stress (0), with the main one (1), with a secondary one (2)."""
IPA = (
    *"abcdefhijklmnopqrstuvwxyzæçðøħŋœǀǁǂǃɐɑɒɓɔɕɖɗɘəɚɛɜɝɞɟɠɡɢɣɤɥɦɧɨɪɫɬɭɮɯɰɱɲɳɴɵɶɸɹɺɻɽɾʀʁʂʃʄʈʉʊʋʌʍʎʏʐʑʒʔʕʘʙʛʜʝʟʡʢᵻ",
    *"βθχˈˌːˑʰʲʷˠˤ˞ʼ̩̯̥̬̃̊̚͡",
)
"""The symbols of the IPA chart with the marks that eSpeak puts to them, one character each."""

_STRESS = {"ˈ": "1", "ˌ": "2"}
_MARKS = {stress: mark for mark, stress in _STRESS.items()}
_OTHERS = {
    "ɐ": "AH", "ɑ": "AA", "ɒ": "AA", "ɔ": "AO", "e": "EH", "i": "IY", "ᵻ": "IH", "o": "OW", "oː": "AO", "u": "UW",
    "ə": "AH", "ɚ": "ER", "a": "AE", "ɜ": "ER", "n̩": "AH N", "l̩": "AH L", "m̩": "AH M", "ɾ": "T", "ʔ": "T",
    "x": "K", "r": "R", "ɫ": "L", "ʍ": "W", "g": "G",
}  # fmt: skip
"""How eSpeak's English writes sounds besides."""
_FROM_IPA = {**{ipa: name for name, ipa in (VOWELS | CONSONANTS).items()}, **_OTHERS}
_LONGEST = max(map(len, _FROM_IPA))


def arpabet_to_ipa(phonemes: Sequence[str]) -> str:
    """Return the IPA of a word in ARPAbet."""
    written = []
    for phoneme in phonemes:
        name, stress = phoneme.rstrip("012"), phoneme[-1]
        if name in CONSONANTS:
            written.append(CONSONANTS[name])
        else:
            written.append(_MARKS.get(stress, "") + (UNSTRESSED if stress == "0" else VOWELS).get(name, VOWELS[name]))
    return "".join(written)


def ipa_to_arpabet(sounds: Iterable[str]) -> list[str]:
    """Return the ARPAbet of a word in eSpeak's English IPA; what ARPAbet has no sound for comes as it is."""
    written: list[str] = []
    for sound in sounds:
        stress, rest = "0", sound
        while rest:
            if rest[0] in _STRESS:
                stress, rest = _STRESS[rest[0]], rest[1:]
                continue
            size = next((size for size in range(_LONGEST, 0, -1) if rest[:size] in _FROM_IPA), 0)
            for name in _FROM_IPA[rest[:size]].split() if size else [rest[0]]:
                written.append(name + stress if name in VOWELS else name)
                stress = "0" if name in VOWELS else stress
            rest = rest[size or 1 :]
    return written
