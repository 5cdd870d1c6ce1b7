"""Recipes: YAML, flags and defaults meet in typed dataclasses, and what is written can be read again."""

import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bert.cli import main
from bert.errors import InputError, option
from bert.finetuning.config import FinetuneOptimizer, FinetuneRecipe
from bert.flags import Parser, documentation, flag_of
from bert.model.config import EncoderConfig
from bert.pretraining.config import DataConfig, MaskingConfig, PhaseConfig, PretrainOptimizer, PretrainRecipe
from bert.probing.config import SensesProtocol
from bert.recipe import differences, find, read_recipe, read_yaml, write_yaml
from bert.training.config import ScheduleConfig, StopConfig

RECIPES = Path(__file__).parents[1] / "recipes" / "pretrain"


def pretrain() -> None:
    """A command without options of its own."""


def recipe_of(*arguments: str) -> PretrainRecipe:
    """The recipe that a command line describes."""
    parser = Parser(pretrain, PretrainRecipe)
    return parser.recipe(parser.parse(arguments))


def refusal(*arguments: str) -> str:
    """The one line that a command line is refused with."""
    with pytest.raises(InputError) as error:
        recipe_of(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def yaml_file(folder: Path, text: str) -> str:
    file = folder / "recipe.yaml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_nothing_given_is_the_defaults() -> None:
    assert recipe_of() == PretrainRecipe()


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "optimizer:\n  lr: 0.5\n  eps: 0.25\nseed: 7\n")
    expected = dataclasses.replace(
        PretrainRecipe(), optimizer=PretrainOptimizer(kind="muon", lr=0.125, eps=0.25), seed=7
    )
    assert recipe_of("--config", file, "--optimizer.lr", "0.125") == expected
    assert recipe_of(f"--config={file}", "--optimizer.lr=0.125") == expected


