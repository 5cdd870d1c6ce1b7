"""Our training step, as a run takes it, without Lightning's loop around it: forward, backward, clipping, learning rate, optimiser."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import torch

from bert.bench.documents import mean_visible
from bert.bench.rounds import Contender
from bert.model.attention import Backend
from bert.model.heads import MaskedLM
from bert.model.operations import training_operations
from bert.model.tuning import now
from bert.pretraining.config import PretrainRecipe
from bert.pretraining.module import MaskedLMTraining
from bert.pretraining.stream import BatchStream, MicroBatch, Split, StepLoader
from bert.training.compiling import compiles
from bert.training.config import StopConfig
from bert.training.optimizers import set_learning_rate
from bert.training.trainer import make_trainer

BACKENDS: tuple[str, ...] = get_args(Backend)


class OurSteps:
    """A fresh model and its optimiser by a recipe, on the device and in the precision of its trainer group."""

    def __init__(self, recipe: PretrainRecipe, split: Split, compiled: bool, backend: str | None = None) -> None:
        """`backend` takes the place of what the recipe says of attention."""
        trainer = make_trainer(recipe.trainer, [], [], [], split.accumulation, None)  # for device and precision alone
        self.split, self.device = split, trainer.strategy.root_device
        self.precision = str(trainer.precision)
        self.dtype = torch.float32 if self.precision.startswith("32") else torch.bfloat16
        """that of the matrix rate which the step is held against"""
        self._context = trainer.precision_plugin.forward_context
        if compiled:
            compiles(True, self.device, None, None)  # InputError where there is no compiler
        torch.manual_seed(recipe.seed)
        model = MaskedLM(recipe.encoder, recipe.head)
        model.encoder.backend, model.encoder.local_backend = recipe.attention, recipe.local_attention
        if backend is not None:
            model.encoder.backend, model.encoder.local_backend = backend, None  # type: ignore[assignment]
        stop = StopConfig(steps=1)  # the rate is set here: nothing asks for it
        self.module = MaskedLMTraining(
            model, recipe.optimizer, recipe.schedule, stop, split, recipe.seed, compiled=compiled
        )
        self.module.to(self.device).train()
        self.optimizer = self.module.configure_optimizers()

    def forward(self, batch: MicroBatch) -> torch.Tensor:
        """The share of a micro-batch in the loss of its step."""
        with self._context():
            return self.module.sum_losses(batch) / max(1, batch["global_targets"])

    def update(self) -> None:
        """What follows the last backward pass of a step."""
        self.module.configure_gradient_clipping(self.optimizer)
        set_learning_rate(self.optimizer, 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def step(self, batches: Sequence[MicroBatch]) -> None:
        """One optimiser step."""
        for batch in batches:
            self.forward(batch).backward()
        self.update()

    def contender(self, steps: Sequence[Sequence[MicroBatch]]) -> Contender:
        """These steps over batches that lie ready on the device."""
        ready = [[on(self.device, batch) for batch in batches] for batches in steps]
        return Contender(
            lambda number: self.step(ready[number]),
            [batches[0]["global_tokens"] for batches in steps],
            [sum(batch["input_ids"].numel() for batch in batches) for batches in steps],
            self.device,
        )


def steps_of(stream: BatchStream, split: Split, first: int, count: int) -> list[list[MicroBatch]]:
    """The micro-batches of steps first … first + count − 1."""
    return [
        [stream.micro_batch(step, split, micro=micro) for micro in range(split.accumulation)]
        for step in range(first, first + count)
    ]


def on(device: torch.device, batch: MicroBatch) -> MicroBatch:
    """The batch with its tensors on a device."""
    moved = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    return MicroBatch(**moved)  # type: ignore[typeddict-item]


def operations_per_token(recipe: PretrainRecipe, steps: Sequence[Sequence[MicroBatch]]) -> float:
    """Floating-point operations of training for each real token of these steps, by `training_operations`: the keys that
    tokens see and the masked places are counted in the batches; padding, slots not in use and hidden keys are not work."""
    documents = torch.cat([batch["document_ids"] for batches in steps for batch in batches]).cpu().numpy()
    tokens = float((documents > 0).sum())
    targets = float(sum(batches[0]["global_targets"] for batches in steps))
    config = recipe.encoder
    seen, seen_locally = mean_visible(documents), mean_visible(documents, config.local_window)
    return training_operations(config, recipe.head, tokens, targets, seen, seen_locally) / tokens


@dataclass(frozen=True)
class TimeSplit:
    """Seconds of a step by part, the device waited for after each."""

    data: float
    forward: float
    backward: float
    optimizer: float


def split_time(ours: OurSteps, stream: BatchStream, split: Split, steps: int) -> TimeSplit:
    """Mean time of the parts of a step over `steps` steps, the batches made as a run makes them."""
    parts = {"data": 0.0, "forward": 0.0, "backward": 0.0, "optimizer": 0.0}
    micro = 0
    begun = now(ours.device)

    def took(part: str) -> None:
        nonlocal begun
        ended = now(ours.device)
        if micro >= split.accumulation:  # the first step warms up
            parts[part] += ended - begun
        begun = ended

    for batch in StepLoader(stream, split, steps=steps + 1):
        batch = on(ours.device, batch)
        took("data")
        loss = ours.forward(batch)
        took("forward")
        loss.backward()
        took("backward")
        if (micro + 1) % split.accumulation == 0:
            ours.update()
            took("optimizer")
        micro += 1
    return TimeSplit(**{part: seconds / steps for part, seconds in parts.items()})
