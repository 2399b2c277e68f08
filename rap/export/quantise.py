"""8-bit weights and activations for an ONNX file (ONNX Runtime's static quantisation, QDQ)."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from torch import Tensor

from rap.export.details import INPUT, need
from rap.export.seal import BLANK, seal
from rap.log import replacing

_HEADS = ("head_hidden", "head_out")
"""Stay fp32: a step of 8 bits over a room is centimetres."""
_QUANTISED = ("Conv", "MatMul", "Gemm")


def quantise(full: Path, path: Path, photographs: UInt8[Tensor, "n 3 h w"]) -> None:
    """Write the int8 twin of a float file, its ranges seen on photographs.

    Weights per channel. The metadata is the float file's.
    """
    onnx = need("onnx", "int8 calibration")
    quantization = need("onnxruntime.quantization", "int8 calibration")
    model = onnx.load(str(full))
    heads = [
        node.name
        for node in model.graph.node
        if any(head in name for head in _HEADS for name in node.input)
    ]
    with replacing(path) as temporary, _quiet():
        quantization.quantize_static(
            str(full), str(temporary), _reader(quantization, photographs),
            quant_format=quantization.QuantFormat.QDQ, per_channel=True,
            op_types_to_quantize=list(_QUANTISED), nodes_to_exclude=heads,
        )  # fmt: skip
        quantised = onnx.load(str(temporary))
        strings = {entry.key: entry.value for entry in model.metadata_props}
        onnx.helper.set_model_props(quantised, strings | {"digest": BLANK})
        onnx.save(quantised, str(temporary))
        seal(temporary)


def _reader(quantization: Any, photographs: UInt8[Tensor, "n 3 h w"]) -> Any:  # noqa: ANN401 (a class of an optional package)
    """ONNX Runtime asks for one input after the other."""
    images: Iterator[np.ndarray] = iter(photographs.cpu().numpy())

    class Reader(quantization.CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(images, None)
            return None if image is None else {INPUT: image[None]}

    return Reader()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Its advice about preprocessing is not for our users."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
