"""A model as one function of plain tensors, for any batch and length, that can be exported from Python.

    input_ids, attention_mask[, token_type_ids], int64 (B, T) → last_hidden_state (B, T, D), or logits: (B, T, V) of a
    masked LM, (B, C) of a classifier, (B, T, C) of a tagger

`trace` makes it, as a `torch.export` program, from the plain padded forward pass. `write_torch` and `write_onnx` write it to one
file that runs without this package, the latter in any language, with onnxruntime. In ONNX, attention is in plain operations,
which mask with a large number instead of infinity, so that no runtime returns NaN for sequences of padding. int8 is dynamic
quantization of onnxruntime: weights of matrices and embeddings as int8, activations quantized at run time. `compare` compares
an exported function with the model.
"""

import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from bert.errors import InputError, option
from bert.model.attention import AttentionOptions
from bert.model.config import Backend
from bert.model.encoder import Encoder, EncoderOutput
from bert.model.heads import HeadedModel, HeadOutput

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4
"""largest allowed difference between an exported model and the model in fp32"""
LONGEST = 1024
"""tokens of the longest sequence of `compare`: plain attention needs memory quadratic in it"""

Function = Callable[..., Tensor]
"""tensors in the order of `input_names` → the output"""


@dataclass(frozen=True)
class Difference:
    """The difference of two models on inputs of one shape."""

    rows: int
    length: int
    largest: float
    """over all outputs; NaN if one of them is"""
    outputs: float
    """largest absolute output of the first model"""


def input_names(model: "Encoder | HeadedModel | OnnxModel") -> list[str]:
    """The inputs of the function, in order; no token types if they make no difference, as in RoBERTa."""
    has_types = model.config.token_types > 1 or getattr(model, "pooling", None) == "siamese"
    return ["input_ids", "attention_mask", *(["token_type_ids"] if has_types else [])]


def output_name(model: Encoder | HeadedModel) -> str:
    """The name of the output of the function."""
    return "last_hidden_state" if isinstance(model, Encoder) else "logits"


def dynamic_shapes(model: Encoder | HeadedModel) -> tuple[dict[int, Dim], ...]:
    """Names and limits of the axes of each input: batches of any size, at most `max_length` tokens."""
    axes = {0: Dim("batch"), 1: Dim("length", max=model.config.max_length)}
    return (axes,) * len(input_names(model))


def trace(model: Encoder | HeadedModel, backend: Backend) -> ExportedProgram:
    """The program of a model in eval mode on the CPU; it shares the weights. `backend` computes attention.

    Raises InputError for a model of sequences of one token.
    """
    if model.config.max_length < 2:
        raise InputError("encoder.max_length is 1: a program with a length needs a model that takes 2 tokens or more")
    encoder = model if isinstance(model, Encoder) else model.encoder
    before, encoder.attention = encoder.attention, AttentionOptions(backend)
    # sizes 0 and 1 in the example would be constants of the graph
    inputs = _inputs(model, 2, min(7, model.config.max_length))
    try:
        with torch.no_grad(), quiet():
            return torch.export.export(_Plain(model).eval(), inputs, dynamic_shapes=dynamic_shapes(model))
    finally:
        encoder.attention = before


class _Plain(nn.Module):
    """A model with tensors as arguments and a tensor as result."""

    def __init__(self, model: Encoder | HeadedModel) -> None:
        super().__init__()
        self.model = model
        self.output = output_name(model)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        return getattr(self.model(input_ids, attention_mask, token_type_ids), self.output)


def write_torch(model: Encoder | HeadedModel, file: Path) -> None:
    """Write the program of a model with its weights: `torch.export.load(file).module()` is the function."""
    program, buffer = trace(model, "sdpa"), io.BytesIO()
    with quiet():
        torch.export.save(program, buffer)
    file.write_bytes(buffer.getbuffer())  # on a full disk PyTorch's own writer aborts the process


def open_torch(file: Path) -> Function:
    """The function in a file of `write_torch`."""
    with quiet():
        return torch.export.load(file).module()


def check_packages() -> None:
    """Raises InputError if the packages that write and run ONNX files are not installed."""
    if absent := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"ONNX needs {' and '.join(absent)}, which is not installed: pip install 'bert-kit[onnx]'")


