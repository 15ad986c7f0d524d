"""Load time and memory of a manifest of a million lines.

python benchmarks/manifest_million.py [--lines N]
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import resource
import tempfile
import time
from pathlib import Path

from rayconvai.data.manifest import Manifest

WORDS = (
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
    "his",
    "they",
)


def write(path: Path, lines: int) -> None:
    draw = random.Random(0)
    with path.open("w") as file:
        for index in range(lines):
            row = {
                "audio_filepath": f"clips/{index // 1000:04d}/{index:07d}.flac",
                "duration": round(draw.uniform(1, 16), 3),
                "text": " ".join(draw.choices(WORDS, k=12)),
                "speaker": f"s{index % 997}",
            }
            file.write(json.dumps(row) + "\n")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    lines = parser.parse_args().lines
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "manifest.jsonl"
        write(path, lines)
        print(f"{lines} lines, {path.stat().st_size / 2**20:.0f} MB on disk; peak RSS before {peak_mb():.0f} MB")
        start = time.perf_counter()
        manifest = Manifest.open(path)
        print(
            f"open:        {time.perf_counter() - start:6.2f} s, peak RSS {peak_mb():.0f} MB ({manifest.hours:.0f} h)"
        )
        draw = random.Random(1)
        start = time.perf_counter()
        for _ in range(10_000):
            manifest[draw.randrange(lines)]
        print(f"random row:  {(time.perf_counter() - start) * 100:6.1f} us")
        start = time.perf_counter()
        manifest.fingerprint()
        print(f"fingerprint: {time.perf_counter() - start:6.2f} s, peak RSS {peak_mb():.0f} MB")
        print(f"pickled:     {len(pickle.dumps(manifest)) / 2**20:6.1f} MB")


if __name__ == "__main__":
    main()
