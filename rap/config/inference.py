"""Words for how a trained network is run; light, because the command line needs them at once."""

from typing import Literal

InferExecution = Literal["eager", "compiled", "graphed", "compiled+graphed"]
"""`compiled` by torch.compile; `graphed`: recorded once, then replayed as one CUDA graph."""
