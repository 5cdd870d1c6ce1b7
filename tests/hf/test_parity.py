"""What transformers computes and what we compute, family by family: hidden states, logits, losses, every gradient, bf16.

Models of transformers with random weights are saved there and opened here.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from bert.hf.translate import kind_of, read_config, read_parameters
from bert.model.encoder import Encoder
from bert.model.heads import Discriminator, HeadedModel, MaskedLM, SequenceClassifier, TokenClassifier

pytestmark = pytest.mark.hf

NEAR = 1e-5  # hidden states and logits, in fp32
NEAR_LOSS = 1e-6
NEAR_GRADIENT = 1e-4  # relative to the largest entry of a parameter's gradient
BF16_WORSE = 1.2  # our error over theirs
VOCABULARY, LENGTH, LABELS = 90, 21, 3

CONFIGS = {
    "bert": "BertConfig",
    "roberta": "RobertaConfig",
    "distilbert": "DistilBertConfig",
    "electra": "ElectraConfig",
    "modernbert": "ModernBertConfig",
}
OURS = {
    "MaskedLM": MaskedLM,
    "SequenceClassification": SequenceClassifier,
    "TokenClassification": TokenClassifier,
    "PreTraining": Discriminator,
}


@dataclass(frozen=True)
class Case:
    """A family at a size, with what differs from its defaults."""

    family: str
    hidden: int
    layers: int
    heads: int
    inner: int
    changes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return "-".join([self.family, f"{self.layers}x{self.hidden}", *self.changes])

    def config(self) -> Any:
        transformers = pytest.importorskip("transformers")
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        if self.family == "distilbert":
            names = ("dim", "n_layers", "n_heads", "hidden_dim")
        sizes = dict(zip(names, (self.hidden, self.layers, self.heads, self.inner)))
        sizes |= {"vocab_size": VOCABULARY, "max_position_embeddings": 40}
        if self.family == "modernbert":
            sizes |= {
                "pad_token_id": 0,
                "cls_token_id": 2,
                "sep_token_id": 3,
                "bos_token_id": None,
                "eos_token_id": None,
            }
        return getattr(transformers, CONFIGS[self.family])(num_labels=LABELS, **(sizes | self.changes))

    def model(self, head: str, seed: int = 0, attention: str = "eager") -> Any:
        """A model of theirs whose every weight matters; in eval mode."""
        transformers = pytest.importorskip("transformers")
        config = self.config()
        config._attn_implementation = attention
        torch.manual_seed(seed)
        model = getattr(transformers, CONFIGS[self.family].removesuffix("Config") + "For" + head)(config)
        for name, parameter in model.named_parameters():
            scale = name.lower().endswith("norm.weight")
            torch.nn.init.normal_(parameter, mean=1.0 if scale else 0.0, std=0.15)
        return model.eval()


CASES = [
    Case("bert", 32, 3, 4, 40),
    Case("bert", 48, 1, 3, 96, {"hidden_act": "gelu_new", "layer_norm_eps": 1e-6, "type_vocab_size": 3}),
    Case("bert", 64, 2, 2, 32, {"tie_word_embeddings": False, "hidden_act": "relu"}),
    Case("roberta", 32, 3, 4, 40, {"type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    Case("roberta", 48, 2, 3, 32, {"pad_token_id": 5}),
    Case("roberta", 64, 1, 2, 96, {"tie_word_embeddings": False, "hidden_act": "relu"}),
    Case("distilbert", 32, 3, 4, 40),
    Case("distilbert", 48, 2, 3, 96, {"activation": "relu", "sinusoidal_pos_embds": True}),
    Case("distilbert", 64, 1, 2, 32, {"tie_word_embeddings": False}),
    Case("electra", 32, 3, 4, 40, {"embedding_size": 16}),
    Case("electra", 48, 2, 3, 96, {"embedding_size": 48, "hidden_act": "relu"}),
    Case("electra", 64, 1, 2, 32, {"embedding_size": 20, "tie_word_embeddings": False}),
    Case("modernbert", 32, 5, 4, 40, {"local_attention": 6}),
    Case("modernbert", 48, 2, 3, 96, {"layer_types": ["full_attention"] * 2, "norm_bias": True, "mlp_bias": True}),
    Case("modernbert", 64, 3, 2, 32, {"attention_bias": True, "classifier_bias": True, "local_attention": 9}),
    Case(
        "modernbert", 32, 2, 4, 48, {"tie_word_embeddings": False, "decoder_bias": False, "hidden_activation": "silu"}
    ),
    Case("modernbert", 32, 2, 4, 48, {"classifier_pooling": "mean", "classifier_activation": "tanh"}),
]
PAIRS = [
    (case, head)
    for case in CASES
    for head in OURS
    if (head != "PreTraining" or case.family == "electra")
    and not (
        head == "MaskedLM" and case.changes.get("classifier_activation") == "tanh"
    )  # no masked LM of ours has tanh
]
PADDINGS = ("none", "right", "left", "one token")


def make_mask(padding: str) -> torch.Tensor:
    """(3, T) attention mask; the first row is whole in each."""
    mask = torch.ones(3, LENGTH, dtype=torch.long)
    match padding:
        case "right":
            mask[1, 13:], mask[2, 7:] = 0, 0
        case "left":
            mask[1, :4], mask[2, :12] = 0, 0
        case "one token":
            mask[1, 20:], mask[2, 1:] = 0, 0
    return mask


def make_batch(case: Case, padding: str) -> dict[str, torch.Tensor]:
    """What both models are given. Token ids leave out the padding token, by which RoBERTa counts."""
    generator = torch.Generator().manual_seed(len(padding))
    mask = make_mask(padding)
    pad_id = case.config().pad_token_id
    ids = torch.randint(6, VOCABULARY, mask.shape, generator=generator).where(mask > 0, pad_id)
    batch = {"input_ids": ids, "attention_mask": mask}
    if case.family in ("bert", "electra"):
        batch["token_type_ids"] = (torch.arange(LENGTH) > 9).long().expand_as(mask) * mask
    return batch


def make_labels(head: str, mask: torch.Tensor) -> torch.Tensor:
    """Labels for some of the tokens, or for each row."""
    if head == "SequenceClassification":
        return torch.tensor([2, 0, 1])
    classes = {"MaskedLM": VOCABULARY, "TokenClassification": LABELS, "PreTraining": 2}[head]
    labels = torch.arange(mask.numel()).view(mask.shape) * 7 % classes
    asked = mask > 0
    if head == "MaskedLM":
        asked &= torch.arange(mask.numel()).view(mask.shape) % 3 == 0
    return labels.where(asked, -100)


def reopened(theirs: Any, cls: type[HeadedModel], folder: Path) -> HeadedModel:
    theirs.save_pretrained(folder)
    return cls.load(folder)


def their_gradients(ours: HeadedModel, theirs: Any, folder_keys: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Theirs under our names, by the table that reads parameters."""
    kind = kind_of(ours.head_config)
    family, _, _ = read_config(folder_keys, kind)
    theirs_by_name = {
        name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in theirs.named_parameters()
    }
    shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
    gradients, missing, _ = read_parameters(family, kind, folder_keys, theirs_by_name, shapes)
    assert not [name for name in missing if not name.endswith("decoder.bias")]
    return gradients


