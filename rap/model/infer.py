"""The regressor made ready for one camera: uint8 photographs in, poses out, nothing left to train.

What does not depend on the image is computed once: BatchNorm is part of the convolutions, ImageNet
normalisation is one product and one sum, positional vectors are multiplied by their weights. In
`bf16` and `fp16` the weights of convolutions and encoders are stored in half precision; the sum
that runs through the encoders, LayerNorm and the pose heads stay fp32, as under autocast.
`Regressor` is the plain twin.
"""

import copy
from collections.abc import Callable

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from rap import geometry
from rap.camera import Camera
from rap.config import Precision
from rap.model.backbone import Block, EfficientNetTrunk, TimmTrunk
from rap.model.precision import tf32_scope
from rap.model.regressor import Branch, Regressor
from rap.model.transformer import EncoderLayer

WEIGHT_DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
"""Of convolutions and encoders."""


class PoseNetwork(nn.Module):
    """A regressor's copy for images of the camera's size, in evaluation mode for good.

    `forward` is `compose(translation(maps[0]), rotation(maps[1]))` of `maps = features(images)`:
    the two branches do not depend on each other, and may run side by side.
    """

    __call__: Callable[[Tensor], Tensor]
    scale: Tensor
    shift: Tensor
    translation_mean: Tensor
    translation_scale: Tensor
    bottom: Tensor

    @torch.no_grad()
    def __init__(self, regressor: Regressor, camera: Camera, precision: Precision = "fp32") -> None:
        super().__init__()
        dtype = WEIGHT_DTYPES[precision]
        self.trunk = folded_trunk(regressor.trunk).to(dtype)
        nn.utils.convert_conv2d_weight_memory_format(self.trunk, torch.channels_last)
        device = regressor.image_mean.device
        probe = torch.zeros(1, 3, camera.height, camera.width, device=device, dtype=dtype)
        # As it will run: cuDNN's kernels are built for each setting.
        with tf32_scope(precision):
            sizes = [tuple(level.shape[2:]) for level in self.trunk(probe)]
        tables = [regressor.positions(height, width) for height, width in sizes]
        self.translation = FixedBranch(regressor.translation_branch, tables[0], dtype)
        self.rotation = FixedBranch(regressor.rotation_branch, tables[1], dtype)
        self.size = (camera.height, camera.width)
        buffers = {
            "scale": 1 / (255 * regressor.image_std),
            "shift": -regressor.image_mean / regressor.image_std,
            "translation_mean": regressor.translation_mean.clone(),
            "translation_scale": regressor.translation_scale.clone(),
            "bottom": torch.tensor([[[0.0, 0.0, 0.0, 1.0]]], device=device),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value)
        self.dtype = dtype
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: UInt8[Tensor, "b 3 h w"]) -> Float[Tensor, "b 4 4"]:
        """`world_from_camera` in fp32, OpenCV axes, metres."""
        maps = self.features(images)
        return self.compose(self.translation(maps[0]), self.rotation(maps[1]))

    def features(self, images: UInt8[Tensor, "b 3 h w"]) -> list[Float[Tensor, "b _c _h _w"]]:
        """Feature maps for the two branches."""
        # To fp32 first: a product of uint8 and fp32 is otherwise a copy and a product.
        normalised = torch.addcmul(self.shift, images.to(self.scale.dtype), self.scale)
        return self.trunk(normalised.to(dtype=self.dtype, memory_format=torch.channels_last))

    def compose(
        self, translation: Float[Tensor, "b 3"], rotation: Float[Tensor, "b 6"]
    ) -> Float[Tensor, "b 4 4"]:
        """Poses from the two heads' raw outputs."""
        centre = translation * self.translation_scale + self.translation_mean
        top = torch.cat([geometry.rotation_from_6d(rotation), centre[..., None]], dim=-1)
        # As `geometry.rigid`, whose constant row is copied from the host each time.
        return torch.cat([top, self.bottom.expand(top.shape[0], 1, 4)], dim=1)


