"""The compiled step: one graph without a break, as many graphs as phases and modes, the same numbers."""

import functools

import pytest
import torch
from torch._dynamo.utils import counters

from bert.model import backends
from bert.model.attention import AttentionOptions
from bert.model.config import EncoderConfig
from bert.model.heads import MaskedLM
from bert.pretraining.config import DataConfig, PhaseConfig, PretrainRecipe
from bert.pretraining.module import PretrainingModule
from bert.pretraining.objectives.masked_lm import MaskedLanguageModeling
from bert.pretraining.phases import Plan
from bert.training.config import OptimizerConfig, ScheduleConfig, StopConfig
from bert.training.step import StepBatch

from .synthetic import ENCODER, SEQUENCES, fit, make_stream, phased

SHAPES = {
    "modern": {},
    "local": {"num_layers": 3, "local_window": 6, "global_every": 2},
    "bert": {"norm_first": False, "final_norm": False, "positions": "learned", "gated": False, "bias": True},
    "dropout": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    "own": {"norm": "rmsnorm", "qk_norm": True, "num_kv_heads": 2},
}


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile with everything but the code generator, which takes most of its time."""
    torch._dynamo.reset()
    counters.clear()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))


def train(name: str, compiled: bool, steps: int = 6, accumulation: int = 1) -> PretrainingModule:
    torch.manual_seed(0)
    module = module_of(MaskedLM(EncoderConfig(**{**ENCODER.__dict__, **SHAPES[name]})), compiled, steps)
    stream = make_stream(micro_batch_size=SEQUENCES // accumulation)
    fit(module, stream, precision="bf16-mixed" if name == "own" else "32-true")
    return module


def module_of(model: MaskedLM, compiled: bool, steps: int, plan: Plan | None = None) -> PretrainingModule:
    configs = OptimizerConfig(), ScheduleConfig(), StopConfig(steps=steps)
    return PretrainingModule(model, MaskedLanguageModeling(compiled), *configs, seed=5, plan=plan)


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "name", ["modern", *(pytest.param(n, marks=pytest.mark.slow) for n in SHAPES if n != "modern")]
)
def test_one_graph_serves_every_step_and_has_no_break(name: str) -> None:
    """Rows differ in documents, padding and masked positions in use: nothing of it is in the shapes."""
    train(name, compiled=True, steps=2)
    assert graphs() == 1
    train(name, compiled=True, steps=8, accumulation=2)  # half the sequences: another shape, one graph more
    assert graphs() == 2
    assert not counters["graph_break"]


def densely(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size, enable_gqa=False):
    """What varlen_attn computes, over all tokens at once with a mask: it can be traced on a CPU."""
    place = torch.arange(len(q))
    of = (place[:, None] >= cu_seq_q[1:]).sum(1)  # which document a token is in
    ahead = place - place[:, None]
    seen = of[:, None] == of
    if window_size[0] >= 0:
        seen = seen & (ahead >= -window_size[0]) & (ahead <= window_size[1])
    scores = torch.einsum("ihd,jhd->hij", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("hij,jhd->ihd", scores.masked_fill(~seen, -torch.inf).softmax(-1), v)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("backend", ["eager", "plain", "sdpa", "varlen"])
def test_every_backend_is_one_graph_for_every_batch_and_learns_the_same(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documents of a batch, their number and their lengths are nowhere in the shapes."""
    monkeypatch.setattr(backends, "_varlen", backends._Varlen(densely, windows=True, groups=False))
    monkeypatch.setattr(backends, "missing", lambda *_: "")
    stream, losses = make_stream(), {}
    for name in (backend, "auto"):
        torch.manual_seed(0)
        model = MaskedLM(EncoderConfig(**{**ENCODER.__dict__, **SHAPES["local"]}))
        module = module_of(model, compiled=name != "auto", steps=5)
        masked = "auto" if name == "varlen" else None
        model.encoder.attention = AttentionOptions(name, masked_backend=masked)  # type: ignore[arg-type]
        module.model.encoder.make_room(stream.micro_batch(0)["documents"])
        optimizer = module.configure_optimizers()
        losses[name] = []
        for step in range(5):
            loss = module.loss_terms(stream.micro_batch(step)).sums["loss"]
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(float(loss))
    assert graphs() == 1
    assert not counters["graph_break"]
    assert losses[backend] == pytest.approx(losses["auto"], rel=1e-3)


