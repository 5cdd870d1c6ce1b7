"""`bert evaluate`: looks at a folder's head and asks the wing that owns it."""

from collections.abc import Callable
from pathlib import Path

from bert.errors import InputError
from bert.finetuning.config import DataConfig
from bert.finetuning.measure import Evaluation, say_evaluation
from bert.finetuning.measure import evaluate as evaluate_task
from bert.hf.folder import task_of
from bert.model.heads import MaskedLM
from bert.pretraining.score import Score, score_masked


def evaluate(model: str | Path, file: str | None, data: DataConfig, say: Callable[[str], None] = print) -> Evaluation:
    """Measure the classifier or tagger in the folder `model` on labelled rows; `data` names their columns."""
    task = task_of(model)
    if task not in ("classify", "tag"):
        name = "a masked LM: give --masked FILE.npz" if task == "masked-lm" else "an encoder without a head"
        raise InputError(f"{model}: {name}, or make a classifier or tagger from it by `bert finetune`")
    if file is None:
        raise InputError(
            f"{model}: a {'classifier' if task == 'classify' else 'tagger'}: name a file with labelled rows"
        )
    evaluation = evaluate_task(model, file, data)
    say_evaluation(evaluation, say)
    return evaluation


def evaluate_masked(model: str | Path, masked: str | Path, say: Callable[[str], None] = print) -> Score:
    """Score the masked LM in the folder `model` on the masked sequences of `masked`."""
    score = score_masked(MaskedLM.load(model), masked)
    say(f"loss {score.loss:.4f}  accuracy {score.accuracy:.2%}  over {score.targets:,} targets")
    return score