@torch.no_grad()
def folded_trunk(trunk: EfficientNetTrunk | TimmTrunk) -> EfficientNetTrunk | TimmTrunk:
    """A copy without BatchNorm, whose running statistics went into weights and biases.

    timm's models keep their normalisation: they are not ours to take apart.
    """
    copied = copy.deepcopy(trunk).eval()
    if isinstance(copied, TimmTrunk):
        return copied
    pairs: list[tuple[nn.Module, str, str]] = [(copied, "stem", "stem_norm")]
    for block in copied.blocks:
        assert isinstance(block, Block)
        if block.expand is not None:
            pairs.append((block, "expand", "expand_norm"))
        pairs += [(block, "depthwise", "depthwise_norm"), (block, "project", "project_norm")]
    for owner, conv, norm in pairs:
        setattr(owner, conv, folded(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
    return copied


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution that does what both did, with the running statistics; exact in fp64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    bias = 0.0 if conv.bias is None else conv.bias.double()
    joined = copy.deepcopy(conv)
    joined.weight = nn.Parameter((conv.weight.double() * gain[:, None, None, None]).float())
    shift = (bias - norm.running_mean.double()) * gain + norm.bias.double()
    joined.bias = nn.Parameter(shift.float())
    return joined


class FixedBranch(nn.Module):
    """`Branch` for feature maps of one size."""

    __call__: Callable[[Tensor], Tensor]

    def __init__(self, branch: Branch, position: Float[Tensor, "t d"], dtype: torch.dtype) -> None:
        super().__init__()
        layers = list(branch.encoder.layers)
        self.pose_token = nn.Parameter(branch.pose_token.clone())
        self.project = copy.deepcopy(branch.project).to(dtype)
        self.layers = nn.ModuleList(
            FixedLayer(layer, position, layer is layers[-1], dtype)
            for layer in layers if isinstance(layer, EncoderLayer)
        )  # fmt: skip
        self.norm = copy.deepcopy(branch.encoder.norm)
        self.head_hidden = copy.deepcopy(branch.head_hidden)
        self.head_out = copy.deepcopy(branch.head_out)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o"]:
        """The head's raw output, in fp32."""
        tokens = self.project(features.flatten(2).mT)
        pose_token = self.pose_token.expand(tokens.shape[0], 1, -1)
        x = torch.cat([pose_token, tokens.to(pose_token.dtype)], dim=1)
        for layer in self.layers:
            x = layer(x)
        return self.head_out(F.gelu(self.head_hidden(self.norm(x[:, 0]))))


class FixedLayer(nn.Module):
    """`EncoderLayer` whose positional products are constants; the last one is for token 0 alone."""

    __call__: Callable[[Tensor], Tensor]
    position: Tensor

    def __init__(
        self,
        layer: EncoderLayer,
        position: Float[Tensor, "t d"],
        only_first: bool,
        dtype: torch.dtype,
    ) -> None:
        super().__init__()
        dim = position.shape[1]
        self.heads, self.only_first, self.dtype = layer.heads, only_first, dtype
        self.norm1, self.norm2 = copy.deepcopy(layer.norm1), copy.deepcopy(layer.norm2)
        self.qkv = copy.deepcopy(layer.qkv).to(dtype)
        self.out = copy.deepcopy(layer.out).to(dtype)
        self.linear1 = copy.deepcopy(layer.linear1).to(dtype)
        self.linear2 = copy.deepcopy(layer.linear2).to(dtype)
        product = F.linear(position.double(), layer.qkv.weight[: 2 * dim].double())
        self.register_buffer("position", product.to(dtype))

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b s d"]:
        """All tokens, or the first, which still attends to all."""
        q, k, v = self._project(self.norm1(x).to(self.dtype))
        x = x[:, : q.shape[1]]
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        attended = F.scaled_dot_product_attention(q, k, v)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        hidden = F.gelu(self.linear1(self.norm2(x).to(self.dtype)))
        return x + self.linear2(hidden)

    def _project(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dim = z.shape[-1]
        if not self.only_first:
            qk, v = self.qkv(z).split([2 * dim, dim], dim=-1)
            q, k = (qk + self.position).chunk(2, dim=-1)
            return q, k, v
        weight, bias = self.qkv.weight, self.qkv.bias
        q = F.linear(z[:, :1], weight[:dim], bias[:dim]) + self.position[:1, :dim]
        k, v = F.linear(z, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        return q, k + self.position[:, dim:], v