def test_a_later_file_wins_over_an_earlier_one_field_by_field(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    first = yaml_file(tmp_path / "one", "masking:\n  rate: 0.3\n  whole_words: true\n")
    second = yaml_file(tmp_path, "masking:\n  rate: 0.4\n")
    assert recipe_of("--config", first, "--config", second).masking == MaskingConfig(rate=0.4, whole_words=True)


def test_the_printed_recipe_is_the_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ("--config", yaml_file(tmp_path, "masking: {rate: 0.3}\nphases: [{tokens: 1e6}, {}]\n"), "--seed=3")
    assert main(["pretrain", *given, "--print-config"]) == 0
    (tmp_path / "printed").mkdir()
    assert recipe_of("--config", yaml_file(tmp_path / "printed", capsys.readouterr().out)) == recipe_of(*given)


def test_what_comes_later_on_the_command_line_wins(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "seed: 7\ntrainer: {devices: 2, precision: x}\n")
    assert recipe_of("--seed=3", "--config", file).seed == 7
    assert recipe_of("--seed=3", "--config", file, "--seed=4").seed == 4
    trainer = ["--config", file, "--trainer.devices=3"]
    assert recipe_of(*trainer).trainer == {"devices": 3, "precision": "x"}
    assert recipe_of(*trainer, "--trainer={devices: 4}", "--trainer.a=b").trainer == {"devices": 4, "a": "b"}


@pytest.mark.parametrize(
    "name", ["caf\udce9.txt", "苹果 🍎.txt", "a\\b: c.txt", "null", "", "0E0", "1e5", "0x1F", "yes"]
)
def test_any_name_of_a_file_is_kept_as_it_is(tmp_path: Path, name: str) -> None:
    """Those that are not UTF-8 reach Python as lone surrogates."""
    recipe = PretrainRecipe(data=DataConfig(corpus=[name], mixture={}), trainer={"x": name})
    write_yaml(recipe, tmp_path / "written.yaml")
    assert read_recipe(tmp_path / "written.yaml", PretrainRecipe) == recipe
    assert recipe_of("--data.text_field", name).data.text_field == name


def test_a_flag_may_name_the_file_of_a_group_and_a_recipe_may_not(tmp_path: Path) -> None:
    shape = tmp_path / "shape.yaml"
    shape.write_text("hidden_size: 64\nnum_layers: 3\n")
    assert recipe_of("--encoder", str(shape)).encoder == EncoderConfig(hidden_size=64, num_layers=3)
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text("a/: 1\nb/: 2.5\n")
    assert recipe_of("--data.mixture", str(mixture)).data.mixture == {"a/": 1.0, "b/": 2.5}
    mixture.write_text("a/: x\n")
    assert refusal("--data.mixture", str(mixture)) == f"{mixture}: data.mixture.a/ is x: give a number"
    file = yaml_file(tmp_path, f"encoder: {shape}\n")
    group = "`encoder` is a group: give `key: value` lines below it or leave it out, not"
    assert refusal("--config", file) == f"{file}: {group} {shape}"


@pytest.mark.parametrize(
    ("flag", "field", "value"),
    [
        ("--optimizer.betas=[0.8,0.9]", "optimizer.betas", (0.8, 0.9)),
        ("--stop.steps=null", "stop.steps", None),
        ("--stop.tokens=1e6", "stop.tokens", 1e6),
        ("--masking.whole_words=true", "masking.whole_words", True),
        ("--encoder.positions=learned", "encoder.positions", "learned"),
        ('--data.corpus=["a.txt","b.txt"]', "data.corpus", ["a.txt", "b.txt"]),
    ],
)
def test_values_have_the_types_of_their_fields(flag: str, field: str, value: Any) -> None:
    found: Any = recipe_of(flag)
    for part in field.split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encodr:\n  hidden_size: 32\n", "unknown key `encodr`. Did you mean `encoder`?"),
        ("encoder:\n  hiden_size: 32\n", "unknown key `encoder.hiden_size`. Did you mean `encoder.hidden_size`?"),
        ("hidden_size: 32\n", "unknown key `hidden_size`. Did you mean `encoder.hidden_size`?"),
        ("zzzzzz: 1\n", "unknown key `zzzzzz`."),
        ("encoder: 5\n", "`encoder` is a group: give `key: value` lines below it or leave it out, not 5"),
        ("stop:\n", "`stop` is a group: give `key: value` lines below it or leave it out, not None"),
        ("- a\n", "not a recipe: write `key: value` lines"),
    ],
)
def test_an_unknown_key_in_a_file_names_the_file_and_the_nearest_key(tmp_path: Path, text: str, message: str) -> None:
    file = yaml_file(tmp_path, text)
    assert refusal("--config", file) == f"{file}: {message}"
    assert refusal(f"--config={file}") == f"{file}: {message}"


def test_an_unknown_key_in_the_file_of_a_group_names_the_nearest_key(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "hiden_size: 32\n")
    message = f"{file}: unknown key `encoder.hiden_size`. Did you mean `encoder.hidden_size`?"
    assert refusal("--encoder", file) == message


