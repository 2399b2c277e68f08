"""The prepared network answers as the regressor does; each thing folded is folded exactly."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from rap.camera import Camera
from rap.config import ModelConfig, Precision
from rap.model.infer import PoseNetwork, folded, folded_trunk
from rap.model.precision import precision_scope, tf32_scope
from rap.model.regressor import Regressor, build_regressor
from rap.model.transformer import EncoderLayer

CAMERA = Camera(60.0, 60.0, 40.0, 24.0, 80, 48)
SMALL = ModelConfig(
    width=0.25, dim=32, heads=2, layers=2, feedforward=32, head_hidden=32, batch_norm="calibrated"
)


def trained(config: ModelConfig = SMALL) -> Regressor:
    """A network whose norms, tokens, biases and heads are as uneven as trained ones."""
    generator = torch.Generator().manual_seed(1)
    regressor = build_regressor(config, seed=3)

    def draw(like: Tensor, low: float, high: float) -> Tensor:
        return torch.rand(like.shape, generator=generator) * (high - low) + low

    with torch.no_grad():
        for module in regressor.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.copy_(draw(module.weight, 0.7, 1.3))
                module.bias.copy_(draw(module.bias, -0.3, 0.3))
        images = torch.rand(8, 3, CAMERA.height, CAMERA.width, generator=generator)
        regressor.calibrate([images])
        for branch in (regressor.translation_branch, regressor.rotation_branch):
            branch.pose_token.copy_(draw(branch.pose_token, -1, 1))
            nn.init.normal_(branch.head_out.weight, std=0.3, generator=generator)
            for layer in branch.encoder.layers:
                assert isinstance(layer, EncoderLayer)
                layer.qkv.bias.copy_(draw(layer.qkv.bias, -0.5, 0.5))
    regressor.set_translation_stats(torch.randn(9, 3, generator=generator) * 4)
    return regressor.eval()


def photographs(num: int) -> Tensor:
    """Random uint8 images of the camera's size."""
    generator = torch.Generator().manual_seed(2)
    shape = (num, 3, CAMERA.height, CAMERA.width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("levels", [(4, 3), (4, 4), (3, 4)])
def test_prepared_network_is_the_regressor(levels: tuple[int, int], device: torch.device) -> None:
    """Folding, constant positions and normalisation change the poses by rounding only."""
    config = replace(SMALL, translation_level=levels[0], rotation_level=levels[1])
    regressor = trained(config).to(device)
    images = photographs(3).to(device)
    with torch.no_grad(), tf32_scope("fp32"):
        expected = regressor(images / 255).world_from_camera
        found = PoseNetwork(regressor, CAMERA)(images)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert (expected[0] - expected[1]).abs().max() > 1e-2, "the images must matter"


def test_preparing_leaves_the_regressor_alone() -> None:
    """It may be trained on, and is asked again for the next precision."""
    regressor = trained()
    before = {name: value.clone() for name, value in regressor.state_dict().items()}
    PoseNetwork(regressor, CAMERA, "bf16")
    after = regressor.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in regressor.translation_branch.parameters())


def test_nothing_is_left_to_normalise() -> None:
    """No BatchNorm survives in our trunk, and no parameter is trained."""
    network = PoseNetwork(trained(), CAMERA)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_that_of_autocast(precision: Precision, device: torch.device) -> None:
    """Halved weights without autocast do the arithmetic that training does under it.

    Folding moves roundings, so the poses differ, by less than the precision itself costs.
    """
    regressor = trained().to(device)
    images = photographs(16).to(device)
    network = PoseNetwork(regressor, CAMERA, precision)
    with torch.no_grad(), tf32_scope("fp32"):
        exact = regressor(images / 255).world_from_camera
        with precision_scope(precision, device):
            plain = regressor(images / 255).world_from_camera
        found = network(images)
    assert found.dtype == torch.float32
    cost, ours = ((other - exact).abs().mean() for other in (plain, found))
    assert 0 < ours < 1.5 * cost + 1e-3


def test_poses_and_stream_stay_fp32() -> None:
    """Half precision has steps of centimetres at tens of metres."""
    network = PoseNetwork(trained(), CAMERA, "fp16")
    full = {name for name, p in network.named_parameters() if p.dtype == torch.float32}
    assert {"translation.head_out.weight", "rotation.head_hidden.weight"} <= full
    assert {"translation.norm.weight", "rotation.layers.0.norm1.weight"} <= full
    assert all("trunk" not in name and "qkv" not in name for name in full)


@pytest.mark.parametrize("bias", [False, True])
def test_folded_convolution_is_both_layers(bias: bool) -> None:
    """One convolution does what convolution and BatchNorm did, grouped ones as well."""
    torch.manual_seed(0)
    conv = nn.Conv2d(6, 8, 3, groups=2, bias=bias)
    norm = nn.BatchNorm2d(8, eps=1e-3).eval()
    assert norm.running_mean is not None
    assert norm.running_var is not None
    for values in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        values.copy_(torch.rand(8) + 0.1)
    images = torch.randn(2, 6, 9, 9)
    torch.testing.assert_close(folded(conv, norm)(images), norm(conv(images)))


@pytest.mark.parametrize("backbone", ["b0", "b1"])
def test_folded_trunk_keeps_its_maps(backbone: str) -> None:
    """Padding meets the same zeros as before folding."""
    trunk = trained(replace(SMALL, backbone=backbone)).trunk
    images = torch.randn(2, 3, 45, 61)
    with torch.no_grad():
        for ours, theirs in zip(folded_trunk(trunk)(images), trunk(images), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
