"""The embedded corpus of texts: requests to an assistant, with their intents and slots, made from a small grammar."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, get_args

from rayconvai.data.cache import make_once
from rayconvai.data.corpus import Splits
from rayconvai.data.sentences import Split, pick
from rayconvai.data.texts import TextManifest
from rayconvai.errors import ConfigError
from rayconvai.places import cache_root

VERSION = 1
"""Of what is made here: a change to any byte of the corpus is a new version."""

_ADJECTIVES = (
    "blue", "quiet", "golden", "broken", "endless", "little", "crooked", "silver", "lonely", "burning", "hollow",
    "early", "distant", "velvet",
)  # fmt: skip
_NOUNS = (
    "river", "garden", "station", "winter", "mirror", "harbour", "letter", "engine", "orchard", "lantern",
    "island", "window", "summer", "road",
)  # fmt: skip
_FIRST = (
    "anna", "peter", "maria", "tom", "ines", "ravi", "chloe", "omar", "julia", "sven", "nadia", "hugo", "grace",
    "felix",
)  # fmt: skip
_LAST = (
    "berg", "stone", "lindqvist", "moreau", "okafor", "silva", "hart", "novak", "rossi", "khan", "dale", "winter",
    "rivers", "garden",
)  # fmt: skip
OPEN = {
    "title": ("{a} {n}", "the {n}", "{n} of the {n}", "my {a} {n}", "{a} {a} {n}"),
    "person": ("{f}", "{f} {l}", "{f} {l}"),
    "band": ("the {a} {n}s", "{f} {l}", "{n} {n}"),
    "place": ("the {a} {n}", "{l}'s", "cafe {n}", "the {n}"),
}
"""Names that are put together: a fifth of them is never seen in training."""
WORDS: dict[str, tuple[str, ...]] = {
    "city": ("london", "paris", "new york", "san francisco", "oslo", "rome", "cape town", "lima", "kyoto", "delhi"),
    "day": ("today", "tomorrow", "on monday", "next friday", "this weekend", "on the third of may", "tonight"),
    "time": ("at noon", "at seven", "at half past nine", "in two hours", "in the morning", "around five pm"),
    "span": ("ten minutes", "an hour", "half an hour", "two hours", "ninety seconds", "five minutes"),
    "number": ("two", "three", "four", "five", "six", "eight", "ten"),
    "genre": ("jazz", "rock", "folk", "techno", "classical", "soul"),
    "list": ("shopping", "holiday", "reading", "to do", "party"),
    "playlist": ("morning run", "dinner jazz", "road trip", "old favourites", "focus", "rainy day"),
    "item": ("milk", "brown bread", "coffee", "batteries", "a birthday card", "olive oil", "dog food"),
    "food": ("thai", "italian", "vegan", "sushi", "pizza", "ramen"),
    "weather": ("rain", "snow", "be windy", "be sunny", "freeze"),
    "room": ("kitchen", "bedroom", "garden", "office", "hall"),
    "device": ("lights", "heating", "fan", "radio", "blinds"),
    "task": ("water the plants", "call the dentist", "pay the rent", "feed the cat", "book the hotel"),
    "language": ("french", "german", "swedish", "spanish", "hindi"),
    "phrase": ("good morning", "thank you", "where is the station", "see you soon", "how much is it"),
    "currency": ("dollars", "euros", "pounds", "kronor"),
}
TEMPLATES: dict[str, tuple[str, ...]] = {
    "play_music": (
        "play {title=song}", "play {title=song} by {band=artist}", "i want to hear {band=artist}",
        "put on some {genre}", "play the album {title=album} by {band=artist}", "play my {playlist} playlist",
    ),
    "add_to_playlist": (
        "add {title=song} to my {playlist} playlist", "put {band=artist} on the {playlist} list",
        "add this song by {band=artist} to {playlist}",
    ),
    "rate": ("give {title=work} {number=stars} stars", "rate {title=work} {number=stars} out of ten",
             "i would give the book {title=work} {number=stars} points"),
    "find_film": ("when is {title=film} shown {day}", "is {title=film} on in {city} {day}",
                  "find showings of {title=film} {time} {day}"),
    "book_table": (
        "book a table for {number=people} at {place} {day} {time}", "reserve {place} for {number=people} {day}",
        "find me a {food} restaurant in {city} for {number=people}", "i want to eat {food} at {place} {time}",
    ),
    "book_flight": (
        "book a flight from {city=origin} to {city=destination} {day}", "fly me to {city=destination} {day} {time}",
        "i need {number=people} seats to {city=destination} from {city=origin} {day}",
    ),
    "weather": ("will it {weather} in {city} {day}", "what is the weather like {day} in {city}",
                "is it going to {weather} {day}"),
    "set_timer": ("set a timer for {span}", "start a {span} timer", "remind me in {span} to {task}"),
    "set_alarm": ("wake me up {time} {day}", "set an alarm {time} {day}", "alarm {day} {time}"),
    "add_reminder": ("remind me to {task} {day} {time}", "remind {person} to {task} {day}",
                     "i must {task} {day}"),
    "add_to_list": ("add {item} to my {list} list", "put {item} and {item} on the {list} list", "we need {item}"),
    "message": ("tell {person} i will be there {time}", "send {person} a message saying {phrase=message}",
                "message {person} {day} {time}"),
    "call": ("call {person}", "ring {place} {day}", "call {person} {time}"),
    "switch": ("turn the {device} in the {room} on", "switch off the {device} in the {room} {time}",
               "{device} off in the {room} in {span}"),
    "translate": ("how do you say {phrase} in {language}", "translate {phrase} into {language}",
                  "what is {phrase} in {language}"),
    "convert": ("how many {currency=target} are {number=amount} {currency=source}",
                "change {number=amount} {currency=source} into {currency=target}"),
}  # fmt: skip
BEFORE = ("please", "hey", "could you", "um", "i would like you to", "ok now")
AFTER = ("please", "thanks", "if you can", "right away")


class RequestCorpus:
    """Requests to an assistant: 16 intents, some thirty types of slots; rows have ``text``, ``tokens``, ``intent`` and
    ``slots`` (BIO).

    The same words are other slots elsewhere (``from london to paris``), a fifth of the names in dev and test is never
    said in training, and one word in thirty is misspelt: a model that learns the sentences by heart fails. The same
    bytes on every machine.

    Args:
        seed: which requests.
        size: how many: eight tenths for training, a tenth each for dev and test.
        cache_dir: where to keep it; else $RAYCONVAI_CACHE, else ~/.cache/rayconvai.

    Raises:
        ConfigError: ``size`` is below 200: some slots would be said in dev only.
    """

    def __init__(self, seed: int = 0, size: int = 4000, cache_dir: str | Path | None = None) -> None:
        if size < 200:
            raise ConfigError(f"data.corpus.size is {size}; it takes at least 200 to say every slot in training")
        self.seed, self.size, self.cache_dir = seed, size, cache_dir

    @property
    def directory(self) -> Path:
        """Where the corpus is, or will be."""
        return cache_root(self.cache_dir) / "requests" / f"{self.size}-seed{self.seed}-v{VERSION}"

    def prepare(self) -> Splits[TextManifest]:
        self.fingerprint()
        train, dev, test = (TextManifest.open(self.directory / f"{split}.jsonl") for split in get_args(Split))
        return Splits(train, dev, test)

    def fingerprint(self) -> dict[str, Any]:
        """Make the corpus if need be, and return what it is: arguments, version, sha256 of all its bytes."""
        return make_once(self.directory, self._make)

    def _make(self, directory: Path) -> dict[str, Any]:
        digest = hashlib.sha256()
        tenth = self.size // 10
        for split in get_args(Split):
            count = self.size - 2 * tenth if split == "train" else tenth
            rows = islice(requests(split, self.seed), count)
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            (directory / f"{split}.jsonl").write_bytes(content)
            digest.update(content)
        about = {"corpus": "requests", "seed": self.seed, "size": self.size, "version": VERSION}
        return {**about, "sha256": digest.hexdigest()}


def requests(split: Split, seed: int) -> Iterator[dict[str, Any]]:
    """Yield requests without end, each text once in all splits, whatever the seed; first one of each template."""
    rng = random.Random(f"requests {split} {seed}")
    unsaid = [(intent, template) for intent, templates in TEMPLATES.items() for template in templates]
    seen: set[str] = set()
    while True:
        intent = pick(rng, tuple(TEMPLATES))
        intent, template = unsaid[-1] if unsaid else (intent, pick(rng, TEMPLATES[intent]))
        tokens, slots = _request(rng, template, split)
        text = " ".join(tokens)
        if text in seen or _split_of(text) != split:
            continue
        if unsaid:
            unsaid.pop()
        seen.add(text)
        yield {"text": text, "tokens": tokens, "intent": intent, "slots": slots}


def _request(rng: random.Random, template: str, split: Split) -> tuple[list[str], list[str]]:
    tokens, slots = [], []

    def say(words: str, slot: str = "") -> None:
        for place, word in enumerate(words.split()):
            tokens.append(_misspelt(rng, word))
            slots.append(f"{'I' if place else 'B'}-{slot}" if slot else "O")

    if rng.random() < 0.3:
        say(pick(rng, BEFORE))
    for part in template.split():
        name, _, slot = part.strip("{}").partition("=")
        if part[0] != "{":
            say(part)
        else:
            say(_name(rng, OPEN[name], split) if name in OPEN else pick(rng, WORDS[name]), slot or name)
    if rng.random() < 0.2:
        say(pick(rng, AFTER))
    return tokens, slots


def _name(rng: random.Random, patterns: Sequence[str], split: Split) -> str:
    """Put a name together; a fifth of all names is kept from training."""
    lists = {"a": _ADJECTIVES, "n": _NOUNS, "f": _FIRST, "l": _LAST}
    while True:
        words = [
            part.format(**{key: pick(rng, some) for key, some in lists.items()}) for part in pick(rng, patterns).split()
        ]
        name = " ".join(words)
        if split != "train" or zlib.crc32(name.encode()) % 5:
            return name


def _misspelt(rng: random.Random, word: str) -> str:
    """Leave out a letter, or let two change places, in one word of thirty."""
    if len(word) < 4 or rng.random() >= 1 / 30:
        return word
    at = 1 + int(rng.random() * (len(word) - 2))
    return word[:at] + word[at + 1 :] if rng.random() < 0.5 else word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def _split_of(text: str) -> Split:
    """A tenth of all texts is kept for dev, a tenth for test."""
    part = zlib.crc32(text.encode()) % 10
    return "dev" if part == 0 else "test" if part == 1 else "train"