MERGES = "a0: &a0 {k: v}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60))
ALIASES = "&a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: " + "[" * 300, ": cannot be read (nested too deeply)"),
        (f"trainer: {'{a: ' * 100}1{'}' * 100}\n", ": cannot be read (nested too deeply)"),
        ("trainer: &a {b: *a}\n", ": cannot be read (nested too deeply)"),
        (f"a0: {ALIASES}", ": cannot be read (its aliases stand for too many values)"),
        (MERGES, ": cannot be read (its aliases stand for too many values)"),
        ("seed: !!python/object/apply:os.system [ls]\n", None),
        ("seed: !!timestamp 2001-01-01\n", ": seed is a date: put it in quotes"),
        ("seed: 2001-01-01\n", ": seed is a date: put it in quotes"),
        ("trainer: {x: !!binary aGk=}\n", ": trainer.x is a bytes: put it in quotes"),
        ("trainer: {x: !!set {a}}\n", ": trainer.x is a set: put it in quotes"),
        ("seed: !!int ''\n", ": cannot be read (a value does not match its tag (string index out of range))"),
        ("seed: !!bool ''\n", ": cannot be read (a value does not match its tag (''))"),
        (
            "masking: {rate: 0.1}\nseed: {<<: {a: 1}, a: 2, a: 3}\n",
            ", line 2: not valid YAML (a second key a): fix this line",
        ),
        ("seed: 1\nmasking: {}\nseed: 2\n", ", line 3: not valid YAML (a second key seed): fix this line"),
        ("? [a]\n: b\n", ", line 1: not valid YAML (found unhashable key): fix this line"),
        (f"seed: {'1' * 5000}\n", ": cannot be read (a number of 5,000 characters)"),
        (f"seed: {':'.join(['59'] * 1000)}\n", ": cannot be read (a number of 2,999 characters)"),
        (f"optimizer: {{lr: {'1' * 90}}}\n", ": optimizer.lr is a number of 296 bits: give one of at most 64"),
        (f"trainer: {{devices: [{'9' * 30}]}}\n", ": trainer.devices is a number of 100 bits: give one of at most 64"),
        ('data: {tokenizer: "a\\0b"}\n', ": data.tokenizer has a character that no file name can have: remove it"),
        ('data: {corpus: ["\\ud800"]}\n', ": data.corpus has a character that no file name can have: remove it"),
        ("data: {mixture: {1: 0.5, b: 1}}\n", ": the key 1 of data.mixture is not text: put it in quotes"),
        ("1: 2\n", ": the key 1 of a recipe is not text: put it in quotes"),
        (
            "seed:\n\t1\n",
            ", line 2: not valid YAML (found character '\\t' that cannot start any token): fix this line",
        ),
        ("optimizer: {weight_decay: .nan}\n", ": optimizer.weight_decay is nan: give a finite number"),
        ("phases: [{tokens: .inf}, {}]\n", ": phases.tokens is inf: give a finite number"),
        ("trainer: {x: [-.inf]}\n", ": trainer.x is -inf: give a finite number"),
        ("stop: {tokens: 1e999}\n", ": stop.tokens is inf: give a finite number"),
        ("checkpoint: {keep: 1}\n", None),
        ("masking: [rate]\n", ": `masking` is a group: give `key: value` lines below it or leave it out, not ['rate']"),
    ],
)
def test_what_a_stranger_may_write_into_a_recipe_is_one_line_with_file_and_key(
    tmp_path: Path, text: str, message: str | None
) -> None:
    file = yaml_file(tmp_path, text)
    if message is None:
        parts = (
            ["checkpoint.keep is 1: give 2 or more"] if "keep" in text else [file, "line 1", "not valid YAML", "tag"]
        )
        assert all(part in refusal("--config", file) for part in parts)
    else:
        assert refusal("--config", file) == f"{file}{message}"


def test_a_recipe_of_a_null_byte_or_of_megabytes_is_one_line(tmp_path: Path) -> None:
    assert "special characters are not allowed" in refusal("--config", yaml_file(tmp_path, "seed: \0\n"))
    assert "larger than 1,048,576 bytes" in refusal("--config", yaml_file(tmp_path, "#" * (1 << 21)))


@pytest.mark.parametrize("bomb", [f"[{ALIASES}", "[" * 110, MERGES, "1" * 4000])
def test_text_is_not_read_as_yaml_once_more_and_cannot_explode(tmp_path: Path, bomb: str) -> None:
    for key in (
        "seed",
        "optimizer.lr",
        "optimizer.kind",
        "compile",
        "data.corpus",
        "data.mixture.a",
        "encoder.bias",
    ):
        content: Any = bomb
        for part in reversed(key.split(".")):
            content = {part: content}
        message = refusal("--config", yaml_file(tmp_path, yaml.safe_dump(content)))
        assert f"{key} is a text of {len(bomb):,} characters: give " in message
    file = yaml_file(tmp_path, yaml.safe_dump({"phases": [{"tokens": bomb}, {}]}))
    assert f"phases.tokens is a text of {len(bomb):,} characters: give a number" in refusal("--config", file)
    file = yaml_file(tmp_path, yaml.safe_dump({"trainer": {"x": bomb}}))
    assert recipe_of("--config", file).trainer == {"x": bomb}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [PretrainRecipe, FinetuneRecipe])
