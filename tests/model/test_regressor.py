"""The regressor's outputs, its BatchNorm modes, its precision and its start."""

import dataclasses
import inspect
from typing import Any

import jaxtyping
import pytest
import torch
from torch import Tensor

from rap import geometry
from rap.config import BatchNorm, ConfigError, ModelConfig
from rap.model import regressor
from rap.model.regressor import Prediction, Regressor, build_regressor

SMALL = ModelConfig(
    width=0.25, dim=32, heads=2, layers=2, feedforward=32, head_hidden=64, feature_dim=8
)


def small(
    batch_norm: BatchNorm = "live",
    seed: int = 0,
    **changes: Any,  # noqa: ANN401 (any field of ModelConfig)
) -> Regressor:
    """A thin regressor with fresh weights."""
    return build_regressor(dataclasses.replace(SMALL, batch_norm=batch_norm, **changes), seed)


def photographs(num: int = 4, height: int = 48, width: int = 64, seed: int = 0) -> Tensor:
    """Smooth random images in [0, 1], each of its own colours."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(num, 3, 4, 5, generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


def batch_norms(net: Regressor) -> list[torch.nn.BatchNorm2d]:
    return [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]


def test_prediction_has_shapes_and_rotations(device: torch.device) -> None:
    """Centres [b, 3], rotations [b, 3, 3] that are rotations, poses [b, 4, 4], all fp32."""
    prediction = small().eval().to(device)(photographs().to(device))
    assert prediction.translation.shape == (4, 3)
    assert prediction.features is None
    assert prediction.translation.dtype == prediction.rotation.dtype == torch.float32
    assert geometry.orthonormality_error(prediction.rotation).max() < 1e-5
    assert prediction.world_from_camera.shape == (4, 4, 4)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (49, 71)])
def test_features_of_both_levels_have_the_finer_size(height: int, width: int) -> None:
    """The adaptation layers give [2, b, c, h/8, w/8], translation level first."""
    features = small().eval()(photographs(2, height, width), with_features=True).features
    assert features is not None
    assert features.shape == (2, 2, 8, height // 8, width // 8)


class ThreeChannels(torch.nn.Module):
    """A trunk whose features have as many channels as images have colours."""

    channels = (3, 3)

    def forward(self, images: Tensor) -> list[Tensor]:
        """A sixteenth of the size, twice."""
        return [torch.nn.functional.avg_pool2d(images, 16)] * 2


def test_features_are_told_from_images_by_word_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by their channels: a trunk may give three. Images are the default."""
    monkeypatch.setattr(regressor, "build_trunk", lambda *_: ThreeChannels())
    net, images = small(rotation_level=4).eval(), photographs()
    whole = net(images)
    features = net.features(images)[0]
    rest = net(features, are_features=True)
    torch.testing.assert_close(whole.world_from_camera, rest.world_from_camera)
    monkeypatch.undo()
    with pytest.raises(jaxtyping.TypeCheckError):
        small()(torch.rand(2, 8, 3, 4))


def test_one_level_for_both_branches() -> None:
    """Translation and rotation may read the same level."""
    prediction = small(rotation_level=4).eval()(photographs(), with_features=True)
    assert prediction.features is not None
    assert prediction.features.shape == (2, 4, 8, 3, 4)


def test_same_seed_gives_the_same_network() -> None:
    """Initial weights depend on the seed alone."""
    a, b, c = small(seed=1), small(seed=1), small(seed=2)
    torch.testing.assert_close(a.state_dict(), b.state_dict(), rtol=0, atol=0)
    assert not torch.equal(a.positions.rows, c.positions.rows)


def test_building_leaves_the_global_random_state_alone() -> None:
    """The global generator continues as if nothing had been built."""
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    small(seed=5)
    assert torch.equal(torch.rand(4), expected)


def test_fresh_network_predicts_the_mean_pose() -> None:
    """It starts near the mean camera centre and the identity rotation."""
    net = small().train()
    net.set_translation_stats(torch.tensor([[9.0, 0, 0], [11.0, 0, 0]]))
    prediction = net(photographs(8))
    assert (prediction.translation - torch.tensor([10.0, 0, 0])).norm(dim=-1).max() < 0.6
    identity = torch.eye(3).expand(8, 3, 3)
    assert geometry.rotation_angle_deg(prediction.rotation, identity).max() < 40


def test_fresh_live_network_tells_images_apart() -> None:
    """With live BatchNorm random weights pass the image on to the pose."""
    prediction = small().train()(photographs(8))
    assert prediction.translation.std(0).min() > 1e-3


def test_translation_is_scaled_and_shifted() -> None:
    """Statistics set from camera centres: mean, and RMS spread per axis."""
    net = small().eval()
    raw = net(photographs()).translation
    centres = torch.tensor([[1.0, 2.0, 3.0], [3.0, 2.0, 7.0]])
    net.set_translation_stats(centres)
    assert net.translation_scale.item() == pytest.approx((10 / 6) ** 0.5)
    expected = raw * net.translation_scale + torch.tensor([2.0, 2.0, 5.0])
    torch.testing.assert_close(net(photographs()).translation, expected)


def test_one_camera_centre_keeps_the_scale_usable() -> None:
    """A single training image has no spread; the scale is then one metre."""
    net = small()
    net.set_translation_stats(torch.ones(1, 3))
    assert net.translation_scale.item() == 1.0


@pytest.mark.parametrize("centres", [torch.zeros(0, 3), torch.full((2, 3), torch.nan)])
def test_impossible_camera_centres_are_refused(centres: Tensor) -> None:
    """No centre, or one that is not finite, gives no statistics."""
    with pytest.raises(ValueError, match="camera centres must be finite"):
        small().set_translation_stats(centres)


