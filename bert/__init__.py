"""Pretrain a BERT-style encoder on your own text, fine-tune it, and see how a word changes its vector with its context."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bert.terminal import TERMINAL

if TYPE_CHECKING:
    from bert.data.tokenizer import Tokenizer as Tokenizer
    from bert.errors import InputError as InputError
    from bert.finetuning.config import FinetuneRecipe as FinetuneRecipe
    from bert.finetuning.run import finetune as finetune
    from bert.hf.sentence import SentenceModule as SentenceModule
    from bert.model.config import EncoderConfig as EncoderConfig
    from bert.model.config import HeadConfig as HeadConfig
    from bert.model.config import Seq2SeqConfig as Seq2SeqConfig
    from bert.model.config import TaskHeadConfig as TaskHeadConfig
    from bert.model.decoder import Seq2Seq as Seq2Seq
    from bert.model.encoder import Encoder as Encoder
    from bert.model.heads import Discriminator as Discriminator
    from bert.model.heads import MaskedLM as MaskedLM
    from bert.model.heads import SequenceClassifier as SequenceClassifier
    from bert.model.heads import TokenClassifier as TokenClassifier
    from bert.pretraining.config import PretrainRecipe as PretrainRecipe
    from bert.pretraining.run import pretrain as pretrain
    from bert.probing.attention import attention as attention
    from bert.probing.senses import senses as senses
    from bert.probing.sentences import score as score
    from bert.probing.words import words as words

_NAMES = {
    "bert.data.tokenizer": "Tokenizer",
    "bert.errors": "InputError",
    "bert.finetuning.config": "FinetuneRecipe",
    "bert.finetuning.run": "finetune",
    "bert.hf.sentence": "SentenceModule",
    "bert.model.config": "EncoderConfig HeadConfig Seq2SeqConfig TaskHeadConfig",
    "bert.model.decoder": "Seq2Seq",
    "bert.model.encoder": "Encoder",
    "bert.model.heads": "Discriminator MaskedLM SequenceClassifier TokenClassifier",
    "bert.pretraining.config": "PretrainRecipe",
    "bert.pretraining.run": "pretrain",
    "bert.probing.attention": "attention",
    "bert.probing.senses": "senses",
    "bert.probing.sentences": "score",
    "bert.probing.words": "words",
}
_HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = sorted(_HOMES)
__version__ = "0.1.0"

# Progress is shown in scripts and notebooks too. `logging.getLogger("bert").setLevel(logging.WARNING)` shows warnings only.
_logger = logging.getLogger(__name__)
_logger.setLevel(logging.INFO)
_logger.addHandler(TERMINAL)
_logger.propagate = False


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562): `import bert` loads no torch."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bert' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
