"""A student as an ONNX file, and whether ONNX Runtime says the same."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from kdnb.errors import InputError
from kdnb.files import atomic_path
from kdnb.students.student import Student

OPSET = 17


def export_student(student: Student, out: str | Path, int8: bool = False) -> Iterator[str]:
    """Write a student's ``deployed`` module; yields lines that say what the file takes and gives.

    Raises:
        InputError: onnx or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise InputError(f'{error.name} is not installed: pip install "kdnb[export]"') from None
    module, inputs, outputs = student.deployed()
    dynamic = {name: {0: "count"} for name, value in inputs.items() if value.ndim != 3}
    with atomic_path(Path(out)) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: shapes that stay as they are
        torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            str(part),
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes={**dynamic, **{name: {0: "count"} for name in outputs}},
            opset_version=OPSET,
            dynamo=False,
        )
        if int8:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            logging.disable(logging.WARNING)  # of tensors that are no weights
            quantize_dynamic(str(part), str(part), weight_type=QuantType.QUInt8)
            logging.disable(logging.NOTSET)
        onnx.checker.check_model(str(part))
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        told = [(one.name, one.type, one.shape) for one in (*session.get_inputs(), *session.get_outputs())]
    for name, kind, shape in told:
        yield f"{name}: {kind} {shape}"
    yield f"written: {out} ({Path(out).stat().st_size / 1e6:.2f} MB, opset {OPSET})"
