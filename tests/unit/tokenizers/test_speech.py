"""Text as it is spoken: normalised, looked up, and asked of eSpeak NG."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path

import pytest

from rayconvai.errors import ArtefactError, ConfigError, DataError
from rayconvai.tokenizers import SpeechTokenizer, load_tokenizer
from rayconvai.tokenizers.phonemes import ARPABET, IPA, arpabet_to_ipa, ipa_to_arpabet


@pytest.fixture(scope="module")
def english() -> SpeechTokenizer:
    return SpeechTokenizer.train([])


def said(tokenizer: SpeechTokenizer, text: str) -> str:
    return tokenizer.decode(tokenizer.encode(text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("It costs $12.50.", "It costs twelve dollars fifty cents.", id="money"),
        pytest.param("on Jan. 5, 2024", "on january fifth, twenty twenty four", id="date"),
        pytest.param("at 3:30 p.m.", "at three thirty PM", id="time"),
        pytest.param("Dr. Smith, e.g. here", "doctor Smith, for example here", id="abbreviations"),
        pytest.param("He came 22nd of 1,200", "He came twenty second of one thousand two hundred", id="numbers"),
        pytest.param("15% of 2 kg", "fifteen percent of two kilograms", id="units"),
    ],
)
def test_what_is_written_short_is_spoken_in_words(english: SpeechTokenizer, text: str, words: str) -> None:
    assert english.spoken(text) == words


@pytest.mark.parametrize(
    ("text", "sounds"),
    [
        pytest.param("Hello, world!", "HH AH0 L OW1 ,   W ER1 L D !", id="lexicon"),
        pytest.param("voicemail", "V OY1 S M EY2 L", id="lexicon_knows"),
        pytest.param("undelete", "AH2 N D IH0 L IY1 T", id="espeak"),
        pytest.param("IAX", "AY1 EY1 EH1 K S", id="spelt"),
        pytest.param("the {R EH1 D} book", "DH AH0   R EH1 D   B UH1 K", id="in_braces"),
        pytest.param('"well-known" (dogs)', "W EH1 L   N OW1 N   D AA1 G Z", id="quotes_and_hyphens"),
    ],
)
def test_words_are_looked_up_first(english: SpeechTokenizer, text: str, sounds: str) -> None:
    assert said(english, text) == sounds


def test_ipa_and_characters() -> None:
    ipa = SpeechTokenizer.train([], notation="ipa")
    assert said(ipa, "Near the fire.") == "nˈɪɹ ðə fˈaɪɚ."
    assert said(SpeechTokenizer(notation="ipa", language="de"), "3 Äpfel") == "dɾˈaɪ ˈɛpfəl"
    letters = SpeechTokenizer.train(["Ärger"], notation="characters")
    assert said(letters, "It's 5, Ärger") == "it's five, ärger"
    assert said(SpeechTokenizer.train(["नमस्ते"], notation="characters", language="hi"), "नमस्ते") == "नमस्ते"
    assert said(ipa, "the {ɹ ˈɛ d} book") == "ðə ɹˈɛd bˈʊk"
    assert len(ipa.vocab) == len(set(ipa.vocab)) == 7 + len(IPA)


@pytest.mark.parametrize(
    ("language", "text", "sounds"),
    [
        pytest.param("hi", "नमस्ते दुनिया।", "nəmˈʌsteː dˈʊnɪjˌaː.", id="marks_on_letters"),
        pytest.param("fa", "می‌خواهم، سلام؟", "mixˈɑham, salˈɑm?", id="joiners"),
        pytest.param("es", "¿Qué tal?", "kˈe tˈal?", id="signs"),
        pytest.param("de", "Computer, online gehen", "kɔmpjˈuːtɜ, ˈɒnlaɪn ɡˈeːən", id="word_of_another_language"),
        pytest.param("fr", "le football", "lə fˈʊtbɔːl", id="hyphen"),
        pytest.param("ru", "привет, мир!", "prʲivʲˈet, mʲir!", id="lexicon"),
    ],
)
def test_other_languages(language: str, text: str, sounds: str, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("мир  mʲ i r\n")
    lexicon = tmp_path / "mine.txt" if language == "ru" else None
    tokenizer = SpeechTokenizer.train([], notation="ipa", language=language, normalize=False, lexicon=lexicon)
    assert said(tokenizer, text) == sounds


def test_both_notations_say_the_same() -> None:
    assert arpabet_to_ipa(["CH", "IH1", "L", "D", "R", "AH0", "N"]) == "tʃˈɪldɹən"
    assert ipa_to_arpabet(["tʃ", "ˈɪ", "l", "d", "ɹ", "ə", "n"]) == ["CH", "IH1", "L", "D", "R", "AH0", "N"]
    for phoneme in ARPABET:  # eSpeak does not mark what has no stress
        assert ipa_to_arpabet([arpabet_to_ipa([phoneme])]) == [phoneme]


@pytest.mark.parametrize("text", ["", "  ", "?!", "..."])
def test_nothing_to_say_has_no_tokens(english: SpeechTokenizer, text: str) -> None:
    assert english.encode(text) == []


@pytest.mark.parametrize(
    ("text", "lacking"),
    [("say {QQ AH0}", "'QQ'"), ("ein 日本 word", "'日本'"), ("a ♥ b", "'♥'")],
    ids=["phoneme", "script", "sign"],
)
def test_what_cannot_be_written_is_named(english: SpeechTokenizer, text: str, lacking: str) -> None:
    assert english.unknown(text)
    with pytest.raises(DataError, match=lacking):
        english.encode(text)


def test_a_lexicon_of_ones_own_goes_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lexicon = tmp_path / "mine.txt"
    lexicon.write_text(";;; ours\nHello  HH EH1 L OW0\n")
    assert said(SpeechTokenizer.train([], lexicon=lexicon), "hello") == "HH EH1 L OW0"
    assert said(SpeechTokenizer.train([], lexicon=lexicon), "'hello'") == "HH EH1 L OW0"
    lexicon.write_text("e-mail  IY1 M EY2 L\nq.  K Y UW1\n'tis  T IH1 Z\n")
    with caplog.at_level(logging.WARNING, "rayconvai"):
        SpeechTokenizer.train([], lexicon=lexicon)
    assert "mine.txt:1: 'e-mail' is never looked up, nor 1 more: texts" in caplog.text
    lexicon.write_text("hello  HH EH1 L OW0\nworld  W ER L D\n")
    with pytest.raises(DataError, match=r"mine.txt:2: 'ER' is not a phoneme of arpabet; nearest: ER"):
        SpeechTokenizer.train([], lexicon=lexicon)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"notation": "arpabat"}, "notation is 'arpabat'"),
        ({"language": "de"}, "sounds of English only"),
        ({"notation": "ipa", "language": "xx-none"}, "language is 'xx-none'"),
    ],
    ids=["notation", "language", "no_such_language"],
)
def test_options_that_cannot_be_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeechTokenizer.train([], **options)  # type: ignore[arg-type]


def test_saved_it_says_the_same(english: SpeechTokenizer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    english.save(tmp_path)
    text = "Dr. Smith umuted 3 calls."
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(text) == pickle.loads(pickle.dumps(loaded)).encode(text) == english.encode(text)
    record = json.loads((tmp_path / "tokenizer.json").read_text())
    record["versions"]["espeakng-loader"] = "0.0.1"
    del record["rules"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(record))
    with caplog.at_level(logging.WARNING, "rayconvai"):
        load_tokenizer(tmp_path)
    assert "pip install espeakng-loader==0.0.1" in caplog.text
    assert "rules of version 1, here they are 2" in caplog.text
    (tmp_path / "lexicon.txt.gz").write_bytes(b"?")
    with pytest.raises(ArtefactError, match=r"tokenizer.json: cannot make the tokenizer"):
        load_tokenizer(tmp_path)