@pytest.mark.parametrize(("case", "head"), PAIRS, ids=str)
def test_states_logits_loss_and_gradients_are_theirs(case: Case, head: str, tmp_path: Path) -> None:
    theirs = case.model(head)
    ours = reopened(theirs, OURS[head], tmp_path)
    keys = json.loads((tmp_path / "config.json").read_text())
    for padding in PADDINGS:
        if padding == "left" and head == "SequenceClassification" and case.changes.get("classifier_pooling") != "mean":
            continue  # their classifiers take the first place of a row, whatever stands there: padding
        batch = make_batch(case, padding)
        tokens = batch["attention_mask"] > 0
        labels = make_labels(head, batch["attention_mask"])
        theirs.zero_grad()
        ours.zero_grad()
        other = theirs(**batch, labels=labels, output_hidden_states=True)
        mine = ours(**batch, labels=labels, output_hidden_states=True)
        assert len(mine.hidden_states) == len(other.hidden_states) == case.layers + 1
        for layer, (state, their_state) in enumerate(zip(mine.hidden_states, other.hidden_states)):
            assert (state - their_state)[tokens].abs().max() <= NEAR, (padding, layer)
        where = slice(None) if head == "SequenceClassification" else tokens
        assert (mine.logits - other.logits)[where].abs().max() <= NEAR, padding
        assert abs(mine.loss.item() - other.loss.item()) <= NEAR_LOSS * max(1.0, other.loss.item()), padding

        mine.loss.backward()
        other.loss.backward()
        gradients = their_gradients(ours, theirs, keys)
        pad_id = case.config().pad_token_id
        for name, parameter in ours.named_parameters():
            own, their = parameter.grad, gradients[name]
            if case.family == "modernbert" and name.endswith(".bias") and not their.any():
                continue  # of attention and MLP they have a bias in one alone: in the other ours is zeros
            if name.endswith("embeddings.tokens.weight") or (
                case.family == "roberta" and name.endswith("embeddings.positions.weight")
            ):
                own, their = own.clone(), their.clone()
                own[pad_id], their[pad_id] = 0, 0  # they keep the row of the padding token as it is
            assert (own - their).abs().max() <= NEAR_GRADIENT * their.abs().max() + 1e-9, (padding, name)


def test_roberta_counts_its_positions_by_the_padding_tokens_whatever_the_mask_says(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.family == "roberta")
    theirs = case.model("MaskedLM")
    ours = reopened(theirs, MaskedLM, tmp_path)
    ids = make_batch(case, "none")["input_ids"]
    ids[0, 4], ids[1, 15:] = 1, 1
    with torch.no_grad():
        for given in ({}, {"attention_mask": torch.ones_like(ids)}):
            assert (ours(ids, **given).logits - theirs(ids, **given).logits).abs().max() <= NEAR


def root_mean_square(differences: list[torch.Tensor]) -> float:
    return torch.cat([difference.flatten().double() for difference in differences]).square().mean().sqrt().item()


@pytest.mark.parametrize("case", [case for case in CASES if case.layers > 1], ids=str)
def test_in_bf16_we_are_as_near_to_the_truth_as_they_are(case: Case, tmp_path: Path) -> None:
    """Root mean square over 8 seeds, hidden states of the last layer, against fp32."""
    batch = make_batch(case, "right")
    tokens = batch["attention_mask"] > 0
    errors: dict[str, list[torch.Tensor]] = {"ours": [], "theirs": []}
    for seed in range(8):
        theirs = case.model("TokenClassification", seed, attention="sdpa").base_model
        theirs.save_pretrained(tmp_path / str(seed))
        ours = Encoder.load(tmp_path / str(seed))
        with torch.no_grad():
            truth = theirs(**batch)[0][tokens]
            errors["ours"].append(ours.bfloat16()(**batch).last_hidden_state[tokens] - truth)
            errors["theirs"].append(theirs.bfloat16()(**batch)[0][tokens] - truth)
    assert root_mean_square(errors["ours"]) <= BF16_WORSE * root_mean_square(errors["theirs"])