def test_no_number_of_a_recipe_is_nan_or_infinite(kind: Any, number: float) -> None:
    tried = 0
    for group in dataclasses.fields(kind):
        for field in (
            dataclasses.fields(group.default_factory) if dataclasses.is_dataclass(group.default_factory) else ()
        ):
            if "float" in str(field.type) and "dict" not in str(field.type):
                value = (number, 0.9) if "tuple" in str(field.type) else number
                with pytest.raises(InputError, match=f"{field.name} is|{field.name} {number}"):
                    kind(**{group.name: group.default_factory(**{field.name: value})})
                tried += 1
    assert tried > 10


@pytest.mark.parametrize("flag", ["--optimizer.weight_decay=.nan", "--stop.tokens=1e999", "--schedule.final=nan"])
def test_no_flag_is_nan_or_infinite(flag: str) -> None:
    assert " is " in refusal(flag)


def test_python_too_is_told_of_numbers_that_are_none() -> None:
    with pytest.raises(InputError, match=r"optimizer\.weight_decay is nan: give a finite number"):
        PretrainRecipe(optimizer=PretrainOptimizer(weight_decay=float("nan")))
    with pytest.raises(InputError, match=r"optimizer\.muon_weight_decay is inf: give a finite number"):
        FinetuneRecipe(optimizer=FinetuneOptimizer(muon_weight_decay=float("inf")))
    with pytest.raises(InputError, match="epochs is inf: give a finite number"):
        FinetuneRecipe(epochs=float("inf"))


def test_a_recipe_may_merge_mappings_and_override_what_it_merges(tmp_path: Path) -> None:
    file = yaml_file(
        tmp_path, "optimizer: &a {lr: 0.5, eps: 0.25}\ntrainer: {x: &b {<<: *a, lr: 1}, y: {<<: *b, eps: 2}}\n"
    )
    assert recipe_of("--config", file).trainer == {"x": {"lr": 1, "eps": 0.25}, "y": {"lr": 1, "eps": 2}}


@pytest.mark.parametrize("way", ["file", "flag", "group"])
@pytest.mark.parametrize(
    "where",
    ["{profiler: %s}", "{callbacks: [%s]}", "{callbacks: [[%s]]}", "{x: {class_path: a.B, init_args: {y: %s}}}"],
)
def test_nothing_is_imported_while_a_recipe_is_parsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, way: str
) -> None:
    """A recipe is data: a class_path is looked up when the Trainer is made, and nowhere before."""
    (tmp_path / "stranger.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'w')\n")
    monkeypatch.syspath_prepend(tmp_path)
    trainer = where % "{class_path: stranger.X, init_args: {command: ls}}"
    key, value = trainer[1:-1].split(": ", 1)
    file = yaml_file(tmp_path, f"trainer: {trainer}\n")
    arguments = {"file": ["--config", file], "flag": [f"--trainer.{key}={value}"], "group": [f"--trainer={trainer}"]}
    assert recipe_of(*arguments[way]).trainer == yaml.safe_load(trainer)
    with pytest.raises(InputError):
        recipe_of("--optimizer={class_path: stranger.X}")
    assert "stranger" not in sys.modules
    assert not (tmp_path / "PWNED").exists()


def test_numbers_read_alike_with_and_without_the_parser(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "optimizer: {lr: 1e-3, eps: 1.5e-7}\nstop: {tokens: 2e6}\n")
    assert recipe_of("--config", file) == read_recipe(Path(file), PretrainRecipe)


