"""Pretrain a BERT-style encoder on your own text, fine-tune it, and see how a word changes its vector with its context."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bert.errors import InputError
    from bert.model.config import EncoderConfig, HeadConfig, TaskHeadConfig
    from bert.model.encoder import Encoder
    from bert.model.heads import MaskedLM, SequenceClassifier, TokenClassifier
    from bert.probing.attention import attention
    from bert.probing.senses import senses
    from bert.probing.sentences import score
    from bert.probing.words import words
    from bert.text.tokenizer import Tokenizer

_HOMES = {
    "Encoder": "bert.model.encoder",
    "EncoderConfig": "bert.model.config",
    "HeadConfig": "bert.model.config",
    "InputError": "bert.errors",
    "MaskedLM": "bert.model.heads",
    "SequenceClassifier": "bert.model.heads",
    "TaskHeadConfig": "bert.model.config",
    "TokenClassifier": "bert.model.heads",
    "Tokenizer": "bert.text.tokenizer",
    "attention": "bert.probing.attention",
    "score": "bert.probing.sentences",
    "senses": "bert.probing.senses",
    "words": "bert.probing.words",
}
__all__ = [
    "Encoder",
    "EncoderConfig",
    "HeadConfig",
    "InputError",
    "MaskedLM",
    "SequenceClassifier",
    "TaskHeadConfig",
    "TokenClassifier",
    "Tokenizer",
    "attention",
    "score",
    "senses",
    "words",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for (PEP 562): `import bert` loads no torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bert' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
