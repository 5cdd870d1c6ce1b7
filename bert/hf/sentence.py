"""Any of our models as the first module of a sentence-transformers model: texts → vectors of their tokens.

If Hugging Face has the architecture, `SentenceTransformer(folder)` opens a model folder without this module, with mean pooling;
it is for other architectures, and for models in memory. sentence-transformers requires only methods with these names, so that
it is not imported here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bert.errors import InputError, check_arguments
from bert.files import replace_text
from bert.hf.folder import load
from bert.model.encoder import Encoder
from bert.model.heads import HeadedModel
from bert.untrusted import read_json

CONFIG = "sentence_module.json"


class SentenceModule(nn.Module):
    """The tokenizer and the encoder of a model, for `SentenceTransformer(modules=[SentenceModule(model), Pooling(…)])`.

    Texts are truncated at `max_seq_length` tokens, including special ones, as in sentence-transformers. Special-token strings in
    texts are plain text. Written for sentence-transformers 5.1 and later.

    >>> from bert import Encoder, EncoderConfig, SentenceModule
    >>> from bert.data.vocabulary import train_tokenizer
    >>> tokenizer = train_tokenizer(["the cat and the dog"] * 3)
    >>> encoder = Encoder(EncoderConfig(tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2))
    >>> encoder.tokenizer = tokenizer  # as `Encoder.load` does
    >>> module = SentenceModule(encoder)
    >>> features = module(module.preprocess(["the cat", "the dog and the cat"]))
    >>> features["token_embeddings"].shape  # (B, T, D)
    torch.Size([2, 7, 32])
    """

    save_in_root = True  # sentence-transformers writes the first module into the folder itself

    def __init__(self, model: Encoder | HeadedModel, max_seq_length: int | None = None) -> None:
        """`max_seq_length`: from 3 to the maximum of the model, which is the default.

        Raises InputError for another length, and for a model without a tokenizer.
        """
        check_arguments(SentenceModule.__init__, locals())
        super().__init__()
        self.encoder = model if isinstance(model, Encoder) else model.encoder
        longest = self.encoder.config.max_length
        self.max_seq_length = longest if max_seq_length is None else max_seq_length
        if not 3 <= self.max_seq_length <= longest:
            raise InputError(f"max_seq_length is {max_seq_length}: give 3 to {longest}, the maximum of the model")
        if self.encoder.tokenizer is None:
            raise InputError("this model has no tokenizer: load it from a folder that has one, or set model.tokenizer")
        self.tokenizer = self.encoder.tokenizer

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, task: str | None = None, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (B, T) int64, of B texts, each after `prompt`. `task` is not used.

        Raises InputError for inputs that are not text.
        """
        if strange := [type(text).__name__ for text in inputs if not isinstance(text, str)]:
            raise InputError(f"SentenceModule reads texts, not {strange[0]}: give a list of str")
        room = max(0, min(self.max_seq_length, max_length or self.max_seq_length) - 2)
        values, lengths = self.tokenizer.encode_documents([(prompt or "") + text for text in inputs])
        kept = lengths.clip(max=room)  # (B,)
        width = int(kept.max(initial=0)) + 2
        input_ids = torch.full((len(inputs), width), self.encoder.config.pad_id)
        attention_mask = (torch.arange(width) < torch.from_numpy(kept)[:, None] + 2).long()
        for row, begin, count in zip(input_ids, (np.cumsum(lengths) - lengths).tolist(), kept.tolist()):
            ids = [self.tokenizer.cls_id, *values[begin : begin + count].tolist(), self.tokenizer.sep_id]
            row[: len(ids)] = torch.tensor(ids)
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """(B, T) tensors of `preprocess`, under its name in sentence-transformers before version 6."""
        return self.preprocess(texts)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """`features` of `preprocess`, with `token_embeddings`, (B, T, D), of the last layer."""
        output = self.encoder(features["input_ids"], features["attention_mask"])
        return features | {"token_embeddings": output.last_hidden_state}

    def get_embedding_dimension(self) -> int:
        """Width of a token's vector."""
        return self.encoder.config.hidden_size

    def get_word_embedding_dimension(self) -> int:
        """`get_embedding_dimension` under its name in sentence-transformers before version 6."""
        return self.get_embedding_dimension()

    def save(self, output_path: str | Path, safe_serialization: bool = True) -> None:
        """Write a model folder for `load` and `Encoder.load`. Always safetensors: nothing is pickled."""
        self.encoder.save(output_path)
        replace_text(Path(output_path) / CONFIG, json.dumps({"max_seq_length": self.max_seq_length}) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> "SentenceModule":
        """The module of a folder of `save`, or of any model folder. Raises InputError as `Encoder.load` does.

        With a single argument, by which sentence-transformers knows to pass a local folder.
        """
        file = Path(path) / CONFIG
        try:
            length = read_json(file)["max_seq_length"] if file.exists() else None
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise InputError(f"{file}: not readable ({error}): remove it to use the maximum of the model") from None
        if length is not None and not isinstance(length, int):
            raise InputError(f"{file}: max_seq_length is {length!r}: give a whole number")
        return cls(load(Encoder, path), length)