def test_objects_of_the_python_api_are_left_out_of_what_is_written(tmp_path: Path) -> None:
    recipe = PretrainRecipe(trainer={"callbacks": [object(), {"class_path": "x"}], "profiler": object(), "devices": 1})
    write_yaml(recipe, tmp_path / "written.yaml")
    assert read_yaml(tmp_path / "written.yaml")["trainer"] == {"callbacks": [{"class_path": "x"}], "devices": 1}
    assert list(differences(recipe, recipe)) == []


def test_a_written_recipe_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    sync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda *given: (done.append("sync"), sync(*given)))
    monkeypatch.setattr(os, "replace", lambda *given: (done.append("replace"), replace(*given)))
    write_yaml(PretrainRecipe(), tmp_path / "written.yaml")
    assert done == ["sync", "replace", "sync"]
    assert [file.name for file in tmp_path.iterdir()] == ["written.yaml"]


def test_an_unknown_flag_names_the_nearest_flag() -> None:
    message = "--encoder.hiden_size is not an option of bert pretrain. Did you mean `--encoder.hidden_size`?"
    assert refusal("--encoder.hiden_size", "32") == message
    assert refusal("--encoder.hiden_size=32") == message
    assert refusal("--lr", "1").endswith("is not an option of bert pretrain. Did you mean `--optimizer.lr`?")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--encoder.hidden_size=many", "encoder.hidden_size is many: give a whole number"),
        ("--encoder.num_kv_heads=two", "encoder.num_kv_heads is two: give a whole number or null"),
        ("--stop.steps=2.5", "stop.steps is 2.5: give a whole number or null"),
        ("--optimizer.lr=fast", "optimizer.lr is fast: give a number"),
        ("--masking.whole_words=maybe", "masking.whole_words is maybe: give true or false"),
        (
            "--encoder.positions=ropes",
            "encoder.positions is ropes: give one of learned, sinusoidal, rope, none. Did you mean `rope`?",
        ),
        ("--optimizer.betas=[1]", "optimizer.betas is [1]: give a list with 2 elements"),
        ("--data.corpus=5", "data.corpus is 5: give a list"),
        ("--trainer=5", "trainer is 5: give its fields, or a YAML file of them"),
        ("--encoder=nowhere.yaml", "encoder is nowhere.yaml: give its fields, or a YAML file of them"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_line_with_key_value_and_what_to_give(flag: str, message: str) -> None:
    assert refusal(flag) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: true", "seed is true: give a whole number"),
        ('seed: "true"', 'seed is "true": give a whole number'),
        ('seed: "7"', 'seed is "7": give a whole number'),
        ("encoder: {hidden_size: 64.9}", "encoder.hidden_size is 64.9: give a whole number"),
        ("encoder: {hidden_size: 64.0}", "encoder.hidden_size is 64.0: give a whole number"),
        ("optimizer: {lr: true}", "optimizer.lr is true: give a number"),
        ("compile: 1", "compile is 1: give true or false or null"),
        ("data: {tokenizer: 5}", "data.tokenizer is 5: give text or null"),
        ("data: {corpus: a.txt}", "data.corpus is a.txt: give a list, as [a.txt]"),
        ("data: {corpus: [1]}", "data.corpus is 1: give text"),
        ("phases: {tokens: 1}", 'phases is {"tokens": 1}: give a list'),
        ("phases: [1]", "phases is 1: give `key: value` lines"),
        ("phases: [{tokens: 5}, {sequence_length: 8.5}]", "phases.sequence_length is 8.5: give a whole number or null"),
        ("optimizer: {betas: [0.9, 0.95, 1]}", "optimizer.betas is [0.9, 0.95, 1]: give a list with 2 elements"),
        ("phases: [{batch: 3}]", "unknown key `phases.batch`. Did you mean `phases.batch_size`?"),
    ],
)
def test_no_value_is_taken_for_one_of_another_type(tmp_path: Path, text: str, message: str) -> None:
    file = yaml_file(tmp_path, text)
    assert refusal("--config", file) == f"{file}: {message}"
    with pytest.raises(InputError) as error:
        read_recipe(Path(file), PretrainRecipe)
    assert str(error.value) == f"{file}: {message}"


