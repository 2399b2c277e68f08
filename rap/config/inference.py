"""Words for how a trained network is run; light, because the command line needs them at once."""

from typing import Literal

InferExecution = Literal["eager", "compiled", "graphed", "compiled+graphed"]
"""`compiled` by torch.compile; `graphed`: recorded once, then replayed as one CUDA graph."""

ExportFormat = Literal["aoti", "onnx"]
"""A package of compiled code (AOTInductor, .pt2), or a graph for ONNX Runtime and TensorRT."""

ExportPrecision = Literal["fp32", "bf16", "fp16", "int8"]