def test_heads_stay_fp32_under_autocast(device: torch.device) -> None:
    """Half precision would round a position of 1 km to metres; the heads are out of its reach."""
    net = small().eval().to(device)
    images = photographs().to(device)
    with torch.no_grad():
        full = net(images).translation
        net.translation_mean.fill_(1000.0)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            half = net(images)
    assert half.translation.dtype == half.rotation.dtype == torch.float32
    assert (half.translation - 1000.0 - full).abs().max() < 0.02
    assert not torch.equal(half.translation.bfloat16().float(), half.translation)


@pytest.mark.parametrize("mode", ["frozen", "calibrated"])
def test_frozen_statistics_survive_training_mode(mode: BatchNorm) -> None:
    """Neither the statistics nor the gains of frozen BatchNorm move."""
    net = small(mode).train()
    before = [m.running_mean.clone() for m in batch_norms(net) if m.running_mean is not None]
    net(photographs(), with_features=True)
    after = [m.running_mean for m in batch_norms(net)]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert not any(p.requires_grad for m in batch_norms(net) for p in m.parameters())
    assert net.training


def test_live_statistics_follow_the_batches() -> None:
    """Live BatchNorm learns gains and averages statistics in training, and only there."""
    net = small("live")
    assert all(p.requires_grad for p in net.parameters())
    net.eval()(photographs(), with_features=True)
    assert all(int(m.num_batches_tracked or 0) == 0 for m in batch_norms(net))
    net.train()(photographs(), with_features=True)
    assert all(m.num_batches_tracked == 1 for m in batch_norms(net))


def test_every_parameter_learns() -> None:
    """Pose and features together reach every parameter: none is dead."""
    net = small("live", drop_connect=0.0).train()
    prediction = net(photographs(), with_features=True)
    assert prediction.features is not None
    (
        prediction.translation.sum() + prediction.rotation.sum() + prediction.features.sum()
    ).backward()
    unreached = [name for name, p in net.named_parameters() if p.grad is None]
    assert unreached == []


def test_frozen_network_treats_images_independently() -> None:
    """With frozen BatchNorm and no dropout, one forward for all images equals one for each."""
    net = small("calibrated", dropout=0.0, drop_connect=0.0)
    net.calibrate([photographs(8, seed=1)])
    net.train()
    images = photographs(3)
    each = torch.cat([net(image[None]).translation for image in images])
    torch.testing.assert_close(net(images).translation, each, rtol=1e-4, atol=1e-5)


def test_calibration_lets_random_weights_see() -> None:
    """A frozen random trunk passes nothing on; calibrated once, it does."""
    images = photographs(8)
    blind, net = small("frozen").eval(), small("calibrated").eval()
    assert net.needs_calibration
    net.calibrate([images[:4], images[4:]])
    assert not net.needs_calibration
    assert net(images).translation.std(0).min() > 10 * blind(images).translation.std(0).max()


def test_calibration_sets_the_statistics_of_the_images() -> None:
    """One batch: each BatchNorm's statistics are those of its own input."""
    net = small("calibrated", drop_connect=0.9)
    images = photographs(6)
    seen = []
    net.train()
    norm: Any = net.trunk.stem_norm
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net.calibrate([images])
    torch.testing.assert_close(norm.running_mean, seen[0].mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, seen[0].var((0, 2, 3)))
    assert net.training
    assert not norm.training
    assert norm.momentum == 0.01


def test_calibration_does_not_depend_on_earlier_calibration() -> None:
    """Statistics are replaced, not blended."""
    net, images = small("calibrated").eval(), photographs()
    net.calibrate([images])
    first = net(images).translation
    net.calibrate([photographs(seed=5)])
    net.calibrate([images])
    torch.testing.assert_close(net(images).translation, first, rtol=0, atol=0)


def test_calibration_needs_images_and_the_mode() -> None:
    """No batch is an error, and so is a network whose BatchNorm is not calibrated."""
    with pytest.raises(ValueError, match="at least one batch"):
        small("calibrated").calibrate([])
    with pytest.raises(ConfigError, match=r"'live'.*'calibrated'"):
        small("live").calibrate([photographs()])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 33, "heads": 1}, "model.dim = 33 must be even"),
        ({"dim": 32, "heads": 5}, "multiple of model.heads = 5"),
        ({"layers": 0}, "model.layers = 0"),
        ({"rotation_level": 0}, "within 1 to 5"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    """One ConfigError names the setting and its value."""
    with pytest.raises(ConfigError, match=message):
        small(**changes)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shape checks off: jaxtyping's hook and torch.compile don't mix."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    # Even when switched off, the hook's wrapper of a dataclass's __init__ breaks the graph.
    monkeypatch.setattr(Prediction, "__init__", inspect.unwrap(Prediction.__init__))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("training", [False, True])
def test_compiles_into_one_graph(training: bool) -> None:
    """torch.compile(fullgraph=True) takes the whole forward, also under autocast."""
    levels = {"translation_level": 3, "rotation_level": 2}
    net = small(**levels, layers=1, dropout=0.0, drop_connect=0.0).train(training)
    images = photographs()

    def forward(images: Tensor) -> Prediction:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return net(images, with_features=True)

    compiled = torch.compile(forward, backend="eager", fullgraph=True)
    got, expected = compiled(images), forward(images)
    torch.testing.assert_close(got.translation, expected.translation, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(got.features, expected.features, rtol=0.05, atol=0.05)
