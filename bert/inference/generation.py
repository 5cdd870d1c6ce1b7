"""Targets of sequence-to-sequence models, token by token: greedy and by beam search, in batches, with a cache.

    source → encoder → (B, S, D); start token → decoder → log-probabilities of the next token → the best k of all continuations → …

The search is that of transformers (`generate`), to the same targets and scores, but that the end may be forbidden, and that copies of a
beam, where there are fewer targets than beams, never count as ended. With one beam it is greedy. It is deterministic. Length
penalties: as in transformers, and Wu et al. 2016, "Google's Neural Machine Translation System", equation 14.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from bert.errors import InputError
from bert.model.config import EncoderConfig, GenerationConfig
from bert.model.decoder import Seq2Seq, rows_at
from bert.model.encoder import evaluating

_NONE = float("-inf")


@dataclass(frozen=True)
class Hypothesis:
    """A target that was found."""

    ids: list[int]
    """its tokens after the start, the end included if it was reached"""
    score: float
    """its log-probability, divided by the length penalty"""


@torch.inference_mode()
def generate(
    model: Seq2Seq,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    config: GenerationConfig | None = None,
) -> list[list[Hypothesis]]:
    """The targets of sources (B, S) with their mask, for each source the best first, `config.num_return` or as many as have ended.

    `config`: by default that of the model. Raises InputError as `Encoder.forward` does, for ids that are not in the vocabulary, if the
    decoder takes fewer than `config.max_length` tokens, and for scores that are not finite.
    """
    config = config or model.generation
    head, beams, most = model.head_config, config.num_beams, config.max_length
    _check(config, head.decoder)
    _check_ids(input_ids, model.config.vocab_size)
    with evaluating(model):
        memory = model.encoder(input_ids, attention_mask).last_hidden_state
        cache = model.decoder.cache(memory, attention_mask, most, beams)
        sources, device = len(input_ids), input_ids.device
        running = torch.full((sources, beams, most), head.decoder.pad_id, device=device)  # (B, k, T)
        running[:, :, 0] = head.start_id
        exact = torch.promote_types(memory.dtype, torch.float32)
        scores = torch.zeros(sources, beams, dtype=exact, device=device)  # log-probabilities
        scores[:, 1:] = _NONE  # they are copies of the first
        ended, ended_scores = running, torch.full_like(scores, _NONE)  # the best with an end, sorted
        can_improve = torch.ones(sources, 1, dtype=torch.bool, device=device)
        early = config.early_stopping is True or beams == 1

        for length in range(1, most):  # tokens so far, the start included
            hidden, *_ = model.decoder(running[:, :, length - 1], model.decoder_embeddings, cache)  # (B, k, D)
            log_p = model.scores(hidden).to(exact).log_softmax(-1)  # (B, k, V)
            _constrain(log_p, running[:, :, :length], config)
            # Of 2 k candidates at most k have an end, so that k remain to be continued.
            top, index = (scores[:, :, None] + log_p).flatten(1).topk(min(2 * beams, beams * log_p.shape[-1]))
            origin, token = index // log_p.shape[-1], index % log_p.shape[-1]  # (B, 2 k)
            candidates = rows_at(running, origin)
            candidates[:, :, length] = token
            at_end = (token == head.end_id) | (length + 1 == most)

            # Targets with an end compete with those before; only the best k candidates do.
            is_open = can_improve if not early else can_improve & (ended_scores == _NONE).any(1, keepdim=True)
            new = top / _penalty(length, config)
            new = new.masked_fill(~(at_end & is_open), _NONE)
            new[:, beams:] = _NONE
            ended_scores, best = torch.cat((ended_scores, new), dim=1).topk(beams)
            ended = rows_at(torch.cat((ended, candidates), dim=1), best)

            scores, kept = top.masked_fill(at_end, _NONE).topk(beams)
            running = rows_at(candidates, kept)
            furthest = most - 1 if config.early_stopping == "never" and config.length_penalty > 0 else length
            can_improve &= scores[:, :1] / _penalty(furthest, config) > ended_scores[:, -1:]
            if early:
                can_improve &= (ended_scores == _NONE).any(1, keepdim=True)
            if length + 1 == most or not can_improve.any():
                break
            cache.select(origin.gather(1, kept))
    if ended_scores.isnan().any() or scores.isnan().any():
        raise InputError("the scores of the model are not finite: its weights are damaged")
    return [
        [Hypothesis(_until(ids, head.end_id), score) for ids, score in zip(*of_source) if score != _NONE]
        for of_source in zip(ended[:, : config.num_return, 1:].tolist(), ended_scores.tolist())
    ]


def _check(config: GenerationConfig, decoder: EncoderConfig) -> None:
    """Raises InputError for what the decoder cannot have: longer targets, other tokens."""
    if config.max_length > decoder.max_length:
        raise InputError(
            f"generation.max_length is {config.max_length}; must be at most {decoder.max_length}, of the decoder"
        )
    given = {"forced_start": [config.forced_start], "forced_end": [config.forced_end]}
    given["bad_words"] = [token for word in config.bad_words for token in word]
    for name, tokens in given.items():
        if wrong := [token for token in tokens if token is not None and not 0 <= token < decoder.vocab_size]:
            inside = f"an id of the vocabulary, below {decoder.vocab_size}"
            raise InputError(f"generation.{name} is {wrong[0]}; must be {inside}")


def _check_ids(input_ids: Tensor, vocab_size: int) -> None:
    """Raises InputError for what are not ids of the encoder's vocabulary."""
    if input_ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"input_ids are {input_ids.dtype}: give ids of tokens, as torch.int64")
    low, high = map(int, input_ids.aminmax()) if input_ids.numel() else (0, 0)
    if not 0 <= low <= high < vocab_size:
        inside = f"ids of the vocabulary, from 0 to {vocab_size - 1}"
        raise InputError(f"input_ids are from {low} to {high}; must be {inside}")


def _penalty(length: int, config: GenerationConfig) -> float:
    """By what the log-probability of a target of `length` tokens after the start is divided."""
    base = length if config.length_formula == "power" else (5 + length) / 6
    return float(base**config.length_penalty)


def _constrain(log_p: Tensor, before: Tensor, config: GenerationConfig) -> None:
    """Set the log-probabilities (B, k, V) of what may not follow the tokens (B, k, T) to -inf, and those of what must to 0."""
    length = before.shape[-1]
    for *prefix, last in config.bad_words:
        if len(prefix) <= length:
            here = (before[..., length - len(prefix) :] == before.new_tensor(prefix)).all(-1)  # (B, k)
            log_p[..., last].masked_fill_(here, _NONE)
    for at, token in ((1, config.forced_start), (config.max_length - 1, config.forced_end)):
        if token is not None and length == at:
            log_p.fill_(_NONE)
            log_p[..., token] = 0.0


def _until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end) + 1] if end in ids else ids
