"""A .pt2 that looks at its input itself, in whatever program it runs.

AOTInductor compiles for the sizes, type and strides of the example. What it generates to check them
is asleep unless AOTI_RUNTIME_CHECK_INPUTS is set, no setting wakes it, and its bounds are those of
guards, such as a batch below 16. So the check here takes its place in the generated source.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rap.export.details import ExportError

_ASLEEP = "__check_inputs_outputs(input_handles, output_handles);"
_MARK = "// rap export: images of "

# The stride of a dimension of size 1 is never used, and may be anything.
_CHECK = """{mark}{width}x{height}
    {{
        int32_t dtype = 0, device = 0;
        int64_t dim = 0, *sizes = nullptr, *strides = nullptr;
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(input_handles[0], &dtype));
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(input_handles[0], &device));
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dim(input_handles[0], &dim));
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_sizes(input_handles[0], &sizes));
        AOTI_TORCH_ERROR_CODE_CHECK(aoti_torch_get_strides(input_handles[0], &strides));
        bool fits = dtype == aoti_torch_dtype_uint8()
            && device == aoti_torch_device_type_{device}()
            && dim == 4 && 1 <= sizes[0] && sizes[0] <= {max_batch}
            && sizes[1] == 3 && sizes[2] == {height} && sizes[3] == {width};
        for (int64_t axis = 3, step = 1; fits && axis >= 0; step *= sizes[axis--]) {{
            fits = sizes[axis] == 1 || strides[axis] == step;
        }}
        if (!fits) {{
            throw std::runtime_error("images must be uint8, [1 to {max_batch}, 3, {height}, "
                "{width}], contiguous, on {device}");
        }}
    }}
"""


@contextmanager
def guarded(size: tuple[int, int], device: str, max_batch: int) -> Iterator[None]:
    """Packages compiled in the block raise for all but contiguous uint8 images of this size.

    `size` is height and width. Raises ExportError where this version of torch generates other code
    than expected: no file is better than one that gives wrong poses without a word.
    """
    from torch._inductor.codecache import AotCodeCompiler

    compiler: Any = AotCodeCompiler
    original, kept = compiler.compile, vars(compiler)["compile"]

    def compile_checked(graph: Any, wrapper_code: str, *rest: Any, **named: Any) -> Any:  # noqa: ANN401 (torch's own)
        checked = with_check(wrapper_code, size, device, max_batch)
        return original(graph, checked, *rest, **named)

    compiler.compile = compile_checked
    try:
        yield
    finally:
        compiler.compile = kept


def with_check(wrapper: str, size: tuple[int, int], device: str, max_batch: int) -> str:
    """The C++ of a package's wrapper, which looks at its input first."""
    if wrapper.count(_ASLEEP) != 1:
        raise ExportError(
            f"torch {torch.__version__} generates AOTInductor code whose input cannot be checked; "
            "export with the version of torch that rap was tested with, or export onnx"
        )
    height, width = size
    check = _CHECK.format(
        mark=_MARK, height=height, width=width, device=device, max_batch=max_batch
    )
    return wrapper.replace(_ASLEEP, check)


def checked_size(wrapper: str) -> tuple[int, int] | None:
    """Width and height that a package's code takes, from its source; None where it does not say."""
    found = re.search(rf"{_MARK}(\d+)x(\d+)\n", wrapper)
    return None if found is None else (int(found[1]), int(found[2]))
