"""Audio seconds trained per CPU second, one thread, ours and the peer's by turns: medians and their ratio.

    python -m venv nemo && nemo/bin/pip install 'nemo_toolkit[asr]'
    python benchmarks/against_nemo/compare.py --nemo-python nemo/bin/python --manifest DIR/manifest.jsonl

Both train a Conformer of 5 layers, width 128, 4 heads, kernel 31 and 4x subsampling on the same utterances: the peer in
its batches of 16, ours in batches of about as many seconds. Ours differs where its defaults do (convolutions along
time, rotary positions, layer norm); the paper's parts are had by these overrides:

    model.encoder.variant.stem=image model.encoder.variant.position=relative model.encoder.variant.conv_norm=batch
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SAME_MODEL = (
    "model.encoder.num_layers=5",
    "model.encoder.d_model=128",
    "model.encoder.num_heads=4",
    "model.encoder.conv_kernel_size=31",
)


def run(command: list[str]) -> float:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    line = done.stdout.strip().splitlines()[-1]
    print(line, flush=True)
    return float(json.loads(line)["audio_seconds_per_cpu_second"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nemo-python", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--batch-seconds", type=float, default=60.0)
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of ours")
    args = parser.parse_args()
    common = ["--manifest", str(args.manifest), "--steps", str(args.steps), "--no-eval"]
    ours = [
        sys.executable,
        str(HERE / "ours_run.py"),
        *common,
        f"data.batch_seconds={args.batch_seconds}",
        *SAME_MODEL,
        *args.overrides,
    ]
    peer = [args.nemo_python, str(HERE / "nemo_run.py"), *common]
    ratios = []
    for _ in range(args.runs):
        ratios.append(run(ours) / run(peer))
    print(f"ours / peer: median {statistics.median(ratios):.2f} of {[round(ratio, 2) for ratio in ratios]}")


if __name__ == "__main__":
    main()
