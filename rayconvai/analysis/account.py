"""What a report says a sweep cost and where its numbers come from."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from rayconvai.analysis.story import Told, hours, money, plural, winner
from rayconvai.sweep.show import duration, leader
from rayconvai.sweep.state import Cost, SweepState


def cost(told: Told) -> dict[str, Any]:
    """What it took, in time, money and data, and what stopping early saved."""
    state, total = told.state, told.state.cost
    worked = state.seconds + (time.time() - state.time if told.holder else 0)
    facts = [("from begin to end", duration(worked)), ("training, all trials", f"{hours(total.wall)} hours")]
    facts.append(("CPU", f"{hours(total.cpu)} hours"))
    if total.gpu:
        facts.append(("GPU", f"{hours(total.gpu)} hours"))
    if price := money(total, state.spec.get("prices", {})):
        facts.append(("price", price))
    facts += [(f"{name.removesuffix('_seconds')} seen", _amount(name, much)) for name, much in total.seen.items()]
    for label, size in (("memory", total.memory), ("GPU memory", total.gpu_memory)):
        if size:
            facts.append((label, f"at most {size / 2**30:.1f} GB in one trial"))
    if saved := state.saved():
        share = saved / (saved + total.wall)
        facts.append(("saved", f"about {duration(saved)} of training by stopping early ({share:.0%} of the whole)"))
    return {"cost": facts, "by_state": list(_by_state(state, total))}


def _by_state(state: SweepState, total: Cost) -> Iterable[dict[str, str]]:
    for status in ("finished", "stopped", "infeasible", "failed", "running", "paused", "waiting"):
        trials = [trial for trial in state.trials.values() if trial.status == status]
        wall = sum(trial.cost.wall for trial in trials)
        if trials:
            yield {
                "state": status,
                "trials": f"{len(trials):,}",
                "epochs": f"{sum(trial.epoch for trial in trials):,}",
                "time": duration(wall),
                "share": f"{wall / total.wall:.0%}" if total.wall else "-",
            }


def _amount(name: str, amount: float) -> str:
    return f"{hours(amount)} hours" if name.endswith("_seconds") else f"{amount:,.0f}"


def provenance(told: Told) -> dict[str, Any]:
    """Where the best trial's numbers come from; no diff and no variables: a report is passed round."""
    best = leader(told.state)
    trial = winner(best, told.state.metrics[0]).name if best else next(iter(told.sweep.trials.index), None)
    known = told.sweep.provenance(trial) if trial else {}
    hardware, training = known.get("hardware", {}), known.get("training", {})
    gpus = ", ".join(str(gpu.get("name", gpu) if isinstance(gpu, Mapping) else gpu) for gpu in hardware.get("gpus", []))
    memory = f", {hardware['memory_bytes'] / 2**30:.0f} GB" if hardware.get("memory_bytes") else ""
    facts = [
        ("trial", trial or ""),
        ("began", known.get("time", "")),
        ("commit", _commit(known.get("git"))),
        ("rayconvai", _commit(known.get("rayconvai_git"))),
        ("seed", str(known.get("seed", ""))),
        ("machine", f"{hardware.get('processor', '')}, {hardware.get('cpus')} CPUs{memory}" if hardware else ""),
        ("GPUs", gpus),
        ("trained by", ", ".join(f"{key} {value}" for key, value in training.items())),
        ("data", "; ".join(_data(told.card.get("data", known.get("data")) or {}))),
        ("Python", known.get("python", "")),
    ]
    return {
        "provenance": [(label, value) for label, value in facts if value] if known else [],
        "packages": sorted(known.get("packages", {}).items(), key=lambda item: item[0].lower()),
    }


def _commit(git: Mapping[str, Any] | None) -> str:
    if not git:
        return ""
    changed = git.get("diff", "").count("\ndiff --git ") + git.get("diff", "").startswith("diff --git ")
    changes = f", with uncommitted changes in {plural(changed, 'file')}" if changed else ""
    return f"{git['commit'][:12]} on {git['branch']}{changes}"


def _data(data: Mapping[str, Any]) -> Iterable[str]:
    for split, facts in data.items():
        if isinstance(facts, Mapping):
            told = [f"{value} {key}" for key, value in facts.items() if key != "sha256"]
            digest = f" (sha256 {facts['sha256'][:12]})" if "sha256" in facts else ""
            yield f"{split}: {', '.join(told)}{digest}"
