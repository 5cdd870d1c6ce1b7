"""Any model of ours as the first module of a sentence-transformers model: texts → vectors of their tokens.

Where Hugging Face has the architecture, `SentenceTransformer(folder)` opens a model folder by itself, with mean pooling;
this is for the other architectures, and for a model that is in memory. No class of sentence-transformers is inherited:
what it asks of a module is methods with these names, and so none of it is imported here.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bert.errors import InputError
from bert.files import replaced
from bert.hf.folder import load
from bert.model.encoder import Encoder
from bert.model.heads import HeadedModel
from bert.untrusted import read_json

CONFIG = "sentence_module.json"


class SentenceModule(nn.Module):
    """The encoder of a model behind its tokenizer, for `SentenceTransformer(modules=[SentenceModule(model), Pooling(…)])`.

    Texts are cut at `max_seq_length` tokens, special ones included, as sentence-transformers does. What looks like a
    special token in a text is text. Written for sentence-transformers 5.1 and later.

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
        """`max_seq_length`: from 3 to what the model takes, which it is where not given.

        Raises InputError for another length, and for a model without a tokenizer.
        """
        super().__init__()
        self.encoder = model if isinstance(model, Encoder) else model.encoder
        longest = self.encoder.config.max_length
        self.max_seq_length = longest if max_seq_length is None else max_seq_length
        if not 3 <= self.max_seq_length <= longest:
            raise InputError(f"max_seq_length is {max_seq_length}: give 3 to {longest}, the longest row of the model")
        if self.encoder.tokenizer is None:
            raise InputError("this model has no tokenizer: load it from a folder that has one, or set model.tokenizer")
        self.tokenizer = self.encoder.tokenizer

    def preprocess(
        self, inputs: Sequence[str], prompt: str | None = None, task: str | None = None, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask`, (B, T) int64, of B texts, each led in by `prompt`. `task` is not used.

        Raises InputError for what is no text.
        """
        if strange := [type(text).__name__ for text in inputs if not isinstance(text, str)]:
            raise InputError(f"SentenceModule reads texts, not {strange[0]}: give a list of str")
        room = min(self.max_seq_length, max_length or self.max_seq_length) - 2
        values, lengths = self.tokenizer.encode_documents([(prompt or "") + text for text in inputs])
        kept = lengths.clip(max=max(0, room))  # (B,)
        width = int(kept.max(initial=0)) + 2
        input_ids = torch.full((len(inputs), width), self.encoder.config.pad_id)
        attention_mask = (torch.arange(width) < torch.from_numpy(kept)[:, None] + 2).long()
        begin = 0
        for row, (length, count) in enumerate(zip(lengths.tolist(), kept.tolist())):
            pieces = values[begin : begin + count].tolist()
            input_ids[row, : count + 2] = torch.tensor([self.tokenizer.cls_id, *pieces, self.tokenizer.sep_id])
            begin += length
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """(B, T) tensors as `preprocess` gives them: what sentence-transformers before version 6 calls instead of it."""
        return self.preprocess(texts)

    def forward(self, features: dict[str, Any]) -> dict[str, Any]:
        """`features`, as `preprocess` gives them, with `token_embeddings`, (B, T, D), of the last layer."""
        output = self.encoder(features["input_ids"], features["attention_mask"])
        return features | {"token_embeddings": output.last_hidden_state}

    def get_embedding_dimension(self) -> int:
        """Width of a token's vector."""
        return self.encoder.config.hidden_size

    def get_word_embedding_dimension(self) -> int:
        """What sentence-transformers before version 6 calls instead of `get_embedding_dimension`."""
        return self.get_embedding_dimension()

    def save(self, output_path: str | Path, safe_serialization: bool = True) -> None:
        """Write a model folder that `load`, and `Encoder.load`, open. Always safetensors: nothing is pickled."""
        self.encoder.save(output_path)
        with replaced(Path(output_path) / CONFIG) as file:
            file.write_text(json.dumps({"max_seq_length": self.max_seq_length}) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "SentenceModule":
        """The module of a folder that `save` wrote, or of any model folder. Raises InputError as `Encoder.load` does.

        One argument, no more: by that sentence-transformers knows to pass a local folder.
        """
        file = Path(path) / CONFIG
        try:
            length = read_json(file)["max_seq_length"] if file.exists() else None
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            fix = "remove it, and texts are cut where the model ends"
            raise InputError(f"{file}: not readable ({error}): {fix}") from None
        if length is not None and not isinstance(length, int):
            raise InputError(f"{file}: max_seq_length is {length!r}: give a whole number")
        return cls(load(Encoder, path), length)
