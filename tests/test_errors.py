"""What errors share: which name was probably meant, and arguments of the wrong type."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bert.errors import InputError, check_arguments, did_you_mean

OPTIONS = (
    "--out",
    "--seed",
    "--png",
    "--model",
    "--forms",
    "--help",
    "--data.corpus",
    "--data.batch_size",
    "--stop.steps",
)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("--otu", "--out"),
        ("--output", "--out"),
        ("--sed", "--seed"),
        ("--pgn", "--png"),
        ("--form", "--forms"),
        ("--Model", "--model"),
        ("--steps", "--stop.steps"),
        ("--batch-size", "--data.batch_size"),
        ("--data.batch", "--data.batch_size"),
        ("--dta.corpsu", "--data.corpus"),
        ("--stpo.steps", "--stop.steps"),
    ],
)
def test_a_slip_finds_the_name_that_was_meant(name: str, meant: str) -> None:
    assert did_you_mean(name, OPTIONS) == f" Did you mean `{meant}`?"


@pytest.mark.parametrize(
    "name",
    [
        "--put",
        "--foo",
        "--jpg",
        "--xyz",
        "--a",
        "--lr",
        "--need",
        "--device",
        "--verbose",
        "--data.foo",
        "--html",
        "--",
    ],
)
def test_a_name_like_none_suggests_none(name: str) -> None:
    assert did_you_mean(name, OPTIONS) == ""


@given(st.sampled_from(["--sentences", "--tokenizer", "--clusters", "--overwrite"]), st.data())
def test_one_letter_left_out_of_a_long_name_still_finds_it(name: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(2, len(name) - 1))
    known = [*OPTIONS, "--sentences", "--tokenizer", "--clusters", "--overwrite"]
    assert did_you_mean(name[:at] + name[at + 1 :], known) == f" Did you mean `{name}`?"


def probe(
    texts: Sequence[str] | Path,
    model: nn.Module | str = "model",
    layers: Sequence[int] | int | None = None,
    share: float = 0.5,
    pooling: Literal["cls", "mean"] = "mean",
    more: Iterable[str] = (),
    loud: bool = False,
) -> str:
    check_arguments(probe, locals())
    return "probed"


@pytest.mark.parametrize(
    "arguments",
    [
        {"texts": ["a", "b"], "model": nn.Linear(1, 1), "layers": [1, np.int64(2)]},
        {"texts": (), "layers": np.arange(3), "share": 1},
        {"texts": np.array(["a", "b"]), "layers": 0, "share": np.float32(0.5)},
        {"texts": Path("a"), "layers": None, "pooling": "cls", "more": iter(["a"]), "loud": True},
    ],
)
def test_arguments_of_the_annotated_types_pass(arguments: dict) -> None:
    assert probe(**arguments) == "probed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "one"}, "texts is 'one'; must be Sequence[str] | Path"),
        ({"texts": None}, "texts is None; must be Sequence[str] | Path"),
        ({"texts": ["a", None]}, "texts[1] is None; must be Sequence[str] | Path"),
        ({"texts": {"a": 1}}, "texts is {'a': 1}; must be Sequence[str] | Path"),
        ({"texts": [["a"]]}, "texts[0] is ['a']; must be Sequence[str] | Path"),
        ({"texts": (text for text in "ab")}, "texts is <generator"),
        ({"texts": b"a"}, "texts is b'a'; must be"),
        ({"texts": [], "model": ["a"]}, "model is ['a']; must be Module | str"),
        ({"texts": [], "model": None}, "model is None; must be Module | str"),
        ({"texts": [], "layers": 1.0}, "layers is 1.0; must be Sequence[int] | int | None"),
        ({"texts": [], "layers": True}, "layers is True; must be"),
        ({"texts": [], "layers": torch.nn}, "layers is <module"),
        ({"texts": [], "share": "much"}, "share is 'much'; must be float"),
        ({"texts": [], "more": "abc"}, "more is 'abc'; must be Iterable[str]"),
        ({"texts": [], "loud": 1}, "loud is 1; must be bool"),
    ],
)
def test_an_argument_of_another_type_is_named_with_what_is_taken(arguments: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        probe(**arguments)
    assert str(caught.value).startswith(message)
    assert len(str(caught.value)) < 150
