"""The published RAPNet written out plainly from its description, over its own tensor names.

Independent of `rap`: nothing of it is imported, every layer is a line of arithmetic, and the names
and shapes follow from the block table of EfficientNet-B0.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# kernel, stride, in, out, expanded, squeezed
BLOCKS = (
    (3, 1, 32, 16, 32, 8), (3, 2, 16, 24, 96, 4), (3, 1, 24, 24, 144, 6),
    (5, 2, 24, 40, 144, 6), (5, 1, 40, 40, 240, 10), (3, 2, 40, 80, 240, 10),
    (3, 1, 80, 80, 480, 20), (3, 1, 80, 80, 480, 20), (5, 1, 80, 112, 480, 20),
    (5, 1, 112, 112, 672, 28), (5, 1, 112, 112, 672, 28), (5, 2, 112, 192, 672, 28),
    (5, 1, 192, 192, 1152, 48), (5, 1, 192, 192, 1152, 48), (5, 1, 192, 192, 1152, 48),
    (3, 1, 192, 320, 1152, 48),
)  # fmt: skip
PADS = {(3, 1): (1, 1, 1, 1), (3, 2): (0, 1, 0, 1), (5, 1): (2, 2, 2, 2), (5, 2): (1, 2, 1, 2)}
LAST_READ = 10
LEVELS = {"t": 10, "rot": 4}
BODY = "backbone.0.body."
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYERS, HEADS, DIM = 6, 4, 256

State = dict[str, Tensor]


def shapes() -> dict[str, tuple[int, ...]]:
    """All 543 tensors of a released checkpoint."""
    found: dict[str, tuple[int, ...]] = {"pose_token_embed_t": (1, 256)}
    found["pose_token_embed_rot"] = (1, 256)
    found[BODY + "_conv_stem.weight"] = (32, 3, 3, 3)
    _norm(found, BODY + "_bn0", 32)
    for index, block in enumerate(BLOCKS):
        _block(found, f"{BODY}_blocks.{index}.", block)
    found[BODY + "_conv_head.weight"] = (1280, 320, 1, 1)
    _norm(found, BODY + "_bn1", 1280)
    _dense(found, BODY + "_fc", (1000, 1280))
    for table in ("row", "col", "pose_token"):
        found[f"backbone.1.{table}_embed.weight"] = (256, 128)
    for branch, channels, outputs in (("t", 112, 3), ("rot", 40, 6)):
        for index in range(LAYERS):
            _layer(found, f"transformer_{branch}.encoder.layers.{index}.")
        _pair(found, f"transformer_{branch}.encoder.norm", 256)
        _dense(found, f"input_proj_{branch}", (256, channels, 1, 1))
        _dense(found, f"regressor_head_{branch}.fc_h", (1024, 256))
        _dense(found, f"regressor_head_{branch}.fc_o", (outputs, 1024))
    for index, channels in enumerate((112, 40)):
        name = f"adaptation_layers.adapt_layer_{index}"
        _dense(found, f"{name}.0", (64, channels, 1, 1))
        _dense(found, f"{name}.2", (128, 64, 5, 5))
        _norm(found, f"{name}.3", 128)
    return found


def _pair(found: dict[str, tuple[int, ...]], name: str, size: int) -> None:
    found[f"{name}.weight"] = found[f"{name}.bias"] = (size,)


def _dense(found: dict[str, tuple[int, ...]], name: str, shape: tuple[int, ...]) -> None:
    found[f"{name}.weight"] = shape
    found[f"{name}.bias"] = shape[:1]


def _norm(found: dict[str, tuple[int, ...]], name: str, size: int) -> None:
    _pair(found, name, size)
    found[f"{name}.running_mean"] = found[f"{name}.running_var"] = (size,)
    found[f"{name}.num_batches_tracked"] = ()


def _block(
    found: dict[str, tuple[int, ...]], name: str, block: tuple[int, int, int, int, int, int]
) -> None:
    kernel, _, narrow, out, wide, squeezed = block
    if wide != narrow:
        found[name + "_expand_conv.weight"] = (wide, narrow, 1, 1)
        _norm(found, name + "_bn0", wide)
    found[name + "_depthwise_conv.weight"] = (wide, 1, kernel, kernel)
    _norm(found, name + "_bn1", wide)
    _dense(found, name + "_se_reduce", (squeezed, wide, 1, 1))
    _dense(found, name + "_se_expand", (wide, squeezed, 1, 1))
    found[name + "_project_conv.weight"] = (out, wide, 1, 1)
    _norm(found, name + "_bn2", out)


def _layer(found: dict[str, tuple[int, ...]], name: str) -> None:
    found[name + "self_attn.in_proj_weight"] = (768, 256)
    found[name + "self_attn.in_proj_bias"] = (768,)
    _dense(found, name + "self_attn.out_proj", (256, 256))
    for part in ("linear1", "linear2"):
        _dense(found, name + part, (256, 256))
    for part in ("norm1", "norm2"):
        _pair(found, name + part, 256)


def random_state(seed: int) -> State:
    """Weights of which none is trivial and through which the image still reaches the output."""
    generator = torch.Generator().manual_seed(seed)
    return {name: _draw(name, shape, generator) for name, shape in shapes().items()}


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    if name.endswith("num_batches_tracked"):
        return torch.tensor(7)
    normal = torch.randn(shape, generator=generator)
    if name.endswith("running_var"):
        return 0.5 + torch.rand(shape, generator=generator)
    if len(shape) == 1:
        is_gain = name.endswith("weight")
        return 1 + 0.2 * normal if is_gain else 0.1 * normal
    if "embed" in name:
        return normal
    return normal * (2 / normal[0].numel()) ** 0.5


def forward(state: State, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Translation [b, 3], rotation [b, 3, 3] and features [2, b, 128, h/8, w/8]."""
    mean, std = (torch.tensor(values).to(images) for values in (MEAN, STD))  # fp32 constants
    maps = _trunk(state, (images - mean[:, None, None]) / std[:, None, None])
    translation = _branch(state, "t", maps["t"])
    six = _branch(state, "rot", maps["rot"])
    x = F.normalize(six[:, :3], dim=1)
    z = F.normalize(torch.linalg.cross(x, six[:, 3:]), dim=1)
    rotation = torch.stack([x, torch.linalg.cross(z, x), z], dim=2)
    coarse = _adapted(state, 0, maps["t"])
    fine = _adapted(state, 1, maps["rot"])
    coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=False)
    return translation, rotation, torch.stack([coarse, fine])


