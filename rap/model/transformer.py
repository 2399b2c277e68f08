"""The encoder of one branch: feature map in, the pose token out.

Pre-norm layers. The positional vectors are added to queries and keys of every layer, never to the
values. Published RAP (ICCV 2025) uses 6 layers, 4 heads, width 256, GELU MLPs of width 256.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from rap.model.recompute import cheap_again, recomputed

MAX_CELLS = 255


class PositionTable(nn.Module):
    """Learned vectors per column and row of a feature map, and one for the pose token."""

    __call__: Callable[[int, int], Tensor]
    stretch: tuple[float, float] = (1.0, 1.0)
    """Cells of the full image that one of a smaller image covers, in height and in width."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.columns = nn.Parameter(torch.rand(MAX_CELLS, dim // 2))
        self.rows = nn.Parameter(torch.rand(MAX_CELLS, dim // 2))
        self.pose = nn.Parameter(torch.rand(dim // 2))

    def forward(self, height: int, width: int) -> Float[Tensor, "t d"]:
        """Token 0 is the pose token, then the cells row by row; column half before row half."""
        if max(height * self.stretch[0], width * self.stretch[1]) > MAX_CELLS:
            raise ValueError(
                f"a feature map of {height}x{width} cells is larger than the position tables, "
                f"which hold {MAX_CELLS}x{MAX_CELLS}: use smaller images or a higher level"
            )
        columns = _along(self.columns, width, self.stretch[1]).expand(height, -1, -1)
        rows = _along(self.rows, height, self.stretch[0])[:, None].expand(-1, width, -1)
        cells = torch.cat([columns, rows], dim=-1).flatten(0, 1)
        return torch.cat([self.pose.repeat(2)[None], cells])


def _along(table: Float[Tensor, "k d"], num: int, stretch: float) -> Float[Tensor, "{num} d"]:
    """One side's vectors: the first ones, or those at the cells' places in the full image."""
    if stretch == 1:
        return table[:num]
    # The middle of cell i lies at (i + 1/2)·stretch; between two vectors is their mixture.
    place = (torch.arange(num, device=table.device) + 0.5) * stretch - 0.5
    first = place.clamp(0, MAX_CELLS - 2).floor()
    index = first.long()
    return table[index].lerp(table[index + 1], (place - first)[:, None].to(table))


class EncoderLayer(nn.Module):
    """Self-attention and an MLP, each on normalised input and added to it."""

    __call__: Callable[[Tensor, Tensor, bool], Tensor]
    with_position: Tensor

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.norm1 = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim)
        self.linear1 = nn.Linear(dim, feedforward)
        self.linear2 = nn.Linear(feedforward, dim)
        nn.init.zeros_(self.qkv.bias)
        nn.init.zeros_(self.out.bias)
        # Of a part of the weight, the cast is not shared and the gradient is padded.
        with_position = torch.tensor([1.0, 1.0, 0.0]).repeat_interleave(dim)
        self.register_buffer("with_position", with_position, persistent=False)

    def forward(
        self, x: Float[Tensor, "b t d"], position: Float[Tensor, "t d"], only_first: bool
    ) -> Float[Tensor, "b s d"]:
        """All tokens (s = t), or the first alone (s = 1), which still attends to all."""
        z = self.norm1(x)
        if only_first:
            # Normalised for itself, or a gradient of one token is filled up for all of them.
            x = x[:, :1]
            q, k, v = self._project_first(self.norm1(x), z, position)
        else:
            q, k, v = self._project(z, position)
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in (q, k, v))
        rate = self.dropout if self.training else 0.0
        attended = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        x = x + self._drop(self.out(attended.transpose(1, 2).flatten(2)))
        hidden = self.linear1(self.norm2(x))
        if rate:
            return x + self._drop(self.linear2(self._drop(F.gelu(hidden))))
        return x + cheap_again(_linear_of_gelu, hidden, self.linear2.weight, self.linear2.bias)

    def _project(self, z: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One product for q, k and v, and one sum: what it gives is all that attention keeps."""
        qkv = F.linear(z, self.qkv.weight)
        q, k, v = (qkv + self._offset(position, qkv.dtype)).chunk(3, dim=-1)
        return q, k, v

    def _project_first(
        self, first: Tensor, z: Tensor, position: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A query of the first token alone."""
        weight, dim = self.qkv.weight, z.shape[-1]
        q, kv = F.linear(first, weight[:dim]), F.linear(z, weight[dim:])
        offset = self._offset(position, kv.dtype)
        k, v = (kv + offset[:, dim:]).chunk(2, dim=-1)
        return q + offset[:1, :dim], k, v

    def _offset(self, position: Tensor, dtype: torch.dtype) -> Float[Tensor, "t e"]:
        """Bias and positions, projected for q and k: W(z + p) + b = Wz + (Wp + b)."""
        placed = F.linear(position, self.qkv.weight)
        return torch.addcmul(self.qkv.bias, placed, self.with_position).to(dtype)

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training)


def _linear_of_gelu(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.linear(F.gelu(hidden), weight, bias)


class Encoder(nn.Module):
    """Layers and a final norm; returns token 0, the only one that the pose heads read."""

    __call__: Callable[[Tensor, Tensor], Tensor]
    recompute = False
    """Whether training keeps only the layers' inputs."""

    def __init__(self, dim: int, heads: int, layers: int, feedforward: int, dropout: float) -> None:
        super().__init__()
        self.random = dropout > 0
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads, feedforward, dropout) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, tokens: Float[Tensor, "b t d"], position: Float[Tensor, "t d"]
    ) -> Float[Tensor, "b d"]:
        """The last layer computes its query and MLP for token 0 alone, which is exact."""
        last = len(self.layers) - 1
        recompute = self.recompute and self.training
        for index, layer in enumerate(self.layers):
            inputs = (tokens, position, index == last)
            tokens = recomputed(layer, *inputs, random=self.random) if recompute else layer(*inputs)
        return self.norm(tokens[:, 0])
