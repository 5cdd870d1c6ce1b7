"""The attention of a run: what the recipe says, or what was timed and written down."""

from dataclasses import replace

import pytest
import torch

from bert.errors import InputError
from bert.model.attention import AttentionOptions
from bert.model.config import EncoderConfig
from bert.pretraining import backend
from bert.pretraining.backend import attention_options, select_attention
from bert.pretraining.config import DataConfig, PhaseConfig, PretrainRecipe
from bert.pretraining.phases import resolve_plan

RECIPE = PretrainRecipe(
    encoder=EncoderConfig(
        hidden_size=32, num_heads=4, num_kv_heads=2, local_window=8, global_every=2, attention_dropout=0.1
    ),
    data=DataConfig(sequence_length=16, batch_size=6),
)
CPU, PLAN = torch.device("cpu"), resolve_plan(RECIPE)


def test_what_was_fastest_at_the_shapes_of_the_run_is_in_the_recipe(
    monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    asked = []

    def fastest(backends: list[str], shape: tuple[int, ...], **rest: object) -> dict[str, float]:
        asked.append((backends, shape, rest))
        return {"plain": 0.001, "sdpa": 0.002} if rest["window"] is None else {"sdpa": 0.003}

    monkeypatch.setattr(backend, "fastest", fastest)
    settled = select_attention(RECIPE, PLAN, CPU, "bf16-mixed", True)
    assert settled == replace(RECIPE, attention="plain", local_attention="sdpa")
    assert said == [
        "attention: plain (plain 1.0 ms, sdpa 2.0 ms per layer)",
        "attention in windows: sdpa (sdpa 3.0 ms per layer)",
    ]
    assert [(backends, shape) for backends, shape, _ in asked] == [(["sdpa", "plain"], (6, 4, 16, 8))] * 2
    shared = {"kv_heads": 2, "dtype": torch.bfloat16, "device": CPU, "dropout": 0.1, "compiled": True, "layers": 2}
    assert [rest for _, _, rest in asked] == [shared | {"window": None}, shared | {"window": 8}]


def test_the_longest_sequences_of_a_run_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    monkeypatch.setattr(backend, "fastest", lambda backends, shape, **_: shapes.append(shape) or {"sdpa": 0.1})
    lengths = [
        {"tokens": 100, "sequence_length": 8},
        {"tokens": 100, "sequence_length": 32, "batch_size": 2},
        {"sequence_length": 16},
    ]
    phases = [PhaseConfig(**length) for length in lengths]
    recipe = replace(RECIPE, phases=phases, local_attention="sdpa")
    select_attention(recipe, resolve_plan(recipe), CPU, "bf16-mixed", True)
    assert shapes == [(2, 4, 32, 8)]


def test_a_step_that_is_not_compiled_asks_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "fastest", None)
    assert select_attention(RECIPE, PLAN, CPU, "32-true", False) == RECIPE


@pytest.mark.parametrize("name", ["eager", "plain", "sdpa"])
def test_what_the_recipe_says_is_taken(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(backend, "fastest", None)
    recipe = replace(RECIPE, attention=name)
    assert select_attention(recipe, PLAN, CPU, "32-true", True) == recipe


def test_the_attention_of_layers_with_a_window_is_taken_where_the_recipe_names_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    windows = []
    monkeypatch.setattr(backend, "fastest", lambda *_, window, **__: windows.append(window) or {"plain": 0.1})
    settled = select_attention(replace(RECIPE, local_attention="eager"), PLAN, CPU, "bf16-mixed", True)
    assert (settled.attention, settled.local_attention) == ("plain", "eager")
    assert windows == [None]


@pytest.mark.parametrize(
    ("name", "dropout", "message"),
    [
        ("flex", 0.0, "attention flex has no gradients on a CPU: choose another"),
        ("flex", 0.1, r"attention flex drops no weights \(encoder.attention_dropout is above 0\): choose another"),
        ("varlen", 0.0, "attention varlen needs a CUDA device of compute capability 8.0 or more: choose another"),
    ],
)
def test_what_cannot_be_had_is_refused_before_the_run(name: str, dropout: float, message: str) -> None:
    encoder = replace(RECIPE.encoder, attention_dropout=dropout)
    for named in ({"attention": name}, {"local_attention": name}):
        with pytest.raises(InputError, match=message):
            select_attention(replace(RECIPE, encoder=encoder, **named), PLAN, CPU, "bf16-mixed", True)


@pytest.mark.parametrize(
    ("attention", "local", "layers", "masked"),
    [
        ("varlen", None, 3, "auto"),
        ("varlen", "sdpa", 2, None),
        ("eager", "varlen", 2, "auto"),
        ("eager", "varlen", 3, None),
    ],
)
def test_where_the_last_layer_cannot_compute_masked_positions_alone_auto_does_and_it_is_said(
    attention: str, local: str | None, layers: int, masked: str | None, said: list[str]
) -> None:
    """Layers 1, 3, … have windows."""
    encoder = replace(RECIPE.encoder, num_layers=layers, attention_dropout=0.0)
    recipe = replace(RECIPE, encoder=encoder, attention=attention, local_attention=local)
    options = attention_options(recipe, CPU, "bf16-mixed")
    assert options == AttentionOptions(attention, local, masked_backend=masked)
    lack = "varlen cannot compute chosen positions alone"
    assert said == ([f"attention of the last layer, at masked positions: auto ({lack})"] if masked else [])