def test_whole_numbers_and_exponents_are_numbers(tmp_path: Path) -> None:
    file = yaml_file(
        tmp_path, "optimizer: {lr: 1e-4, eps: 1E-8, betas: [0, 9e-1], clip_norm: 2}\nstop: {tokens: 1_000}\n"
    )
    recipe = recipe_of("--config", file)
    assert recipe.optimizer == PretrainOptimizer("muon", 1e-4, betas=(0.0, 0.9), eps=1e-8, clip_norm=2.0)
    assert [type(number) for number in (*recipe.optimizer.betas, recipe.optimizer.clip_norm)] == [float] * 3
    assert recipe.stop.tokens == 1000.0


def test_a_value_of_the_wrong_type_in_a_file_is_the_same_line_behind_the_name_of_the_file(tmp_path: Path) -> None:
    file = yaml_file(tmp_path, "encoder:\n  hidden_size: many\n")
    assert refusal("--config", file) == f"{file}: encoder.hidden_size is many: give a whole number"
    file = yaml_file(tmp_path, "encoder:\n  hidden_size: 32\n")
    flag = refusal("--config", file, "--encoder.hidden_size=few")  # the file is not to blame for a flag
    assert flag == "encoder.hidden_size is few: give a whole number"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"data:\n  corpus: [a\n",
            ", line 3: not valid YAML (expected ',' or ']', but got '<stream end>'): fix this line",
        ),
        (b"seed: 1\na: b: c\n", ", line 2: not valid YAML (mapping values are not allowed here): fix this line"),
        (
            b"caf\xe9: 1\n",
            ": cannot be read ('utf-8' codec can't decode byte 0xe9 in position 3: invalid continuation byte)",
        ),
    ],
)
def test_broken_yaml_names_file_and_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(content)
    assert refusal("--config", str(file)) == f"{file}{message}"


def test_a_recipe_that_is_not_there() -> None:
    assert refusal("--config", "nowhere.yaml") == "nowhere.yaml: no such recipe: give the path of a YAML file"


def test_trainer_arguments_pass_through_as_they_are(tmp_path: Path) -> None:
    file = yaml_file(
        tmp_path, "trainer:\n  precision: bf16-mixed\n  devices: 4\n  profiler: {class_path: collections.Counter}\n"
    )
    assert recipe_of("--config", file, "--trainer.devices", "2").trainer == {
        "precision": "bf16-mixed",
        "devices": 2,
        "profiler": {"class_path": "collections.Counter"},
    }
    assert recipe_of("--trainer.anything", "text").trainer == {"anything": "text"}  # checked when the command runs


paths = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=8)
steps = st.none() | st.integers(1, 10**9)
positive = st.floats(1e-12, 1e12)
recipes = st.builds(
    PretrainRecipe,
    data=st.builds(
        DataConfig,
        corpus=st.lists(paths, max_size=3),
        layout=st.sampled_from(["auto", "lines"]),
        tokenizer=st.none() | paths,
        sequence_length=st.integers(8, 512),
        batch_size=st.integers(1, 4096),
        micro_batch_size=steps,
    ),
    encoder=st.builds(
        EncoderConfig,
        hidden_size=st.sampled_from([64, 128]),
        bias=st.booleans(),
        mlp_dropout=st.floats(0, 0.99),
        rope_theta=positive,
    ),
    optimizer=st.builds(
        PretrainOptimizer,
        kind=st.sampled_from(["adamw", "muon"]),
        lr=positive,
        betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
        clip_norm=st.none() | positive,
    ),
    schedule=st.builds(ScheduleConfig, warmup=st.floats(0, 0.5), final=st.floats(0, 1)),
    stop=st.builds(StopConfig, steps=steps, tokens=st.none() | positive, minutes=st.none() | positive),
    trainer=st.dictionaries(st.sampled_from(["precision", "devices"]), st.sampled_from(["32-true", 1, [0, 1], None])),
    seed=st.integers(0, 2**31),
)


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(recipe=recipes)
def test_what_is_written_is_read_again_by_the_parser_and_without_it(tmp_path: Path, recipe: PretrainRecipe) -> None:
    file = tmp_path / "written.yaml"
    write_yaml(recipe, file, header="two\nlines")
    assert file.read_text(encoding="utf-8").startswith("# two\n# lines\n")
    assert recipe_of("--config", str(file)) == recipe
    assert read_recipe(file, PretrainRecipe) == recipe
    assert list(differences(recipe, read_recipe(file, PretrainRecipe))) == []


