"""A tiny scene, splat and configuration on which a training step takes milliseconds."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rap.config import Config, ImageConfig, LossWeights, ModelConfig, TrainConfig, ViewsConfig
from rap.data.room import RoomSpec, make
from rap.scene import Scene
from rap.splat.gaussians import Gaussians

WAITING = ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal",
           "aten::masked_select", "aten::repeat_interleave")  # fmt: skip


class _Lists(TorchFunctionMode):
    """Counts the lists made of tensors: no operator is called for them where they lie on a CPU."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the function returns)
        name = getattr(func, "__name__", "")
        if name in ("tolist", "numpy", "cpu"):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


class _Waits(TorchDispatchMode):
    """Counts the calls for which a host would wait, if the tensors lay on a GPU."""

    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the operator returns)
        name = func._schema.name  # pyrefly: ignore[missing-attribute]
        index = tree_leaves(args[1:])
        masks = [leaf for leaf in index if getattr(leaf, "dtype", None) == torch.bool]
        if name in WAITING or (name == "aten::index" and masks):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def _watched() -> Iterator[Counter[str]]:
    found: Counter[str] = Counter()
    with _Waits(found), _Lists(found):
        yield found


@pytest.fixture
def watched() -> Callable[[], AbstractContextManager[Counter[str]]]:
    """Counts, by name, calls in a block for which a host would wait if tensors lay on a GPU."""
    return _watched


@pytest.fixture(scope="session")
def tiny_scene() -> Scene:
    """Ten small photographs of the room and two test frames."""
    return make(RoomSpec(seed=3, num_train=10, num_test=2, width=64, height=48))


@pytest.fixture(scope="session")
def tiny_splat(tiny_scene: Scene) -> Gaussians:
    """One opaque blob per surface point: crude, but seen from everywhere."""
    points = tiny_scene.points
    assert points is not None
    num = 300
    xyz = points.xyz[:num]
    quats = torch.zeros(num, 4)
    quats[:, 0] = 1
    colour = (points.rgb[:num].float() / 255 - 0.5) / 0.28209479177387814
    return Gaussians(
        means=xyz,
        quats=quats,
        log_scales=torch.full((num, 3), -2.3),
        opacity_logits=torch.full((num,), 3.0),
        sh=colour[:, None],
    )


@pytest.fixture
def tiny_config() -> Config:
    """A narrow two-layer network at 48×64, without dropout, so that steps repeat exactly."""
    return Config(
        image=ImageConfig(height=48, num_workers=0),
        model=ModelConfig(
            width=0.25, dim=32, heads=2, layers=2, feedforward=32, head_hidden=32,
            dropout=0.0, drop_connect=0.0, feature_dim=16,
        ),
        views=ViewsConfig(min_coverage=0.0),
        weights=LossWeights(),
        train=TrainConfig(epochs=3, batch_size=4, learning_rate=1e-3, validation_fraction=0.2),
    )  # fmt: skip
