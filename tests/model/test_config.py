"""The config space: its points, and what is refused when a config is made."""

import inspect
import subprocess
import sys
from dataclasses import fields

import pytest

from bert.errors import InputError
from bert.model.config import EncoderConfig, HeadConfig, TaskHeadConfig, task_head


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden_size": 0}, r"encoder\.hidden_size is 0: give 1 or more"),
        ({"num_layers": -1}, r"encoder\.num_layers is -1: give 1 or more"),
        ({"hidden_size": 250}, r"hidden_size 250 is not a multiple of encoder\.num_heads 4"),
        ({"num_kv_heads": 3}, r"num_kv_heads 3 is not a divisor of encoder\.num_heads 4"),
        ({"hidden_size": 20}, r"positions rope needs an even hidden_size / num_heads, not 5"),
        ({"hidden_size": 15, "num_heads": 1, "positions": "sinusoidal"}, r"even encoder\.hidden_size, not 15"),
        ({"positions": "rotary"}, r"encoder\.positions is rotary: give one of learned, sinusoidal, rope, none"),
        ({"activation": "gelu_tan"}, r"encoder\.activation is gelu_tan.*Did you mean `gelu_tanh`"),
        ({"norm": "layer_norm"}, r"encoder\.norm is layer_norm.*Did you mean `layernorm`"),
        ({"token_types": -1}, r"encoder\.token_types is -1: give 0 for none"),
        ({"local_window": 1, "global_every": 2}, r"encoder\.local_window is 1: give 2 or more"),
        ({"local_window": 64}, r"global_every 1 makes every layer global: give 2 or more, or local_window null"),
        ({"global_every": 3}, r"global_every 3 needs encoder\.local_window"),
        ({"norm_first": False}, r"final_norm belongs to pre-norm.*set final_norm false"),
        ({"norm_first": False, "final_norm": False, "first_attention_norm": True}, r"first_attention_norm belongs to"),
        ({"norm": "rmsnorm", "norm_bias": True}, r"rmsnorm has no bias: set encoder\.norm_bias false"),
        ({"hidden_dropout": 1.0}, r"encoder\.hidden_dropout is 1\.0: give a probability"),
        ({"norm_eps": 0.0}, r"encoder\.norm_eps is 0\.0: give a positive number"),
        ({"num_kv_heads": 2.0}, r"encoder\.num_kv_heads is 2\.0: give a whole number"),
        ({"embedding_size": "64"}, r"encoder\.embedding_size is '64': give a whole number"),
        *[
            ({name: 2**31}, rf"encoder\.{name} is 2147483648: give at most")
            for name in ("vocab_size", "max_length", "pad_id")
        ],
        ({"num_layers": 2_001}, r"encoder\.num_layers is 2001: give at most 2000"),
        (
            {"hidden_size": 2**20},
            r"encoder: vocab_size 30528, hidden_size 1048576, .* make \d+ parameters: give sizes for",
        ),
        ({"vocab_size": 2**31 - 1, "hidden_size": 2**10}, r"make \d+ parameters: give sizes for at most 1099511627776"),
        *[
            ({name: value}, rf"encoder\.{name} is {value}: give a positive number below 1e\+18")
            for name in ("norm_eps", "initializer_range", "rope_theta", "local_rope_theta")
            for value in (float("nan"), float("inf"), -1.0, 10**18)
        ],
        ({"mlp_dropout": float("nan")}, r"encoder\.mlp_dropout is nan: give a probability"),
        ({"pad_id": 30_528}, r"encoder\.pad_id 30528 is outside the vocabulary of 30528"),
    ],
)
def test_an_impossible_shape_is_refused_in_one_line_with_field_and_fix(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        EncoderConfig(**values)
    assert "\n" not in str(caught.value)


def test_a_head_with_an_unknown_activation_is_refused() -> None:
    with pytest.raises(InputError, match=r"head\.activation is tanh: give one of gelu"):
        HeadConfig(activation="tanh")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": "yes"}, r"head\.labels is 'yes': give several names"),
        ({"labels": ()}, r"head\.labels is empty: give the names of the classes"),
        ({"labels": ("a", "b", "a")}, r"head\.labels names 'a' twice"),
        ({"activation": "tanhh"}, r"head\.activation is tanhh.*Did you mean `tanh`"),
        ({"pooling": "max"}, r"head\.pooling is max: give one of cls, mean"),
        ({"dropout": float("nan")}, r"head\.dropout is nan: give a probability from 0 to below 1"),
        ({"dropout": 1.0}, r"head\.dropout is 1\.0: give a probability from 0 to below 1"),
    ],
)
def test_an_impossible_task_head_is_refused_in_one_line(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        TaskHeadConfig(**({"labels": ("a", "b")} | values))
    assert "\n" not in str(caught.value)


def test_a_task_head_goes_with_its_encoder() -> None:
    """Post-norm: the pooler of BERT and its dropout, or the bare output matrix. Pre-norm: ModernBERT's, in both."""
    labels = ["a", "b"]
    bert = EncoderConfig(norm_first=False, final_norm=False, hidden_dropout=0.1)
    head = task_head(bert, labels)
    assert (head.activation, head.transform_bias, head.transform_norm, head.pooling) == ("tanh", True, False, "cls")
    tagger = task_head(bert, labels, per_token=True)
    assert (tagger.transform, tagger.pooling) == (False, None)
    assert head.dropout == tagger.dropout == 0.1
    modern = EncoderConfig(hidden_dropout=0.1)
    assert task_head(modern, labels) == TaskHeadConfig(("a", "b"))
    assert task_head(modern, labels, per_token=True) == TaskHeadConfig(("a", "b"), pooling=None)


def test_local_layers_are_all_but_every_nth() -> None:
    config = EncoderConfig(num_layers=7, local_window=8, global_every=3)
    assert [config.is_local(layer) for layer in range(7)] == [False, True, True, False, True, True, False]
    assert not any(EncoderConfig().is_local(layer) for layer in range(4))


def test_every_field_says_what_it_is() -> None:
    source = inspect.getsource(sys.modules[EncoderConfig.__module__])
    for kind in (EncoderConfig, HeadConfig, TaskHeadConfig):
        for field in fields(kind):
            after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1]
            assert after.lstrip().startswith('"""'), field.name


def test_the_config_loads_without_torch() -> None:
    code = "import sys, bert.model.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
