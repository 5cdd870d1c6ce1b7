"""ONNX: a model as one file that onnxruntime runs in any language, without PyTorch and without this package.

Inputs, output and dynamic sizes are those of `program`. Attention is exported in plain operations, which mask with a large
number instead of infinity, so that no runtime returns NaN for sequences of padding. int8 is dynamic quantization of
onnxruntime: weights of matrices and embeddings as int8, activations quantized at run time.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bert.errors import InputError
from bert.hf.program import dynamic_shapes, input_names, output_name, quiet, trace
from bert.model.encoder import Encoder, EncoderOutput
from bert.model.heads import HeadedModel, HeadOutput

PACKAGES = ("onnx", "onnxruntime", "onnxscript")


def check_packages() -> None:
    """Raises InputError if the packages that write and run ONNX files are not installed."""
    if absent := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise InputError(f"ONNX needs {' and '.join(absent)}, which is not installed: pip install 'bert[onnx]'")


def write_onnx(model: Encoder | HeadedModel, file: Path) -> int:
    """Write a model with its weights as ONNX, and return the opset. Beyond 2 GB, the limit of ONNX files, the weights are
    written to `<file>.data`."""
    program = trace(model, "eager")
    names = input_names(model.config)
    with quiet():
        exported = torch.onnx.export(
            program,
            input_names=names,
            output_names=[output_name(model)],
            dynamic_shapes=dynamic_shapes(model.config),  # the names of the axes
            verbose=False,
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
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()  # as PyTorch
        # otherwise int8 sums overflow on CPUs without VNNI
        options.add_session_config_entry("session.x64quantprecision", "1")
        self.session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.output = output_name(model)

    def run(self, *inputs: Tensor) -> Tensor:
        """The output for inputs in the order of `input_names`."""
        names = input_names(self.config)
        (output,) = self.session.run([self.output], {name: one.numpy() for name, one in zip(names, inputs)})
        return torch.from_numpy(output)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> EncoderOutput | HeadOutput:
        """Like `Encoder` and the models with heads, without labels."""
        inputs: Sequence[Tensor] = (
            input_ids,
            torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        )
        output = self.run(*inputs[: len(input_names(self.config))])
        return EncoderOutput(output) if self.output == "last_hidden_state" else HeadOutput(output)
