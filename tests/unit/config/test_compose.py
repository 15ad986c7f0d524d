"""Every door by which a key can come into a run's config, and what a wrong one gets."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.config_store import ConfigStore
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig, OmegaConf

from rayconvai.config.check import check, complete, from_dataclass
from rayconvai.config.compose import Composer, compose, config_root
from rayconvai.config.overrides import parse, quote, split
from rayconvai.config.run import AugmentConfig, RunConfig, TrainerConfig
from rayconvai.errors import ConfigError

RECIPE = "asr/conformer_ctc"


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(RECIPE)


def message(call: Callable[..., Any], *args: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args)
    text = str(caught.value)
    assert "\n" not in text
    return text


def resolved(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=True)


def test_every_recipe_composes_with_every_option(composer: Composer) -> None:
    groups = composer.groups()
    groups["augment"].remove("background")  # asks for a manifest
    groups["schedule"].remove("noam")  # asks for a Conformer
    for group in ("model/encoder", "tokenizer"):
        groups[group].remove("pretrained")  # asks for where it is
    # Parts of models, data and tokenizers are for recipes of their kind.
    general = {name: options for name, options in groups.items() if not name.startswith(("model", "data", "tokenizer"))}
    recipes = {recipe: Composer(recipe) for recipe in composer.recipes()}
    for of_recipe in recipes.values():
        chosen = {name: general[name] for name in general.keys() & set(of_recipe._chosen_groups())}
        for options in itertools.zip_longest(*chosen.values()):
            of_recipe.compose([f"{group}={option}" for group, option in zip(chosen, options, strict=True) if option])
    for group in groups.keys() - general.keys():
        for option in groups[group]:
            assert any(composes(of_recipe, f"{group}={option}") for of_recipe in recipes.values()), (group, option)
    composer.compose(["augment=background", "augment.waveform.0.manifest=noises.json", "schedule=noam"])


def composes(composer: Composer, *overrides: str) -> bool:
    try:
        composer.compose(overrides)
    except ConfigError:
        return False
    return True


def test_groups_and_keys(composer: Composer) -> None:
    groups = composer.groups()
    assert {"conformer", "conformer_image", "quartznet"} <= set(groups["model/encoder"])
    assert {"none", "specaugment", "noise", "speed"} <= set(groups["augment"])
    assert not {"asr", "hydra"} & set(groups)
    assert {"model.encoder.num_layers", "data.num_buckets", "trainer.max_time", "optim", "seed"} <= composer.keys()


WRONG = [
    pytest.param("model.encoder.num_layer", "3", "nearest: model.encoder.num_layers", id="parameter"),
    pytest.param("modle.encoder.num_layers", "3", "nearest: model", id="section"),
    pytest.param("max_epochs", "3", "nearest: trainer.max_epochs", id="without_its_section"),
    pytest.param("trainer.max_epoch", "3", "nearest: trainer.max_epochs", id="trainer"),
    pytest.param("trainer.logger", "false", "exp_manager.create_tensorboard_logger", id="not_the_trainers"),
    pytest.param("exp_manager.exp_dri", "x", "nearest: exp_manager.exp_dir", id="exp_manager"),
    pytest.param(
        "exp_manager.checkpoint_callback_params.monitr",
        "x",
        "checkpoint_callback_params.monitor",
        id="exp_manager_deep",
    ),
    pytest.param("optim.lrr", "1", "nearest: optim.lr", id="optim"),
    pytest.param("schedule.warmup_step", "1", "nearest: schedule.warmup_steps", id="schedule"),
    pytest.param("data.corpus.knd", "digits", "nearest: data.corpus.kind", id="corpus"),
    pytest.param("data.checks.on_badd", "skip", "nearest: data.checks.on_bad", id="dataclass_parameter"),
    pytest.param("augment.feature", "null", "nearest: augment.features", id="augment"),
    pytest.param("augment.features.freq_mask", "1", "nearest: augment.features.freq_masks", id="augment_deep"),
    pytest.param("tokenizer.vocab", "3", "tokenizer.vocab is not a parameter of", id="tokenizer"),
]


@pytest.mark.parametrize(("key", "value", "says"), WRONG)
@pytest.mark.parametrize("door", ["", "+", "++"])
def test_unknown_key_by_override(composer: Composer, door: str, key: str, value: str, says: str) -> None:
    text = message(composer.compose, [f"{door}{key}={value}"])
    assert f"'{key}={value}'" in text
    assert says in text


@pytest.mark.parametrize(("key", "value", "says"), WRONG)
def test_unknown_key_by_yaml(tmp_path: Path, key: str, value: str, says: str) -> None:
    section = OmegaConf.create()
    OmegaConf.update(section, key, value, force_add=True)
    body = OmegaConf.to_yaml(section)
    recipe = f"# @package _global_\ndefaults:\n  - /{RECIPE}\n  - _self_\n{body}"
    (tmp_path / "mine.yaml").write_text(recipe)
    text = message(compose, "mine", [], [tmp_path])
    wrong = key.partition(".")[0] if key.startswith("modle") else key
    line = 4 + 1 + wrong.count(".")
    assert text.startswith(f"{tmp_path}/mine.yaml:{line}: {wrong} ")
    assert says in text


def test_deleting_a_key(composer: Composer) -> None:
    assert "nearest: model.encoder.num_layers" in message(composer.compose, ["~model.encoder.num_layer"])
    assert "num_layers" not in composer.compose(["~model.encoder.num_layers"]).model.encoder
    assert composer.compose(["~trainer.max_epochs"]).trainer.max_epochs is None


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        pytest.param(["model.encoder.num_layers=four"], "must be int, not 'four'", id="string_for_int"),
        pytest.param(["trainer.max_epochs=[1]"], "trainer.max_epochs must be int or null, not [1]", id="list_for_int"),
        pytest.param(["seed.x=1"], "seed must be int", id="section_for_int"),
        pytest.param(["trainer.precision=bf16-mix"], "nearest: bf16-mixed", id="literal_of_lightning"),
        pytest.param(["data.corpus.kind=digit"], "nearest: digits", id="literal_of_ours"),
        pytest.param(["model.encoder=3"], "model.encoder must be a section", id="value_for_section"),
        pytest.param(["exp_manager.checkpoint_callback_params.mode=up"], "it must be min or max", id="cross_check"),
        pytest.param(["seed=-1", "seed=7", "seed=-2"], "override 'seed=-2': seed must be from 0 to", id="seed"),
        pytest.param(["name=../x"], "name must be the name of a directory", id="name_climbs_out"),
        pytest.param(
            ["trainer.accumulate_grad_batches=0", "trainer.max_epochs=2"],
            "override 'trainer.accumulate_grad_batches=0': trainer.accumulate_grad_batches is 0; it must be 1 or more",
            id="never_a_step",
        ),
        pytest.param(["trainer.limit_train_batches=0"], "leaves nothing to train on", id="nothing_to_train_on"),
        pytest.param(["optim.name=adamv"], "nearest: adam", id="optimizer"),
        pytest.param(["schedule.name=Cosine"], "schedule", id="schedule"),
        pytest.param(["data=digit"], "data has no 'digit'; nearest: digits; it has:", id="option"),
        pytest.param(["model/encoder=quartznt"], "nearest: quartznet", id="nested_option"),
        pytest.param(["dta=digits"], "dta is not a key of a run; nearest: data", id="group"),
        pytest.param(["schedule=3"], "schedule is a config group: choose of constant,", id="number_for_group"),
        pytest.param(["seed=1,2"], "stands for several values", id="sweep"),
        pytest.param(["seed"], "cannot be read", id="no_value"),
        pytest.param(["name=${seedd}"], "there is no key seedd; nearest: seed", id="interpolation"),
        pytest.param(["name=${oc.env:RAYCONVAI_NOT_SET}"], "name: ", id="resolver"),
        pytest.param(
            ["model.spec_augment.freq_masks=1"], "set augment.features.freq_masks", id="through_interpolation"
        ),
        pytest.param(["augment=background"], "augment.waveform.0.manifest has no value yet", id="missing"),
        pytest.param(["model.encoder._target_=os.system"], "outside the allowed packages", id="target"),
        pytest.param(["model.encoder._target_=torch.nn.Linaer"], "nearest: Linear", id="target_typo"),
        pytest.param(
            ["augment.waveform=[{_target_: rayconvai.data.augment.Gain, min: 1}]"], "waveform.0.min", id="list"
        ),
        pytest.param(["augment.waveform=[3]"], "augment.waveform.0 must be a section", id="list_of_values"),
        pytest.param(["data.augment=[]", "augment=noise"], "augment.waveform is set, but nothing in", id="unread"),
    ],
)
def test_wrong_value(composer: Composer, overrides: list[str], says: str) -> None:
    assert says in message(composer.compose, overrides)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        pytest.param({"mine.yaml": "name: [1\n"}, "mine.yaml:2: not valid YAML", id="syntax"),
        pytest.param({"mine.yaml": "name: a\nname: b\n"}, "mine.yaml:2: not valid YAML", id="duplicate"),
        pytest.param(
            {"mine.yaml": f"# @package _global_\ndefaults: [/{RECIPE}, /dta: x]\n"}, "nearest: data", id="unknown_group"
        ),
        pytest.param(
            {"mine.yaml": f"# @package _global_\ndefaults: [/{RECIPE}, override /data: x]\n"},
            "data has no 'x'",
            id="option",
        ),
        pytest.param({"mine.yaml": "- 1\n"}, "mine", id="list"),
        pytest.param(
            {"mine.yaml": "defaults: [/other]\n", "other.yaml": "name: caf\xe9\n"}, "other.yaml: not", id="coding"
        ),
        pytest.param(
            {"mine.yaml": "# @package _global_\ndefaults: [/mine]\n"}, "recipe mine: its defaults", id="circle"
        ),
        pytest.param({}, "there is no recipe 'mine'; recipes: asr/conformer_ctc", id="no_file"),
        pytest.param({"mine2.yaml": "name: a\n"}, "nearest: mine2", id="other_file"),
        pytest.param({"mine.yaml": "name: a\n"}, "model must be a section with _target_", id="no_model"),
    ],
)
def test_wrong_recipe_file(tmp_path: Path, files: dict[str, str], says: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text, encoding="latin-1")
    assert says in message(compose, "mine", [], [tmp_path])


@pytest.mark.parametrize("recipe", ["tts/hifigan_small", "tts/fastpitch", "nlp/intent_slot"])
def test_what_a_recipe_does_not_read_is_no_choice(recipe: str) -> None:
    step = "augment.waveform=[{_target_: rayconvai.data.augment.Gain}]"
    assert "does not choose a 'augment'" in message(compose, recipe, ["augment=noise"])
    assert "augment.waveform is set, but nothing in model or data" in message(compose, recipe, [step])


def test_missing_config_dir() -> None:
    assert "config directory not found" in message(compose, RECIPE, [], [Path("nowhere")])


def test_plus_chooses_what_the_recipe_chooses_already(composer: Composer) -> None:
    for door in ("", "+", "++"):
        assert composer.compose([f"{door}data=digits"]).data.corpus.kind == "digits"


def test_a_later_choice_replaces_an_earlier_one() -> None:
    assert Composer(RECIPE, ["data=sentences"]).compose(["data=digits"]).data.corpus.kind == "digits"


def test_saved_config_composes_the_same_run(tmp_path: Path, composer: Composer) -> None:
    first = composer.compose(
        ["augment=all", "optim=muon", "model.encoder.num_layers=3", "trainer.max_time=00:01:00:00"]
    )
    OmegaConf.save(first, tmp_path / "config.yaml", resolve=True)
    again = compose("config", [], [tmp_path])
    assert resolved(again) == resolved(first)
    assert compose("config", ["seed=5"], [tmp_path]).seed == 5


def test_described_in_python(composer: Composer) -> None:
    nodes = composer.compose()
    run = RunConfig(
        name="python", model=nodes.model, tokenizer=nodes.tokenizer, data=nodes.data, optim={"name": "adamw"},
        augment=AugmentConfig(), trainer=TrainerConfig(max_epochs=3),
    )  # fmt: skip
    config = from_dataclass(run)
    assert (config.trainer.max_epochs, config.model.encoder.num_layers) == (3, nodes.model.encoder.num_layers)
    run.optim = {"name": "adamw", "lrr": 1}
    assert "nearest: optim.lr" in message(from_dataclass, run)
    run.optim, run.trainer.max_epochs = {"name": "adamw"}, "many"  # type: ignore[assignment]
    assert "trainer.max_epochs must be int or null, not 'many'" in message(from_dataclass, run)


@dataclasses.dataclass
class MyOptim:
    name: str = "adamw"
    lr: float = 0.5


@dataclasses.dataclass
class MyWrongOptim(MyOptim):
    momentun: float = 0.5


def test_dataclasses_in_the_config_store() -> None:
    ConfigStore.instance().store(group="optim", name="mine", node=MyOptim)
    ConfigStore.instance().store(group="optim", name="mine_wrong", node=MyWrongOptim)
    assert compose(RECIPE, ["optim=mine", "optim.weight_decay=0.1"]).optim == {
        "name": "adamw", "lr": 0.5, "weight_decay": 0.1
    }  # fmt: skip
    assert "optim.momentun is not a key" in message(compose, RECIPE, ["optim=mine_wrong"])


@pytest.mark.parametrize("schema", [RunConfig, TrainerConfig])
def test_run_config_can_be_a_hydra_schema(schema: type) -> None:
    assert OmegaConf.is_config(OmegaConf.structured(schema))


CHOICES = {
    "data": ["digits", "sentences"], "augment": ["none", "noise", "all"], "optim": ["adamw", "muon"],
    "schedule": ["none", "wsd"],
}  # fmt: skip
VALUES = {
    "model.encoder.num_layers": ["2", "8"], "trainer.max_epochs": ["3", "null"], "optim.lr": ["1e-4", "0.5"],
    "+trainer.max_time": ["00:00:10:00"], "++data.num_workers": ["2"], "name": ["a", "'b c'", "x_${seed}"],
    "augment": ["{waveform: [], features: null}"], "~model.encoder.dropout": [None], "trainer.devices": ["[0,1]", "2"],
    "exp_manager.wandb_logger_kwargs": ["{name: a, project: b}"],
}  # fmt: skip
POINTS = st.lists(
    st.sampled_from([(key, value) for key, values in (CHOICES | VALUES).items() for value in values]),
    max_size=6,
    unique_by=lambda pair: pair[0],
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fixed=POINTS, point=POINTS)
def test_composer_gives_what_hydra_composes_in_full(fixed: list[Any], point: list[Any]) -> None:
    def lines(pairs: list[Any]) -> list[str]:
        return [key if value is None else f"{key}={value}" for key, value in pairs]

    if sum(key.startswith("~") for key, _ in (*fixed, *point)) > 1:
        point = [pair for pair in point if not pair[0].startswith("~")]
    composer = SHARED.setdefault(tuple(lines(fixed)), Composer(RECIPE, lines(fixed)))
    found = composer.compose(lines(point))

    loader = ConfigLoaderImpl(create_config_search_path(f"file://{config_root()}"))
    parts = split((*lines(fixed), *lines(point)), lambda name: CHOICES.get(name, []))
    full = loader.load_configuration(RECIPE, [*parts.groups, *parts.values], RunMode.RUN)
    OmegaConf.set_struct(full, False)
    del full["hydra"]
    assert resolved(found) == resolved(complete(full))


SHARED: dict[tuple[str, ...], Composer] = {}


def test_check_accepts_what_it_composed_and_leaves_it_alone(composer: Composer) -> None:
    config = composer.compose()
    before = OmegaConf.to_yaml(config)
    check(config)
    assert OmegaConf.to_yaml(config) == before


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), max_size=12))
def test_quoted_text_comes_back(text: str) -> None:
    assert parse([f"name={quote(text)}"])[0].value() == text


def test_split_keeps_the_order_of_values() -> None:
    parts = split(["a.b=1", "data=x", "+c=2", "~d", "data=y", "hydra.run.dir=z"], lambda name: ["x"] * (name == "data"))
    assert parts.groups == ("data=y", "hydra.run.dir=z")
    assert parts.values == ("++a.b=1", "++c=2", "~d")
