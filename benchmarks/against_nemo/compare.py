"""Ours against NeMo's Conformer-CTC on the same utterances, each on one thread, run by run in turn.

    python -m venv nemo && nemo/bin/pip install 'nemo_toolkit[asr]'
    python benchmarks/against_nemo/compare.py --nemo-python nemo/bin/python --manifest DIR/manifest.jsonl

Without more, how fast they train: audio seconds a CPU second, medians and their ratio. Both have a Conformer of 5
layers, width 128, 4 heads, kernel 31 and 4x subsampling; the peer in its batches of 16, ours in batches of about as
many seconds. Ours differs where its defaults do (convolutions along time, rotary positions, layer norm); ``--paper``
gives it the paper's parts, which are the peer's too.

``--cpu-seconds 600`` trains both for so much CPU time and measures the word error rate on dev at the end of it, for
each of ``--seeds``; the two of a seed run at the same time, one a core. ``--recipe asr/digits_ctc`` takes another
recipe of ours as it is, instead of the same network.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SAME_MODEL = (
    "model.encoder.num_layers=5",
    "model.encoder.d_model=128",
    "model.encoder.num_heads=4",
    "model.encoder.conv_kernel_size=31",
)
PAPER = (
    "model.encoder.variant.stem=image",
    "model.encoder.variant.position=relative",
    "model.encoder.variant.conv_norm=batch",
)


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"failed: {process.args}")
    line = output.strip().splitlines()[-1]
    print(line, flush=True)
    values: dict[str, Any] = json.loads(line)
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nemo-python", required=True)
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=30, help="of a measurement of speed")
    parser.add_argument("--runs", type=int, default=3, help="measurements of speed")
    parser.add_argument("--cpu-seconds", type=float, help="of a training whose word error rate is measured")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    parser.add_argument("--recipe", help="of ours; else the peer's network")
    parser.add_argument("--paper", action="store_true")
    parser.add_argument("overrides", nargs="*", help="Hydra overrides of ours")
    args = parser.parse_args()
    same = ["data.batch_seconds=60", *SAME_MODEL, *(PAPER if args.paper else ())]
    ours = [sys.executable, str(HERE / "ours_run.py"), "--manifest", str(args.manifest), *args.overrides]
    ours += same if args.recipe is None else ["--recipe", args.recipe]
    peer = [args.nemo_python, str(HERE / "nemo_run.py"), "--manifest", str(args.manifest)]
    if args.cpu_seconds is None:
        speed = ["--steps", str(args.steps), "--no-eval"]
        name, pairs = "audio_seconds_per_cpu_second", []
        for _ in range(args.runs):
            pairs.append((result(start([*ours, *speed]))[name], result(start([*peer, *speed]))[name]))
        ratios = [mine / theirs for mine, theirs in pairs]
        print(f"ours / peer: median {statistics.median(ratios):.2f} of {[round(ratio, 2) for ratio in ratios]}")
        return
    for seed in args.seeds:
        options = ["--cpu-seconds", str(args.cpu_seconds), "--seed", str(seed)]
        processes = [start([*command, *options]) for command in (ours, peer)]
        mine, theirs = (result(process)["val_wer"] for process in processes)
        print(f"seed {seed}: word error rate {mine:.1%}, peer {theirs:.1%}", flush=True)


if __name__ == "__main__":
    main()
