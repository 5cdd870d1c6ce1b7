"""Shapes that the families share with transformers, and models of them with weights that make every part matter."""

import torch

from bert.model.config import EncoderConfig, HeadConfig, TaskHeadConfig, task_head
from bert.model.heads import HeadedModel, MaskedLM, SequenceClassifier, TokenClassifier

BERT = {"norm_first": False, "final_norm": False, "positions": "learned", "gated": False}
BERT |= {"bias": True, "norm_bias": True}
ROBERTA = {"positions_skip_padding": True, "pad_id": 1}
SHAPES: dict[str, tuple[dict, dict]] = {
    "bert": (BERT | {"token_types": 2, "norm_eps": 1e-12}, {"transform_bias": True}),
    "bert-relu-untied": (BERT | {"activation": "relu"}, {"transform_bias": True, "activation": "relu", "tied": False}),
    "bert-one-layer-no-types": (BERT | {"num_layers": 1, "hidden_size": 48, "num_heads": 3}, {"transform_bias": True}),
    "bert-without-biases": (BERT | {"bias": False, "norm_bias": False}, {"output_bias": False}),
    "bert-sinusoidal": (BERT | {"token_types": 2, "positions": "sinusoidal"}, {"transform_bias": True}),
    "roberta": (BERT | ROBERTA | {"token_types": 1}, {"transform_bias": True}),
    "roberta-relu-untied-no-types": (
        BERT | ROBERTA | {"activation": "relu", "pad_id": 4},
        {"transform_bias": True, "tied": False},
    ),
    "distilbert": (BERT | {"norm_eps": 1e-12}, {"transform_bias": True}),
    "distilbert-relu": (
        BERT | {"norm_eps": 1e-12, "activation": "relu"},
        {"transform_bias": True, "activation": "relu"},
    ),
    "electra": (BERT | {"token_types": 2, "embedding_size": 16}, {"transform_bias": True}),
    "electra-untied": (BERT | {"token_types": 2, "embedding_size": 48}, {"transform_bias": True, "tied": False}),
    "modernbert": ({}, {}),
    "modernbert-local": ({"num_layers": 5, "local_window": 8, "global_every": 3, "rope_theta": 5000.0}, {}),
    "modernbert-odd-window": ({"local_window": 5, "global_every": 9, "local_rope_theta": 300.0}, {}),
    "modernbert-biases": (
        {"bias": True, "norm_bias": True, "activation": "silu"},
        {"transform_bias": True, "activation": "relu", "tied": False},
    ),
    "modernbert-bare": ({"activation": "gelu_tanh", "hidden_size": 48, "num_heads": 3}, {"output_bias": False}),
}
OWN = {
    "own-rms": (
        {"norm": "rmsnorm", "num_kv_heads": 2, "qk_norm": True},
        {"activation": "relu", "transform_bias": True},
    ),
    "own-no-transform": ({}, {"transform": False}),
    "own-original": (
        BERT | {"positions": "sinusoidal", "embedding_scale": True, "embedding_norm": False, "mlp_dropout": 0.1},
        {"transform": False, "output_bias": False},
    ),
}


LABELS = ("O", "B-名", "I-名")
TASKS: dict[str, tuple[str, type[SequenceClassifier] | type[TokenClassifier], dict]] = {
    "bert-classify": ("bert", SequenceClassifier, {"dropout": 0.3}),
    "bert-relu-classify": ("bert-relu-untied", SequenceClassifier, {}),
    "bert-bare-classify": ("bert-without-biases", SequenceClassifier, {"transform_bias": False}),
    "bert-tag": ("bert", TokenClassifier, {}),
    "bert-no-types-tag": ("bert-one-layer-no-types", TokenClassifier, {"dropout": 0.2}),
    "roberta-classify": ("roberta", SequenceClassifier, {"dropout": 0.3, "first_dropout": 0.3}),
    "roberta-tag": ("roberta", TokenClassifier, {}),
    "distilbert-classify": ("distilbert", SequenceClassifier, {"activation": "relu"}),
    "distilbert-tag": ("distilbert-relu", TokenClassifier, {}),
    "electra-classify": ("electra", SequenceClassifier, {"activation": "gelu"}),
    "electra-tag": ("electra", TokenClassifier, {}),
    "modernbert-classify": ("modernbert", SequenceClassifier, {}),
    "modernbert-mean-classify": ("modernbert-local", SequenceClassifier, {"pooling": "mean", "dropout": 0.3}),
    "modernbert-biases-classify": (
        "modernbert-biases",
        SequenceClassifier,
        {"transform_bias": True, "activation": "tanh", "pooling": "mean"},
    ),
    "modernbert-tag": ("modernbert", TokenClassifier, {"dropout": 0.1}),
    "modernbert-biases-tag": ("modernbert-biases", TokenClassifier, {"transform_bias": True, "activation": "silu"}),
}
"""name → shape of the encoder, class, what differs from the head of the family"""
OWN_TASKS: dict[str, tuple[str, type[SequenceClassifier] | type[TokenClassifier], dict]] = {
    "own-mean-bert-classify": ("bert", SequenceClassifier, {"pooling": "mean"}),
    "own-rms-classify": ("own-rms", SequenceClassifier, {"pooling": "mean"}),
    "own-original-tag": ("own-original", TokenClassifier, {}),
}


def make_task(name: str) -> SequenceClassifier | TokenClassifier:
    """A classifier or tagger of that shape; every weight matters, as in `make`."""
    encoder, cls, changes = (TASKS | OWN_TASKS)[name]
    config = make(encoder).config
    head = task_head(config, LABELS, per_token=cls is TokenClassifier)
    torch.manual_seed(len(name))
    model = cls(config, TaskHeadConfig(**(vars(head) | changes)))
    spread(model)
    return model.eval()


def spread(model: HeadedModel) -> None:
    """Weights far from those at the start, so that a swapped or forgotten one shows."""
    for parameter_name, parameter in model.named_parameters():
        scale = "norm.weight" in parameter_name
        torch.nn.init.normal_(parameter, mean=1.0 if scale else 0.0, std=0.15)


def make(name: str) -> MaskedLM:
    """A masked LM of that shape, its weights spread."""
    encoder, head = (SHAPES | OWN)[name]
    size = {"vocab_size": 90, "hidden_size": 32, "num_layers": 3, "num_heads": 4, "intermediate_size": 40}
    torch.manual_seed(len(name))
    model = MaskedLM(EncoderConfig(**(size | {"max_length": 40} | encoder)), HeadConfig(**head))
    spread(model)
    return model.eval()


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, attention mask with padding, token types (3, 24)."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, 90, (3, 24), generator=generator)  # RoBERTa counts all but its padding token
    mask = torch.ones(3, 24, dtype=torch.long)
    mask[1, 15:] = 0
    mask[2, 1:] = 0
    types = (torch.arange(24) > 9).long().expand(3, 24) * mask
    return ids, mask, types