def test_a_written_recipe_holds_every_field(tmp_path: Path) -> None:
    write_yaml(PretrainRecipe(), tmp_path / "all.yaml")
    written = read_yaml(tmp_path / "all.yaml")
    assert list(written) == [field.name for field in dataclasses.fields(PretrainRecipe)]
    assert list(written["encoder"]) == [field.name for field in dataclasses.fields(EncoderConfig)]
    assert read_recipe(tmp_path / "all.yaml", PretrainRecipe) == PretrainRecipe()


def test_fresh_weights_are_trained_by_muon_and_those_of_a_model_by_adamw() -> None:
    assert PretrainRecipe().optimizer.kind == recipe_of().optimizer.kind == "muon"
    assert recipe_of("--initialize_from", "some/model").optimizer.kind == "adamw"
    assert recipe_of("--initialize_from", "some/model", "--optimizer.kind", "muon").optimizer.kind == "muon"
    assert recipe_of("--optimizer.kind", "adamw").optimizer.kind == "adamw"


def test_differences_name_the_keys_as_flags_with_both_values() -> None:
    before = PretrainRecipe(trainer={"devices": 1})
    after = PretrainRecipe(
        masking=MaskingConfig(rate=0.3),
        optimizer=PretrainOptimizer(betas=(0.9, 0.95)),
        trainer={"precision": "32"},
        seed=3,
    )
    assert list(differences(before, after)) == [
        ("masking.rate", 0.35, 0.3),
        ("optimizer.betas", [0.9, 0.98], [0.9, 0.95]),
        ("seed", 0, 3),
        ("trainer.devices", 1, None),
        ("trainer.precision", None, "32"),
    ]


def test_help_is_the_docstring_under_the_field() -> None:
    text = " ".join(Parser(pretrain, PretrainRecipe).format_help().split())
    assert "width of a token's vector" in text  # EncoderConfig.hidden_size
    assert "share of the tokens of a sequence that are masked" in text  # MaskingConfig.rate
    assert "--stop.minutes" in text


def undocumented(kind: Any) -> Sequence[str]:
    fields, texts = dataclasses.fields(kind), documentation(kind)
    groups = [field.default_factory for field in fields if dataclasses.is_dataclass(field.default_factory)]
    inside = [name for group in groups for name in undocumented(group)]
    return [f"{kind.__name__}.{field.name}" for field in fields if not texts.get(field.name)] + inside


@pytest.mark.parametrize("kind", [PretrainRecipe, FinetuneRecipe, PhaseConfig, SensesProtocol])
def test_every_field_is_documented(kind: Any) -> None:
    assert undocumented(kind) == []