def _batch_norm(state: State, name: str, x: Tensor, eps: float = 1e-3) -> Tensor:
    column = {key: state[f"{name}.{key}"][:, None, None] for key in
              ("weight", "bias", "running_mean", "running_var")}  # fmt: skip
    x = (x - column["running_mean"]) / (column["running_var"] + eps).sqrt()
    return x * column["weight"] + column["bias"]


def _swish(x: Tensor) -> Tensor:
    return x * x.sigmoid()


def _trunk(state: State, x: Tensor) -> dict[str, Tensor]:
    x = F.conv2d(F.pad(x, PADS[3, 2]), state[BODY + "_conv_stem.weight"], stride=2)
    x = _swish(_batch_norm(state, BODY + "_bn0", x))
    maps = {}
    for index, block in enumerate(BLOCKS[: LAST_READ + 1]):
        x = _mbconv(state, f"{BODY}_blocks.{index}.", block, x)
        maps |= {branch: x for branch, last in LEVELS.items() if last == index}
    return maps


def _mbconv(
    state: State, name: str, block: tuple[int, int, int, int, int, int], x: Tensor
) -> Tensor:
    kernel, stride, narrow, out, wide, _ = block
    y = x
    if wide != narrow:
        y = F.conv2d(y, state[name + "_expand_conv.weight"])
        y = _swish(_batch_norm(state, name + "_bn0", y))
    y = F.pad(y, PADS[kernel, stride])
    y = F.conv2d(y, state[name + "_depthwise_conv.weight"], stride=stride, groups=wide)
    y = _swish(_batch_norm(state, name + "_bn1", y))
    s = _conv(state, name + "_se_reduce", y.mean((2, 3), keepdim=True))
    y = y * _conv(state, name + "_se_expand", _swish(s)).sigmoid()
    y = _batch_norm(state, name + "_bn2", F.conv2d(y, state[name + "_project_conv.weight"]))
    return x + y if stride == 1 and narrow == out else y


def _conv(state: State, name: str, x: Tensor, padding: int = 0) -> Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=padding)


def _linear(state: State, name: str, x: Tensor) -> Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _layer_norm(state: State, name: str, x: Tensor) -> Tensor:
    x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return x * state[f"{name}.weight"] + state[f"{name}.bias"]


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / 2**0.5))


def _positions(state: State, height: int, width: int) -> Tensor:
    """One vector per token: the pose token's, then the cells', counted from 1, column first."""
    pose = state["backbone.1.pose_token_embed.weight"][0]
    vectors = [torch.cat([pose, pose])]
    for row in range(1, height + 1):
        for column in range(1, width + 1):
            parts = [state["backbone.1.col_embed.weight"][column]]
            parts.append(state["backbone.1.row_embed.weight"][row])
            vectors.append(torch.cat(parts))
    return torch.stack(vectors)


def _branch(state: State, branch: str, features: Tensor) -> Tensor:
    position = _positions(state, features.shape[2], features.shape[3])
    tokens = _conv(state, f"input_proj_{branch}", features).flatten(2).mT
    pose_token = state[f"pose_token_embed_{branch}"].expand(len(tokens), 1, DIM)
    x = torch.cat([pose_token, tokens], dim=1)
    for index in range(LAYERS):
        x = _encoder_layer(state, f"transformer_{branch}.encoder.layers.{index}.", x, position)
    token = _layer_norm(state, f"transformer_{branch}.encoder.norm", x)[:, 0]
    hidden = _gelu(_linear(state, f"regressor_head_{branch}.fc_h", token))
    return _linear(state, f"regressor_head_{branch}.fc_o", hidden)


def _encoder_layer(state: State, name: str, x: Tensor, position: Tensor) -> Tensor:
    z = _layer_norm(state, name + "norm1", x)
    weights = state[name + "self_attn.in_proj_weight"].split(DIM)
    biases = state[name + "self_attn.in_proj_bias"].split(DIM)
    inputs = (z + position, z + position, z)
    q, k, v = (i @ w.T + b for i, w, b in zip(inputs, weights, biases, strict=True))
    size = DIM // HEADS
    heads = [
        (q[..., p] @ k[..., p].mT / size**0.5).softmax(-1) @ v[..., p]
        for p in (slice(start, start + size) for start in range(0, DIM, size))
    ]
    x = x + _linear(state, name + "self_attn.out_proj", torch.cat(heads, dim=-1))
    hidden = _gelu(_linear(state, name + "linear1", _layer_norm(state, name + "norm2", x)))
    return x + _linear(state, name + "linear2", hidden)


def _adapted(state: State, index: int, features: Tensor) -> Tensor:
    name = f"adaptation_layers.adapt_layer_{index}"
    y = _conv(state, f"{name}.0", features).clamp_min(0)
    return _batch_norm(state, f"{name}.3", _conv(state, f"{name}.2", y, padding=2), eps=1e-5)
