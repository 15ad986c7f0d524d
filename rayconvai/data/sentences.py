"""What the embedded corpus says: digit strings, and sentences of a small household grammar (about a hundred words)."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator, Sequence
from typing import Literal, TypeVar

Kind = Literal["digits", "sentences", "all"]
Split = Literal["train", "dev", "test"]
T = TypeVar("T")

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
WORDS: dict[str, tuple[str, ...]] = {
    "polite": ("please", "could you", "now"),
    "number": (*DIGITS[2:], "ten", "twelve", "twenty"),
    "past": ("ten", "fifteen", "twenty", "thirty"),
    "person": ("my mother", "my brother", "the doctor", "anna", "peter", "our neighbour"),
    "room": ("kitchen", "bedroom", "garden", "office", "hall"),
    "device": ("light", "heater", "radio", "fan"),
    "opening": ("window", "door", "curtain"),
    "switch": ("on", "off"),
    "move": ("open", "close"),
    "unit": ("hours", "days"),
    "day": ("today", "tomorrow", "on monday", "on friday", "this evening"),
    "mood": ("quiet", "happy", "old", "new"),
    "music": ("music", "songs", "jazz"),
    "food": ("bread", "milk", "coffee", "rice", "cheese"),
    "items": ("apples", "eggs", "lemons"),
    "place": ("london", "paris", "the station", "the airport", "the village"),
    "sky": ("rain", "snow", "be sunny", "be cold"),
    "task": ("water the plants", "feed the cat", "pay the rent", "buy some flowers"),
}
TEMPLATES = (
    "{polite} turn {switch} the {device} in the {room}",
    "{polite} {move} the {opening} in the {room}",
    "set a timer for {number} {unit} and {past} minutes",
    "wake me up at {number} {past} {day}",
    "call {person} at {number} {day}",
    "{polite} send a message to {person} {day}",
    "{polite} play some {mood} {music} in the {room}",
    "will it {sky} in {place} {day}",
    "how far is it from {place} to {place} {day}",
    "add {food} and {number} {items} to the list",
    "we need {number} {items} and some {food} {day}",
    "{polite} remind {person} to {task} {day}",
)


def texts(kind: Kind, split: Split, seed: int) -> Iterator[str]:
    """Yield texts, each once, without end for digits and until the grammar is used up for sentences.

    A text belongs to one split alone, whatever the seed: what dev and test say is never said in training.
    ``all`` takes digits and sentences in turn.
    """
    if kind == "all":
        digits, sentences = texts("digits", split, seed), texts("sentences", split, seed)
        for pair in zip(digits, sentences, strict=False):
            yield from pair
        return
    rng = random.Random(f"{kind} {split} {seed}")
    make = _digit_string if kind == "digits" else _sentence
    seen: set[str] = set()
    repeats = 0
    while repeats < 1000:
        text = make(rng)
        if text in seen or _split_of(text) != split:
            repeats += text in seen
            continue
        seen.add(text)
        repeats = 0
        yield text


def pick(rng: random.Random, options: Sequence[T]) -> T:
    """Choose one. Only ``random()`` is promised to give the same on every version of Python."""
    return options[int(rng.random() * len(options))]


def _split_of(text: str) -> Split:
    """A tenth of all texts is kept for dev, a tenth for test."""
    part = zlib.crc32(text.encode()) % 10
    return "dev" if part == 0 else "test" if part == 1 else "train"


def _digit_string(rng: random.Random) -> str:
    return " ".join(pick(rng, DIGITS) for _ in range(pick(rng, (3, 4, 5, 6, 7))))


def _sentence(rng: random.Random) -> str:
    words = []
    for word in pick(rng, TEMPLATES).split():
        name = word.strip("{}")
        options = WORDS[name] if word != name else (word,)
        fresh = [option for option in options if option not in words]
        words.append(pick(rng, fresh or options))
    return " ".join(words)