@pytest.mark.parametrize("file", sorted(RECIPES.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_recipe_of_the_repository_parses_and_says_first_what_it_is(file: Path) -> None:
    recipe = recipe_of("--config", str(file))
    text = file.read_text(encoding="utf-8")
    assert text.startswith("# ")
    given_keys = yaml.safe_load(text)
    assert given_keys, "a recipe states what differs from the defaults"
    assert recipe != PretrainRecipe()


@pytest.mark.parametrize("flag", ["--optimizer.lr", "--data.sequence_length", "--seed", "--encoder.norm_eps"])
def test_null_is_refused_where_a_field_is_never_null(flag, capsys):
    assert main(["pretrain", "text.txt", "--out", "run", f"{flag}=null"]) == 2
    assert capsys.readouterr().err.startswith(f"bert: {flag.removeprefix('--')} is ")


def test_a_field_has_one_flag_its_name_or_the_option_that_gives_it() -> None:
    def transfer(arguments: list[str]) -> None:
        """Try it."""

    parser = Parser(transfer, PretrainRecipe)
    parser.add("--store", same_as="data.store")
    parser.add("--from", same_as="initialize_from")
    options = parser.parse(["--store=mine", "--data.batch_size=4"])
    assert parser.recipe(options).data == DataConfig(store="mine", batch_size=4)
    text = " ".join(parser.format_help().split())
    assert "--initialize_from" not in text
    assert "--data.store" not in text
    assert "--store STORE token store made by" in text  # the docstring of the field
    for flag, right in (("--data.store=a", "--store"), ("--initialize_from=a", "--from")):
        with pytest.raises(InputError, match=f"^{flag[:-2]} is not an option of bert transfer") as caught:
            parser.parse([flag])
        assert right == "--from" or str(caught.value).endswith(f"Did you mean `{right}`?")


def test_an_error_names_the_parameter_and_the_command_line_its_flag() -> None:
    def transfer(arguments: list[str]) -> None:
        """Try it."""

    error = InputError(f"no column: name one by {option('text_field')}, {option('data.store')} or {option('gone')}")
    assert str(error) == "no column: name one by `text_field`, `data.store` or `gone`"
    parser = Parser(transfer, PretrainRecipe)
    parser.add("--store", same_as="data.store")
    parser.parse([])
    assert error.message(flag_of) == "no column: name one by --data.text_field, --store or `gone`"
    plain = Parser(transfer)
    plain.add("--text-field", "column")
    plain.parse([])
    assert error.message(flag_of) == "no column: name one by --text-field, `data.store` or `gone`"


@pytest.mark.parametrize("there", [None, "folder", "file"])
def test_a_recipe_of_the_package_is_found_by_its_name(
    there: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of this name, such as a run, does not hide it; a file does."""
    monkeypatch.chdir(tmp_path)
    if there == "folder":
        Path("mini-cpu").mkdir()
    elif there == "file":
        Path("mini-cpu").write_text("seed: 1\n", encoding="utf-8")
    found = Path(find("mini-cpu", "pretrain"))
    assert found == (Path("mini-cpu") if there == "file" else RECIPES / "mini-cpu.yaml")
    with pytest.raises(
        InputError, match=r"sst2: no such recipe: .*, or one of base.*mini-cpu; sst2 is one for finetune\."
    ):
        find("sst2", "pretrain")
    with pytest.raises(InputError, match=r"mini-cpu\.yaml: no such recipe: .* Did you mean `mini-cpu`\?"):
        find("mini-cpu.yaml", "pretrain")


def test_the_shape_of_an_encoder_and_the_recipes_of_each_command_are_found_by_their_names() -> None:
    for folder in ("finetune", "model", "pretrain", "probe"):
        for file in (RECIPES.parent / folder).glob("*.yaml"):
            assert Path(find(file.stem, folder)) == file
    assert recipe_of("--encoder", "bert-tiny").encoder.num_layers == 2


@pytest.mark.parametrize("name", ["a**b", "[", "", "..", "mini-cpu\0", "x" * 5000, "recipes/../mini-cpu", "~"])
def test_no_name_of_a_recipe_is_a_pattern_or_a_traceback(name: str) -> None:
    with pytest.raises(InputError):
        read_yaml(find(name, "pretrain"))
