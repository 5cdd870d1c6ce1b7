"""LoRA by peft on our models, by its own generic path: only adapters learn and are kept, and merged they are the model."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from bert import Encoder, EncoderConfig, MaskedLM, SequenceClassifier, TokenClassifier
from bert.model.config import task_head

pytestmark = pytest.mark.hf
LINEAR = ["qkv", "out", "wi", "wo"]
SHAPE = EncoderConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=40, max_length=24)
POST_NORM = EncoderConfig(
    **{"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 40, "max_length": 24},
    **{
        "norm_first": False,
        "final_norm": False,
        "positions": "learned",
        "gated": False,
        "bias": True,
        "token_types": 2,
    },
)
MODELS: dict[str, Callable[[], nn.Module]] = {
    "Encoder": lambda: Encoder(SHAPE),
    "MaskedLM": lambda: MaskedLM(SHAPE),
    "SequenceClassifier": lambda: SequenceClassifier(SHAPE, task_head(SHAPE, ("a", "b"))),
    "TokenClassifier": lambda: TokenClassifier(SHAPE, task_head(SHAPE, ("O", "B"), per_token=True)),
    "SequenceClassifier of BERT": lambda: SequenceClassifier(POST_NORM, task_head(POST_NORM, ("a", "b"))),
}


def inputs(name: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 64, (6, 12), generator=generator)
    mask = (torch.arange(12) < torch.tensor([[12], [12], [9], [7], [5], [3]])).long()
    labels = {"MaskedLM": ids, "TokenClassifier": ids % 2}.get(name, ids[:, 0] % 2)
    return {"input_ids": ids, "attention_mask": mask} | ({} if name == "Encoder" else {"labels": labels})


def vectors(model: nn.Module, name: str) -> torch.Tensor:
    with torch.no_grad():
        output = model.eval()(**inputs(name))
    return output.last_hidden_state if name == "Encoder" else output.logits


@pytest.mark.parametrize("name", MODELS)
def test_lora_learns_is_kept_and_merges(name: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    fresh = MODELS[name]()
    fresh_state = {key: tensor.clone() for key, tensor in fresh.state_dict().items()}
    before = vectors(fresh, name)
    heads = ["head"] if "Classifier" in name else None
    model = peft.get_peft_model(fresh, peft.LoraConfig(r=4, target_modules=LINEAR, modules_to_save=heads))
    assert torch.equal(vectors(model, name), before)  # B is zero at the start

    trained = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in key or ".head.modules_to_save." in key for key in trained)
    assert sum("lora_A" in key for key in trained) == 2 * len(LINEAR)  # each linear map of each layer
    optimizer = torch.optim.AdamW((p for p in model.parameters() if p.requires_grad), lr=1e-2)
    for _ in range(4):
        output = model.train()(**inputs(name))
        loss = output.last_hidden_state.square().mean() if name == "Encoder" else output.loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    learned = vectors(model, name)
    assert (learned - before).abs().max() > 1e-3
    for key, parameter in model.named_parameters():
        kept = key.removeprefix("base_model.model.").replace(".base_layer", "").replace(".original_module", "")
        if key not in trained:
            assert torch.equal(parameter, fresh_state[kept]), key  # the base is frozen

    model.save_pretrained(tmp_path)
    in_file = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(tensor.numel() for tensor in in_file.values()) == sum(
        p.numel() for p in model.parameters() if p.requires_grad
    )
    assert all("lora_" in key or ".head." in key for key in in_file)

    again = MODELS[name]()
    again.load_state_dict(fresh_state)
    again = peft.PeftModel.from_pretrained(again, tmp_path)
    torch.testing.assert_close(vectors(again, name), learned, rtol=0, atol=1e-6)
    merged = again.merge_and_unload()
    assert type(merged) is type(fresh)
    assert merged.state_dict().keys() == fresh_state.keys()
    torch.testing.assert_close(vectors(merged, name), learned, rtol=0, atol=1e-5)
    merged.save(tmp_path / "merged")
    opened = type(fresh).load(tmp_path / "merged")
    torch.testing.assert_close(vectors(opened, name), learned, rtol=0, atol=1e-5)
