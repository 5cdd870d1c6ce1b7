"""Greedy and beam search: against transformers' `generate`, against a search of all targets, and by their definitions."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from bert.errors import InputError
from bert.inference.generation import GenerationConfig, generate
from bert.model.config import EncoderConfig, HeadConfig, Seq2SeqConfig
from bert.model.decoder import Seq2Seq
from tests.model.test_transformer_claims import lively

START, END, WORDS = 0, 1, 6
SHAPE = EncoderConfig(vocab_size=WORDS, hidden_size=16, num_layers=2, num_heads=2, intermediate_size=24, max_length=12)
SOURCE = torch.tensor([[2, 3, 4, 5], [5, 2, 2, 0], [3, 3, 0, 0]])
MASK = (SOURCE != 0).long()


def make_model(seed: int = 0) -> Seq2Seq:
    model = lively(Seq2Seq(SHAPE, Seq2SeqConfig(SHAPE, HeadConfig(transform=False), start_id=START, end_id=END)))
    torch.manual_seed(seed)
    with torch.no_grad():
        model.head.bias.normal_(0, 1.5)  # type: ignore[operator, union-attr]
        model.head.bias[END] -= 1  # type: ignore[operator, index, union-attr]
    return model.double()  # type: ignore[return-value]


def log_probability(model: Seq2Seq, source: torch.Tensor, mask: torch.Tensor, ids: list[int]) -> float:
    """Of a target, by one uncached forward pass."""
    labels = torch.tensor([ids])
    with torch.no_grad():
        log_p = model(source[None], mask[None], labels=labels).logits.log_softmax(-1)
    return log_p.gather(-1, labels[..., None]).sum().item()


def penalty(config: GenerationConfig, length: int) -> float:
    return (length if config.length_formula == "power" else (5 + length) / 6) ** config.length_penalty


@pytest.mark.parametrize("seed", range(4))
def test_one_beam_is_greedy(seed: int) -> None:
    model = make_model(seed)
    config = GenerationConfig(num_beams=1, max_length=10)
    for source, mask, (found,) in zip(SOURCE, MASK, generate(model, SOURCE, MASK, config)):
        ids = [START]
        while len(ids) < config.max_length and (len(ids) == 1 or ids[-1] != END):
            with torch.no_grad():
                logits = model(source[None], mask[None], decoder_input_ids=torch.tensor([ids])).logits
            ids.append(int(logits[0, -1].argmax()))
        assert found.ids == ids[1:]
        expected = log_probability(model, source, mask, found.ids) / len(found.ids)
        assert found.score == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("formula", ["power", "gnmt"])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.0])
def test_a_wide_beam_finds_the_best_of_all_targets(formula: str, alpha: float) -> None:
    """All 1,365 targets of up to 5 tokens of a vocabulary of 6, and all 30 of the search, in order."""
    model, most = make_model(), 6
    config = GenerationConfig(200, most, alpha, formula, "never", num_return=30)  # type: ignore[arg-type]
    found = generate(model, SOURCE[:1], MASK[:1], config)[0]
    inner = [word for word in range(WORDS) if word != END]
    every = {(*ids, END) for length in range(most - 1) for ids in product(inner, repeat=length)}
    every |= set(product(inner, repeat=most - 1))
    with torch.no_grad():
        scores = {}
        for length in range(1, most):
            some = [ids for ids in every if len(ids) == length]
            labels = torch.tensor(some)
            log_p = model(SOURCE[:1].expand(len(some), -1), labels=labels).logits.log_softmax(-1)
            sums = log_p.gather(-1, labels[..., None]).sum((1, 2)) / penalty(config, length)
            scores |= dict(zip(some, sums.tolist()))
    best = sorted(scores, key=lambda ids: -scores[ids])[:30]
    assert [tuple(one.ids) for one in found] == best
    assert [one.score for one in found] == pytest.approx([scores[ids] for ids in best], abs=1e-9)


@pytest.mark.parametrize("formula", ["power", "gnmt"])
def test_scores_are_log_probabilities_by_the_formula(formula: str) -> None:
    model = make_model(3)
    config = GenerationConfig(3, 8, 0.7, formula, num_return=3)  # type: ignore[arg-type]
    for source, mask, some in zip(SOURCE, MASK, generate(model, SOURCE, MASK, config)):
        for one in some:
            expected = log_probability(model, source, mask, one.ids) / penalty(config, len(one.ids))
            assert one.score == pytest.approx(expected, abs=1e-9)
        assert [one.score for one in some] == sorted((one.score for one in some), reverse=True)


def test_a_batch_gives_what_its_sources_give_alone_and_twice_the_same() -> None:
    model, config = make_model(2), GenerationConfig(4, 10, num_return=4)
    together = generate(model, SOURCE, MASK, config)
    assert together == generate(model, SOURCE, MASK, config)
    for source, mask, found in zip(SOURCE, MASK, together):
        (alone,) = generate(model, source[None, : mask.sum()], None, config)
        assert [one.ids for one in alone] == [one.ids for one in found]
        assert [one.score for one in alone] == pytest.approx([one.score for one in found], abs=1e-9)


def test_a_model_in_training_is_searched_without_dropout_and_trains_on() -> None:
    model = make_model().train()
    for part in model.modules():
        if hasattr(part, "dropout") and isinstance(part.dropout, float):
            part.dropout = 0.5
    config = GenerationConfig(2, 8)
    assert generate(model, SOURCE, MASK, config) == generate(model, SOURCE, MASK, config)
    assert model.training


@pytest.mark.hf
@pytest.mark.parametrize("kind", ["marian", "encoder-decoder"])
class TestBesideTransformers:
    """`generate` of transformers in float64 on the same random weights; its scores are in fp32."""

    @pytest.fixture
    def pair(self, kind, tmp_path):
        from tests.hf.test_seq2seq import make

        theirs = make(kind)
        theirs.save_pretrained(tmp_path)
        return theirs.double(), Seq2Seq.load(tmp_path).double()

    @staticmethod
    def compare(pair, config: GenerationConfig, **how) -> None:
        theirs, ours = pair
        source = torch.randint(5, 39, (3, 7), generator=torch.Generator().manual_seed(config.max_length))
        mask = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [1] * 6 + [0]])
        how |= {"num_beams": config.num_beams, "max_length": config.max_length, "do_sample": False}
        how |= {"return_dict_in_generate": True, "output_scores": True}
        if config.num_beams > 1:
            how |= {"length_penalty": config.length_penalty, "early_stopping": config.early_stopping}
            how |= {"num_return_sequences": config.num_return}
        expected = theirs.generate(input_ids=source, attention_mask=mask, **how)
        found = [one for some in generate(ours, source, mask, config) for one in some]
        end = ours.head_config.end_id
        sequences = [
            row[1 : row.index(end, 1) + 1] if end in row[1:] else row[1:] for row in expected.sequences.tolist()
        ]
        assert [one.ids for one in found] == sequences
        if config.num_beams > 1:
            assert [one.score for one in found] == pytest.approx(expected.sequences_scores.tolist(), rel=1e-5, abs=1e-5)

    @pytest.mark.parametrize("length", [6, 24])  # reached by most, and by few
    def test_greedy(self, pair, length) -> None:
        self.compare(pair, GenerationConfig(1, length))

    @pytest.mark.parametrize("length", [6, 24])
    @pytest.mark.parametrize("alpha", [0.0, 1.0, 2.0])
    @pytest.mark.parametrize("early", [True, False, "never"])
    def test_four_beams(self, pair, length, alpha, early) -> None:
        self.compare(pair, GenerationConfig(4, length, alpha, early_stopping=early, num_return=4))

    @pytest.mark.parametrize("beams", [1, 4])
    def test_forced_tokens_and_forbidden_words(self, pair, beams) -> None:
        end = pair[1].head_config.end_id
        bad = [[7], [8, 9], [10, 11, 12], [13], [14]]
        config = GenerationConfig(beams, 9, forced_start=6, forced_end=end, bad_words=bad)
        self.compare(pair, config, forced_bos_token_id=6, forced_eos_token_id=end, bad_words_ids=bad)

    def test_a_folder_says_how_its_targets_are_searched(self, pair, tmp_path) -> None:
        """As transformers reads it, from its own folder and from ours."""
        theirs, ours = pair
        how = {"num_beams": 3, "max_length": 11, "length_penalty": 0.5, "early_stopping": True}
        theirs.generation_config.update(**how, bad_words_ids=[[7], [8, 9]], forced_eos_token_id=4)
        theirs.save_pretrained(tmp_path / "theirs")
        ours = Seq2Seq.load(tmp_path / "theirs").double()
        assert ours.generation == GenerationConfig(**how, bad_words=[[7], [8, 9]], forced_end=4)
        ours.save(tmp_path / "ours")
        assert Seq2Seq.load(tmp_path / "ours").generation == ours.generation
        again = type(theirs).from_pretrained(tmp_path / "ours").double()
        ids = ours.head_config
        expected = [theirs.generate(SOURCE[:1] + 5), again.generate(SOURCE[:1] + 5)]
        assert torch.equal(*expected)
        assert expected[0][0].tolist() == [ids.start_id, *generate(ours, SOURCE[:1] + 5)[0][0].ids]


def test_forbidden_words_do_not_occur_and_forced_tokens_do() -> None:
    model = make_model(1)
    plain = generate(model, SOURCE, MASK, GenerationConfig(4, 8))
    word = plain[0][0].ids[:2]
    config = GenerationConfig(4, 8, bad_words=[word, [5]], forced_end=END)
    for (one,) in generate(model, SOURCE, MASK, config):
        assert word not in [one.ids[at : at + 2] for at in range(len(one.ids))]
        assert 5 not in one.ids
        assert one.ids[-1] == END


@pytest.mark.parametrize("words", [2, 3, 5])
def test_more_beams_than_there_are_targets_give_them_all(words: int) -> None:
    """Of up to two tokens: the end, or any other word and then any word."""
    shape = replace(SHAPE, vocab_size=words)
    model = lively(Seq2Seq(shape, Seq2SeqConfig(shape))).double()
    config = GenerationConfig(40, 3, 0.0, early_stopping="never", num_return=40)
    (found,) = generate(model, torch.tensor([[1, 0]]), config=config)  # type: ignore[arg-type]
    expected = {(1,)} | {(one, two) for one in range(words) if one != 1 for two in range(words)}
    assert {tuple(one.ids) for one in found} == expected
    assert len(found) == len(expected)


def test_a_damaged_model_is_named() -> None:
    model = make_model()
    model.decoder.layers[0].attention.out.weight.data.fill_(float("nan"))  # type: ignore[union-attr, operator]
    for beams in (1, 4):
        with pytest.raises(InputError, match="the scores of the model are not finite: its weights are damaged"):
            generate(model, SOURCE, MASK, GenerationConfig(beams, 6))


def test_no_target_is_found_where_every_word_is_forbidden_and_none_for_no_source() -> None:
    config = GenerationConfig(max_length=5, bad_words=[[word] for word in range(WORDS)])
    assert generate(make_model(), SOURCE, MASK, config) == [[], [], []]
    assert generate(make_model(), SOURCE[:0], MASK[:0], config) == []


@pytest.mark.gpu
def test_a_gpu_finds_what_a_cpu_finds() -> None:
    model, config = make_model(), GenerationConfig(4, 10, num_return=4)
    expected = generate(model, SOURCE, MASK, config)
    found = generate(model.to("cuda"), SOURCE.cuda(), MASK.cuda(), config)
    assert [[one.ids for one in some] for some in found] == [[one.ids for one in some] for some in expected]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "generation.num_beams is 0: give from 1 to 1000"),
        ({"max_length": 1}, "generation.max_length is 1: give 2 or more"),
        ({"max_length": 13}, "generation.max_length is 13; must be at most 12, of the decoder"),
        ({"length_penalty": 1e9}, "generation.length_penalty is 1000000000.0: give from -50 to 50"),
        ({"length_penalty": float("nan")}, "generation.length_penalty is nan: give from -50 to 50"),
        ({"num_return": 5}, "generation.num_return 5 is more than num_beams 4: give as many beams"),
        ({"early_stopping": "soon"}, "generation.early_stopping is 'soon': give one of true, false, never"),
        ({"length_formula": "linear"}, "generation.length_formula is linear: give one of power, gnmt."),
        ({"bad_words": [[]]}, "generation.bad_words has an empty sequence: leave it out"),
        ({"forced_start": 6}, "generation.forced_start is 6; must be an id of the vocabulary, below 6"),
        ({"bad_words": [[2, 6]]}, "generation.bad_words is 6; must be an id of the vocabulary, below 6"),
        ({"bad_words": [[2, -1]]}, "generation.bad_words is [[2, -1]]: give lists of ids of tokens"),
        ({"bad_words": "no"}, "generation.bad_words is 'no': give lists of ids of tokens"),
        ({"num_beams": True}, "generation.num_beams is True: give from 1 to 1000"),
        ({"early_stopping": 1}, "generation.early_stopping is 1: give one of true, false, never"),
    ],
)
def test_what_cannot_be_searched_is_refused(options, message) -> None:
    with pytest.raises(InputError) as caught:
        generate(make_model(), SOURCE, MASK, replace(GenerationConfig(max_length=8), **options))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([[2, WORDS]]), "input_ids are from 2 to 6; must be ids of the vocabulary, from 0 to 5"),
        (torch.tensor([[-1, 2]]), "input_ids are from -1 to 2; must be ids of the vocabulary, from 0 to 5"),
        (torch.tensor([[0.5, 2.0]]), "input_ids are torch.float32: give ids of tokens, as torch.int64"),
        (torch.tensor([1, 2]), "input_ids is (2,): give (sequences, tokens), one as ids[None]"),
    ],
)
def test_what_are_no_sources_is_refused(ids, message) -> None:
    with pytest.raises(InputError) as caught:
        generate(make_model(), ids)
    assert str(caught.value) == message
