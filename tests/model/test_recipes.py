"""`recipes/model/*.yaml`: each is an architecture, and its header is right."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder, count_parameters

FILES = sorted((Path(__file__).parents[2] / "recipes" / "model").glob("*.yaml"))


def test_the_generations_are_there() -> None:
    names = (
        "bert-base bert-medium bert-mini bert-small bert-tiny distilbert-base electra-small modern-mini modernbert-base"
        " original-base roberta-base"
    )
    assert [file.stem for file in FILES] == names.split()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_recipe_has_the_parameters_that_its_header_names(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    for part in ("# Source: ", "# For: ", "# Head: "):
        assert part in text
    said = re.search(r"# Parameters: ([\d,]+) in the encoder", text)
    assert said is not None
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(**yaml.safe_load(text)))
    assert count_parameters(encoder) == int(said[1].replace(",", ""))


@pytest.mark.parametrize(
    ("name", "published"),
    [  # with the pooler (D² + D) for BERT and RoBERTa, as google-research/bert and Hugging Face count it; the others have none
        ("bert-tiny", 4_385_920),
        ("bert-mini", 11_170_560),
        ("bert-small", 28_763_648),
        ("bert-medium", 41_373_184),
        ("bert-base", 109_482_240),
        ("roberta-base", 124_645_632),
        ("distilbert-base", 66_362_880),
        ("electra-small", 13_483_008),
        ("modernbert-base", 149_014_272),
    ],
)
def test_published_models_have_their_published_size(name: str, published: int) -> None:
    file = next(file for file in FILES if file.stem == name)
    config = EncoderConfig(**yaml.safe_load(file.read_text(encoding="utf-8")))
    with torch.device("meta"):
        encoder = Encoder(config)
    pooler = config.hidden_size * (config.hidden_size + 1) if name.startswith(("bert", "roberta")) else 0
    assert count_parameters(encoder) + pooler == published