def write_onnx(model: Encoder | HeadedModel, file: Path) -> int:
    """Write a model with its weights as ONNX, and return the opset. Beyond 2 GB, the limit of ONNX files, the weights are
    written to `<file>.data`."""
    program, inputs, outputs = trace(model, "eager"), input_names(model), [output_name(model)]
    shapes = dynamic_shapes(model)  # the names of the axes
    with quiet():
        exported = torch.onnx.export(
            program, input_names=inputs, output_names=outputs, dynamic_shapes=shapes, verbose=False
        )
        assert exported is not None
        exported.save(file, external_data=False)
    return exported.model.opset_imports[""]


def quantize(file: Path, out: Path) -> None:
    """Write the ONNX model of `file` with int8 weights, with one scale per output channel, to `out`."""
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    large = Path(f"{file}.data").exists()
    prepared = out.with_name(f"prepared-{out.name}")
    data = {"all_tensors_to_one_file": True, "external_data_location": f"{prepared.name}.data"} if large else {}
    with quiet():
        quant_pre_process(file, prepared, save_as_external_data=large, **data)
        quantize_dynamic(prepared, out, per_channel=True, weight_type=QuantType.QInt8, use_external_data_format=large)
    for used in (prepared, Path(f"{prepared}.data")):
        used.unlink(missing_ok=True)


class OnnxModel(nn.Module):
    """An ONNX file with the interface of the model that it was exported from, on the CPU."""

    def __init__(self, file: str | Path, model: Encoder | HeadedModel) -> None:
        """`model` provides config, tokenizer and labels; its weights are not used."""
        import onnxruntime

        super().__init__()
        self.config, self.tokenizer = model.config, model.tokenizer
        self.labels: tuple[str, ...] = getattr(model, "labels", ())
        self.pooling = getattr(model, "pooling", None)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as PyTorch
        # otherwise int8 sums overflow on CPUs without VNNI
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.output = output_name(model)

    def run(self, *inputs: Tensor) -> Tensor:
        """The output for inputs in the order of `input_names`."""
        names = input_names(self)
        (output,) = self.session.run([self.output], {name: one.numpy() for name, one in zip(names, inputs)})
        return torch.from_numpy(output)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> EncoderOutput | HeadOutput:
        """Like `Encoder` and the models with heads, without labels."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        types = torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids
        output = self.run(*(input_ids, mask, types)[: len(input_names(self))])
        return EncoderOutput(output) if self.output == "last_hidden_state" else HeadOutput(output)


@torch.no_grad()
def compare(model: Encoder | HeadedModel, other: Function, seed: int = 0) -> list[Difference]:
    """Run the model and `other` on random tokens of five shapes: one token, one sequence of full length (at most 1,024 tokens),
    odd sizes, sequences that end in padding, one of padding only."""
    longest = min(model.config.max_length, LONGEST)
    found = []
    for rows, length in ((1, 1), (1, longest), (2, 2), (3, min(13, longest)), (5, (longest + 1) // 2)):
        inputs = _inputs(model, rows, length, seed)
        right = _Plain(model)(*inputs)
        largest = float((other(*inputs) - right).abs().max())  # NaN if either has one
        found.append(Difference(rows, length, largest, float(right.abs().max())))
    return found


def check(differences: Sequence[Difference], what: str) -> float:
    """The largest of the differences. Raises InputError if it is above `TOLERANCE`, or NaN."""
    wrong = next((one for one in differences if not one.largest <= TOLERANCE), None)
    if wrong is not None:
        by = f"{wrong.largest:.1e}, more than {TOLERANCE:g}, on {wrong.rows} sequences of {wrong.length} tokens"
        what += f" differs from the model by {by} (outputs up to {wrong.outputs:.1f})"
        fix = f"nothing was written; omit {option('verify')} to write it anyway"
        raise InputError(f"{option('verify')}: {what}: {fix}")
    return max(one.largest for one in differences)


def _inputs(model: Encoder | HeadedModel, rows: int, length: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Random tokens. Every second sequence ends in padding; the fifth is only padding."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::2, (length + 1) // 2 :] = 0
    mask[4:] = 0
    if "token_type_ids" not in input_names(model):
        return ids, mask
    return ids, mask, torch.randint(0, max(2, model.config.token_types), ids.shape, generator=generator)


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and log lines below errors: exporters report much about their own code."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
