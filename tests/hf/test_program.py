"""What leaves the package computes what the model computes, whatever the number of rows and tokens."""

from pathlib import Path

import pytest
import torch

from bert.errors import InputError
from bert.hf import program
from bert.hf.program import TOLERANCE, Difference, check, compare, open_torch, trace, write_torch
from bert.model.attention import AttentionOptions
from bert.model.config import EncoderConfig
from bert.model.encoder import Encoder
from tests.hf.hf import make


def test_a_torch_program_opens_without_the_package_and_is_the_model_at_every_shape(tmp_path: Path) -> None:
    model = make("bert-one-layer-no-types")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write_torch(model, tmp_path / "model.pt2")
    assert model.encoder.attention == AttentionOptions()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    function = open_torch(tmp_path / "model.pt2")
    assert [(one.rows, one.length) for one in compare(model, function)] == [(1, 1), (1, 40), (2, 2), (3, 13), (5, 20)]
    assert check(compare(model, function), "the program") <= 1e-6
    with pytest.raises(AssertionError, match="40"):  # more tokens than the model takes: refused, not computed
        function(torch.ones(1, 41, dtype=torch.long), torch.ones(1, 41, dtype=torch.long))


def test_comparing_sees_one_wrong_number_a_nan_and_a_row_that_is_nothing_but_padding() -> None:
    encoder = make("bert").encoder
    masks = []

    def other(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        masks.append(mask)
        output = encoder(ids, mask, types).last_hidden_state.clone()
        if ids.shape[0] == 3:
            output[1, 2, 3] += 0.25
        if ids.shape[0] == 5:
            output[4, 0, 0] = float("nan")
        return output

    found = compare(encoder, other)
    assert [one.largest for one in found[:3]] == [0, 0, 0]
    assert found[3].largest == pytest.approx(0.25, abs=1e-6)
    assert found[4].largest != found[4].largest
    assert masks[4].sum(dim=1).tolist() == [20, 10, 20, 10, 0]
    with pytest.raises(
        InputError, match=r"the copy differs from the model by 2\.5e-01, .* on 3 sequences of 13 tokens"
    ):
        check(found, "the copy")
    with pytest.raises(InputError, match="by nan"):
        check(found[4:], "the copy")


def test_the_limit_is_one_in_ten_thousand() -> None:
    assert TOLERANCE == 1e-4
    assert check([Difference(1, 1, 1e-4, 1.0), Difference(1, 2, 3e-5, 1.0)], "it") == 1e-4
    with pytest.raises(InputError, match="nothing was written"):
        check([Difference(1, 1, 1.01e-4, 1.0)], "it")


def test_a_model_of_rows_of_one_token_is_refused() -> None:
    config = EncoderConfig(vocab_size=9, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8, max_length=1)
    with pytest.raises(InputError, match=r"encoder\.max_length is 1"):
        trace(Encoder(config), "eager")


def test_exporters_are_heard_only_where_they_fail(caplog: pytest.LogCaptureFixture) -> None:
    import logging
    import warnings

    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        with program.quiet():
            logging.getLogger("torch.onnx").warning("no torchvision")
            warnings.warn("deprecated inside", stacklevel=1)
        logging.getLogger("torch.onnx").warning("ours")
    assert [record.message for record in caplog.records] == ["ours"]
    assert heard == []
