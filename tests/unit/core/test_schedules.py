"""Schedules against closed formulas, PyTorch's own schedules, and what NeMo's users expect of the names they know."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from torch import nn
from torch.optim import lr_scheduler as torch_schedules
from torch.utils.data import DataLoader

from rayconvai.core import params
from rayconvai.core import schedules as S
from rayconvai.errors import ConfigError

LR, MIN_LR, END, WARMUP = 0.1, 1e-3, 20, 5


def make_optimizer(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [nn.Parameter(torch.ones(2))], "lr": rate} for rate in rates or (LR,)]
    return torch.optim.SGD(groups)


def run(schedule: Any, steps: int, group: int = 0) -> list[float]:
    """The rate before each of the first ``steps`` steps."""
    rates = []
    for _ in range(steps):
        rates.append(float(schedule.optimizer.param_groups[group]["lr"]))
        schedule.optimizer.step()
        schedule.step()
    return rates


def after(shape: Callable[[float], float], start: int = WARMUP) -> Callable[[int], float]:
    """A decay from the base rate to the minimum by a shape over the progress from 0 to 1."""
    return lambda step: MIN_LR + (LR - MIN_LR) * shape((step - start) / (END - start))


HOLD = 4
SHAPES: dict[str, tuple[dict[str, Any], int, Callable[[int], float]]] = {
    "WarmupPolicy": ({}, WARMUP, lambda step: LR),
    "WarmupHoldPolicy": ({"hold_steps": HOLD}, WARMUP, lambda step: LR),
    "WarmupAnnealing": ({}, WARMUP, after(lambda p: 1 - p)),
    "CosineAnnealing": ({}, WARMUP, after(lambda p: (1 + math.cos(math.pi * p)) / 2)),
    "PolynomialDecayAnnealing": ({"power": 2.0}, WARMUP, after(lambda p: (1 - p) ** 2)),
    "SquareAnnealing": ({}, WARMUP, lambda step: LR * ((END - step) / (END - WARMUP)) ** 2),
    "SquareRootAnnealing": ({}, WARMUP, lambda step: LR * ((END - step) / END) ** 0.5),
    "InverseSquareRootAnnealing": ({}, WARMUP, lambda step: LR * ((WARMUP + 1) / (step + 1)) ** 0.5),
    "T5InverseSquareRootAnnealing": ({"constant_steps": 8}, WARMUP, lambda step: max(step, 8) ** -0.5),
    "PolynomialHoldDecayAnnealing": ({"hold_steps": HOLD}, WARMUP + HOLD, after(lambda p: 1 - p, WARMUP + HOLD)),
    "WarmupHoldAnnealLinear": ({"hold_steps": HOLD}, WARMUP + HOLD, after(lambda p: 1 - p, WARMUP + HOLD)),
    "WarmupHoldAnnealOneMinusSquareRoot": (
        {"hold_steps": HOLD},
        WARMUP + HOLD,
        lambda step: LR * (1 - math.sqrt((step - WARMUP - HOLD) / (END - WARMUP - HOLD))),
    ),
    "NoamHoldAnnealing": (
        {"hold_steps": HOLD, "decay_rate": 0.7},
        WARMUP + HOLD,
        lambda step: LR * WARMUP**0.7 / (step - HOLD) ** 0.7,
    ),
    "WSD": ({"decay_steps": 8, "decay": "sqrt"}, END - 8, after(lambda p: 1 - math.sqrt(p), END - 8)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_warmup_plateau_decay_and_end_follow_the_formulas(name: str) -> None:
    options, start, decay = SHAPES[name]
    schedule = S.AVAILABLE_SCHEDULERS[name](
        make_optimizer(), warmup_steps=WARMUP, max_steps=END, min_lr=MIN_LR, **options
    )
    rates = run(schedule, END + 4)
    assert rates[: WARMUP + 1] == pytest.approx([LR * (step + 1) / (WARMUP + 1) for step in range(WARMUP + 1)])
    assert rates[WARMUP + 1 : start] == [LR] * max(0, start - WARMUP - 1)
    first = max(start, WARMUP + 1)
    assert rates[first : END + 1] == pytest.approx([max(decay(step), MIN_LR) for step in range(first, END + 1)])
    assert rates[END + 1 :] == [MIN_LR] * 3


def test_every_schedule_is_covered() -> None:
    ours = {name for name, cls in S.AVAILABLE_SCHEDULERS.items() if issubclass(cls, S.WarmupPolicy)}
    assert ours - {"Constant", "NoamAnnealing"} == set(SHAPES)
    nemo = ["StepLR", "ExponentialLR", "ReduceLROnPlateau", "CyclicLR"]
    assert set(S.AVAILABLE_SCHEDULERS) == ours | set(nemo)


@pytest.mark.parametrize("name", [name for name, (options, _, _) in SHAPES.items() if "Noam" not in name])
def test_without_warmup_it_starts_at_the_base_rate_and_ends_at_the_minimum(name: str) -> None:
    schedule = S.AVAILABLE_SCHEDULERS[name](make_optimizer(), max_steps=10, min_lr=MIN_LR)
    rates = run(schedule, 12)
    if not name.startswith("T5"):
        assert rates[0] == LR
        assert rates == sorted(rates, reverse=True)
    assert rates[-1] == MIN_LR


def test_noam_is_the_papers_formula_and_has_no_end() -> None:
    schedule = S.NoamAnnealing(make_optimizer(2.0), d_model=16, warmup_steps=WARMUP, max_steps=END)
    paper = [2.0 * 16**-0.5 * min(step**-0.5, step * WARMUP**-1.5) for step in range(1, 2 * END)]
    assert run(schedule, 2 * END)[1:] == pytest.approx(paper)
    floored = S.NoamAnnealing(make_optimizer(LR), d_model=16, warmup_steps=WARMUP, min_lr=9e-3)
    assert run(floored, 40)[0] < 9e-3 == run(floored, 1)[0]


def test_cosine_with_constant_steps_warms_up_from_zero_and_ends_early() -> None:
    schedule = S.CosineAnnealing(make_optimizer(), warmup_steps=3, constant_steps=2, max_steps=10, min_lr=MIN_LR)
    rates = run(schedule, 12)
    assert rates[:4] == pytest.approx([0, LR / 3, 2 * LR / 3, LR])
    assert rates[4:8] == [schedule._get_lr(step)[0] for step in range(4, 8)]
    assert rates[8:] == [MIN_LR] * 4


def test_cosine_is_torchs_cosine() -> None:
    ours = S.CosineAnnealing(make_optimizer(), max_steps=END, min_lr=MIN_LR)
    torchs = torch_schedules.CosineAnnealingLR(make_optimizer(), T_max=END, eta_min=MIN_LR)
    assert run(ours, END) == pytest.approx(run(torchs, END))


def test_polynomial_is_torchs_polynomial() -> None:
    ours = S.PolynomialDecayAnnealing(make_optimizer(), max_steps=END, power=1.7)
    torchs = torch_schedules.PolynomialLR(make_optimizer(), total_iters=END, power=1.7)
    assert run(ours, END) == pytest.approx(run(torchs, END))


def test_polynomial_cycles_after_its_end() -> None:
    schedule = S.PolynomialDecayAnnealing(make_optimizer(), max_steps=10, cycle=True)
    assert run(schedule, 16)[10:16] == pytest.approx([0.0, *(LR * (1 - step / 20) for step in range(11, 16))])


def test_constant_needs_no_end() -> None:
    assert run(S.Constant(make_optimizer(), warmup_steps=1), 40)[1:] == [LR] * 39


@pytest.mark.parametrize(
    ("decay", "middle"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - 0.5**0.5), ("exponential", 2**-5)]
)
def test_wsd_decays_in_the_last_tenth_by_any_shape(decay: Any, middle: float) -> None:
    rates = run(S.WSD(make_optimizer(), warmup_ratio=0.1, max_steps=100, decay=decay), 101)
    assert rates[10:91] == [LR] * 81
    assert rates[95] == pytest.approx(LR * middle)
    assert rates[100] == 0.0


@given(
    name=st.sampled_from([name for name in SHAPES if "T5" not in name]),
    warmup=st.integers(1, 30),
    end=st.integers(1, 40),
    rates=st.lists(st.floats(1e-6, 10), min_size=1, max_size=3),
)
def test_rates_stay_between_zero_and_each_groups_base_rate(
    name: str, warmup: int, end: int, rates: list[float]
) -> None:
    min_lr = max(rates) / 2  # above the base rate of some groups
    schedule: Any = S.AVAILABLE_SCHEDULERS[name](
        make_optimizer(*rates), warmup_steps=warmup, max_steps=end, min_lr=min_lr
    )
    for _ in range(warmup + end + 2):
        for base, rate in zip(rates, schedule.get_last_lr(), strict=True):
            assert 0 < rate <= base * (1 + 1e-12)
            assert schedule.last_epoch <= warmup or rate >= min(base, min_lr) * (1 - 1e-12)
        schedule.optimizer.step()
        schedule.step()


@pytest.mark.parametrize("name", [*SHAPES, "NoamAnnealing", "Constant"])
def test_a_resumed_schedule_goes_on_as_the_one_that_never_stopped(name: str) -> None:
    options = {"NoamAnnealing": {"d_model": 8}, "Constant": {}}.get(name) or SHAPES.get(name, ({},))[0]

    def make() -> Any:
        return S.AVAILABLE_SCHEDULERS[name](make_optimizer(LR, 0.02), warmup_steps=WARMUP, max_steps=END, **options)

    whole = make()
    reference = [run(whole, END + 2, group=1)]
    first = make()
    before = run(first, 7, group=1)
    saved = io.BytesIO()
    torch.save({"optimizer": first.optimizer.state_dict(), "schedule": first.state_dict()}, saved)
    saved.seek(0)
    checkpoint = torch.load(saved, weights_only=True)
    second = make()
    second.load_state_dict(checkpoint["schedule"])
    second.optimizer.load_state_dict(checkpoint["optimizer"])
    assert before + run(second, END + 2 - 7, group=1) == reference[0]
    assert second.state_dict() == whole.state_dict()


def test_a_run_resumed_with_more_steps_decays_towards_its_new_end() -> None:
    short = S.WarmupAnnealing(make_optimizer(), max_steps=10)
    run(short, 5)
    longer = S.WarmupAnnealing(make_optimizer(), max_steps=20)
    longer.load_state_dict(short.state_dict())
    assert run(longer, 6)[1:] == pytest.approx([LR * (1 - step / 20) for step in range(6, 11)])


def test_steps_taken_back_are_taken_again() -> None:
    schedule = S.CosineAnnealing(make_optimizer(), max_steps=10, min_lr=MIN_LR)
    run(schedule, 6)
    schedule.last_epoch -= 3
    schedule.step()
    assert schedule.get_last_lr()[0] == schedule._get_lr(step=4)[0]


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        pytest.param({"warmup_steps": 7}, (7, 40), id="steps"),
        pytest.param({"warmup_epochs": 0.5}, (5, 40), id="epochs"),
        pytest.param({"warmup_ratio": 0.25}, (10, 40), id="ratio_of_the_run"),
        pytest.param({"warmup_ratio": 0.1, "max_epochs": 2}, (2, 20), id="ratio_of_its_own_epochs"),
        pytest.param({"max_steps": 30, "warmup_steps": None}, (0, 30), id="own_end"),
    ],
)
def test_lengths_in_steps_epochs_and_shares(section: dict[str, Any], expected: tuple[int, int]) -> None:
    config = OmegaConf.create({"name": "CosineAnnealing", **section})
    schedule: Any = S.build_schedule(config, make_optimizer(), max_steps=40, steps_per_epoch=10)
    assert (schedule.warmup_steps, schedule.max_steps) == expected


@pytest.mark.parametrize(
    ("section", "message"),
    [
        pytest.param({"name": "CosineAnealing"}, "nearest: CosineAnnealing", id="name"),
        pytest.param({}, "schedule.name is missing", id="no_name"),
        pytest.param({"name": "WSD", "warmup_step": 3}, "nearest: schedule.warmup_steps; it takes", id="key"),
        pytest.param({"name": "WSD", "warmup_steps": "x"}, "schedule.warmup_steps must be int", id="type"),
        pytest.param({"name": "WSD", "decay": "lin"}, "one of linear, cosine", id="choice"),
        pytest.param({"name": "WSD", "warmup_steps": 3, "warmup_ratio": 0.1}, "exclude each other", id="two_lengths"),
        pytest.param({"name": "NoamAnnealing"}, "schedule.d_model is missing", id="required"),
        pytest.param({"name": "StepLR", "step_size": 2, "interval": "day"}, "step or epoch", id="interval"),
    ],
)
def test_check_names_the_key_and_the_way_out(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        S.check_schedule(section)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        pytest.param({"name": "CosineAnnealing", "min_lr": 1.0}, "above the learning rate", id="min_lr"),
        pytest.param({"name": "CosineAnnealing", "warmup_ratio": 1.5}, "between 0 and 1", id="ratio"),
        pytest.param({"name": "CosineAnnealing", "warmup_steps": -1}, "not be negative", id="negative"),
        pytest.param({"name": "NoamHoldAnnealing"}, "requires a warm-up", id="noam_hold"),
        pytest.param({"name": "ReduceLROnPlateau", "factor": 2.0}, "ReduceLROnPlateau refuses", id="torchs"),
    ],
)
def test_values_that_cannot_be_are_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        S.build_schedule(section, make_optimizer(), max_steps=40, steps_per_epoch=10)
    if "min_lr" not in section:  # which the learning rate decides
        with pytest.raises(ConfigError, match=message):
            S.check_schedule(section)


def test_lightning_learns_when_to_step() -> None:
    def entry(**section: Any) -> dict[str, Any]:
        made = S.lightning_schedule(section, make_optimizer(), max_steps=40, steps_per_epoch=10)
        return {key: value for key, value in made.items() if key != "scheduler"}

    ours = {"interval": "step", "frequency": 1, "monitor": "val_loss", "reduce_on_plateau": False}
    assert entry(name="WSD") == ours
    plateau = {"interval": "epoch", "frequency": 1, "monitor": "val_wer", "reduce_on_plateau": True}
    assert entry(name="ReduceLROnPlateau", monitor="val_wer", factor=0.5) == plateau
    assert entry(name="StepLR", step_size=3, interval="epoch") == {**ours, "interval": "epoch"}


@dataclass
class Section:
    """A section as a dataclass."""

    name: str = "CosineAnnealing"
    max_steps: int = 10


class TestNeMoNames:
    """What code that was written against NeMo's names relies on."""

    @pytest.mark.parametrize("container", [dict, OmegaConf.create])
    @pytest.mark.parametrize(
        ("config", "expected"),
        [
            pytest.param({"name": "CosineAnnealing", "max_steps": 10}, S.CosineAnnealing, id="name"),
            pytest.param(
                {"_target_": "nemo.core.config.CosineAnnealingParams", "params": {"min_lr": 0.1}, "max_steps": 10},
                S.CosineAnnealing,
                id="target",
            ),
            pytest.param(
                {"name": "WarmupPolicy", "max_steps": 10, "args": {"warmup_steps": 3}}, S.WarmupPolicy, id="args"
            ),
            pytest.param({"name": "StepLR", "step_size": 3, "max_steps": 9}, torch_schedules.StepLR, id="torchs"),
            pytest.param(
                {"name": "WarmupPolicy", "max_steps": 10, "iters_per_batch": None, "reduce_on_plateau": True},
                S.WarmupPolicy,
                id="keys_that_decide_nothing",
            ),
        ],
    )
    def test_prepare(self, config: dict[str, Any], expected: type, container: Any) -> None:
        made = S.prepare_lr_scheduler(make_optimizer(), container(config))
        assert made is not None
        assert type(made.pop("scheduler")) is expected
        assert made == {"interval": "step", "frequency": 1, "monitor": "loss", "reduce_on_plateau": False}

    def test_prepare_reduce_on_plateau(self) -> None:
        config = {"name": "ReduceLROnPlateau", "monitor": "val_loss", "reduce_on_plateau": True, "max_steps": 10}
        made = S.prepare_lr_scheduler(make_optimizer(), {**config, "patience": 1, "factor": 0.5, "min_lr": 1e-6})
        assert made is not None
        schedule = made.pop("scheduler")
        assert (schedule.patience, schedule.factor, schedule.min_lrs) == (1, 0.5, [1e-6])
        assert made == {"interval": "epoch", "frequency": 1, "monitor": "val_loss", "reduce_on_plateau": True}

    def test_prepare_computes_the_end_from_the_loader(self) -> None:
        config = {"name": "CosineAnnealing", "warmup_ratio": 0.1, "t_max_epochs": 3, "t_accumulate_grad_batches": 1}
        config |= {"t_limit_train_batches": 1.0, "t_num_workers": 1}
        made = S.prepare_lr_scheduler(make_optimizer(), config, DataLoader(range(100), batch_size=8))  # type: ignore[arg-type]
        assert made is not None
        assert (made["scheduler"].max_steps, made["scheduler"].warmup_steps) == (39, 3)

    @pytest.mark.parametrize(
        "nested",
        [
            pytest.param({"args": {"name": "auto", "params": {"warmup_steps": 3, "min_lr": 0.01}}}, id="auto"),
            pytest.param({"args": {"name": "CosineAnnealingParams", "params": {"warmup_steps": 3, "min_lr": 0.01}}}),
            pytest.param({"args": {"_target_": "nemo.core.config.CosineAnnealingParams", "warmup_steps": 3},
                          "params": {"min_lr": 0.01}}, id="target"),
        ],
    )  # fmt: skip
    def test_prepare_finds_nested_options(self, nested: dict[str, Any]) -> None:
        made = S.prepare_lr_scheduler(make_optimizer(), {"name": "CosineAnnealing", "max_steps": 10, **nested})
        assert made is not None
        schedule = made["scheduler"]
        assert (schedule.max_steps, schedule.warmup_steps, schedule.min_lr) == (10, 3, 0.01)

    def test_prepare_takes_a_dataclass(self) -> None:
        made = S.prepare_lr_scheduler(make_optimizer(), Section())
        assert made is not None
        assert (type(made["scheduler"]), made["scheduler"].max_steps) == (S.CosineAnnealing, 10)

    def test_prepare_steps_the_exponential_by_epochs(self) -> None:
        made = S.prepare_lr_scheduler(make_optimizer(), {"name": "ExponentialLR", "gamma": 0.9, "max_steps": 10})
        assert made is not None
        assert made["interval"] == "epoch"

    @pytest.mark.parametrize(
        "config",
        [None, {}, {"name": "CosineAnnealing"}, {"name": "WarmupPolicy", "max_steps": -1},
         {"name": "CosineAnnealing", "t_max_epochs": None}, {"name": "CosineAnnealing", "iters_per_batch": 5}],
    )  # fmt: skip
    def test_prepare_without_an_end_makes_no_schedule(self, config: Any) -> None:
        for loader in (None, DataLoader(range(100))):  # type: ignore[arg-type]
            assert S.prepare_lr_scheduler(make_optimizer(), config, loader) is None

    def test_register(self) -> None:
        class Mine(S.CosineAnnealing):
            pass

        S.register_scheduler("MineForThisTest", Mine, params.CosineAnnealingParams)
        try:
            assert isinstance(S.get_scheduler("MineForThisTest", max_steps=10)(make_optimizer()), Mine)
            S.check_schedule({"name": "MineForThisTest", "warmup_steps": 3})
            with pytest.raises(ValueError, match="exists already"):
                S.register_scheduler("MineForThisTest", Mine)
        finally:
            del S.AVAILABLE_SCHEDULERS["MineForThisTest"]

    @pytest.mark.parametrize(
        ("arguments", "steps"),
        [
            pytest.param((31, 1, 1.0, 9, 1613, 60, True), 31 * 3, id="nine_processes"),
            pytest.param((5, 1, 0.5, 4, 498, 97, False), 5 * 1, id="share_of_the_batches"),
            pytest.param((5, 8, 0.5, 4, 629, 54, True), 5 * 1, id="accumulated_over_the_epochs_end"),
            pytest.param((5, 3, 4, 1, 488, 68, False), 5 * 2, id="number_of_batches"),
            pytest.param((3, 1, 1.0, 4, 97, 1, True), 3 * 25, id="padded_share"),
        ],
    )
    def test_compute_max_steps(self, arguments: Any, steps: int) -> None:
        assert S.compute_max_steps(*arguments) == steps