@pytest.mark.usefixtures("traced")
def test_validation_has_a_graph_of_its_own_and_keeps_it() -> None:
    module = train("modern", compiled=True, steps=2)
    seen = []
    for step in range(4):
        batch = make_stream().micro_batch(step)
        module.train()
        module.loss_terms(batch)
        module.eval()
        with torch.no_grad():
            module.validation_step(StepBatch([batch], {}, 0), 0)
        seen.append(graphs())
    assert seen == [2, 2, 2, 2]


@pytest.mark.usefixtures("traced")
def test_each_phase_has_its_graphs_and_no_step_inside_one_makes_another() -> None:
    """Sequence length and rotary base, which a graph holds, change with a phase; mask rate makes another shape; the batch size does not
    where
    the micro-batches stay."""
    phases = [
        PhaseConfig(tokens=500.0, sequence_length=16),
        PhaseConfig(tokens=500.0, sequence_length=16, batch_size=8),
        PhaseConfig(tokens=500.0, sequence_length=24),
        PhaseConfig(tokens=500.0, sequence_length=24, mask_rate=0.4),
        PhaseConfig(sequence_length=24, mask_rate=0.4, rope_theta=500.0),
    ]
    recipe = PretrainRecipe(data=DataConfig(batch_size=4, micro_batch_size=4), encoder=ENCODER, phases=phases)
    stream = phased(recipe)
    firsts = [phase.first_step for phase in stream.plan.phases]
    module = module_of(MaskedLM(ENCODER), compiled=True, steps=firsts[-1] + 4, plan=stream.plan)
    made = dict[int, int]()
    real = module.training_step

    def step(batch: StepBatch, batch_idx: int) -> None:
        real(batch, batch_idx)
        made[int(module.progress.step) - 1] = graphs()

    module.training_step = step  # type: ignore[method-assign]
    fit(module, stream)
    for first, end, wanted in zip(firsts, (*firsts[1:], firsts[-1] + 4), (1, 1, 2, 3, 4)):
        assert {made[number] for number in range(first, end)} == {wanted}, first
    assert not counters["graph_break"]


@pytest.mark.usefixtures("traced")
@pytest.mark.slow
def test_many_phases_are_not_taken_for_a_mistake() -> None:
    """PyTorch gives up at 8 graphs of one function unless told."""
    phases = [PhaseConfig(tokens=1.0, sequence_length=8 + number) for number in range(12)]
    recipe = PretrainRecipe(
        data=DataConfig(batch_size=4), encoder=ENCODER, phases=[*phases, PhaseConfig(sequence_length=24)]
    )
    stream = phased(recipe)
    fit(module_of(MaskedLM(ENCODER), compiled=True, steps=14, plan=stream.plan), stream)
    assert graphs() == 13


@pytest.mark.usefixtures("traced")
def test_a_compiled_run_learns_what_another_learns_and_saves_the_same_names() -> None:
    plain, compiled = train("modern", compiled=False), train("modern", compiled=True)
    assert list(plain.state_dict()) == list(compiled.state_dict())
    for name, weight in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[name], weight, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["modern", "bert"])
def test_the_generated_code_computes_the_same_step(name: str) -> None:
    torch._dynamo.reset()
    plain, compiled = train(name, compiled=False), train(name, compiled=True)
    for weight_name, weight in plain.state_dict().items():
        torch.testing.assert_close(compiled.state_dict()[weight_name], weight, atol=5e-5, rtol=1e-3)
