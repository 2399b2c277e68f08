"""The encoder against a plain computation of what the paper describes."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from rap.model.transformer import Encoder, PositionTable

DIM, HEADS = 16, 2


def encoder(layers: int = 3, dropout: float = 0.1) -> Encoder:
    torch.manual_seed(0)
    net = Encoder(DIM, HEADS, layers, 24, dropout).double().eval()
    for name, parameter in net.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.3)
    return net


def plain_layer(
    layer: Any,  # noqa: ANN401 (a module whose children pyrefly doesn't know)
    x: Tensor,
    position: Tensor,
) -> Tensor:
    """Pre-norm attention and MLP over all tokens, with the softmax written out."""
    z = layer.norm1(x)
    w_q, w_k, w_v = layer.qkv.weight.chunk(3)
    b_q, b_k, b_v = layer.qkv.bias.chunk(3)
    q, k, v = (z + position) @ w_q.T + b_q, (z + position) @ w_k.T + b_k, z @ w_v.T + b_v
    heads = []
    for part in torch.arange(DIM).chunk(HEADS):
        scores = q[..., part] @ k[..., part].mT / (DIM // HEADS) ** 0.5
        heads.append(scores.softmax(-1) @ v[..., part])
    x = x + torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias
    return x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))


@given(num_tokens=st.integers(1, 12), batch=st.integers(1, 2))
def test_encoder_equals_the_plain_computation(num_tokens: int, batch: int) -> None:
    """Fused products, folded positions and the short last layer are exact."""
    net = encoder()
    x = torch.randn(batch, num_tokens, DIM, dtype=torch.float64)
    position = torch.randn(num_tokens, DIM, dtype=torch.float64)
    y = x
    for layer in net.layers:
        y = plain_layer(layer, y, position)
    torch.testing.assert_close(net(x, position), net.norm(y)[:, 0], rtol=1e-10, atol=1e-10)


def test_first_token_alone_equals_the_full_layer() -> None:
    """The last layer's query and MLP for token 0 alone give what all tokens give."""
    layer = encoder().layers[0]
    x = torch.randn(2, 9, DIM, dtype=torch.float64)
    position = torch.randn(9, DIM, dtype=torch.float64)
    torch.testing.assert_close(layer(x, position, True), layer(x, position, False)[:, :1])


def test_queries_keys_and_values_are_parts_of_one_map() -> None:
    """So attention keeps each once, and nothing that was projected besides."""
    layer: Any = encoder().layers[0]
    x, position = torch.randn(3, 9, DIM).double(), torch.randn(9, DIM).double()
    q, k, v = layer._project(x, position)
    assert {y.untyped_storage().nbytes() for y in (q, k, v)} == {3 * x.nbytes}
    assert len({y.untyped_storage().data_ptr() for y in (q, k, v)}) == 1
    q, k, v = layer._project_first(x[:, :1], x, position)
    assert k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    assert (q.shape[1], k.untyped_storage().nbytes()) == (1, 2 * x.nbytes)


def test_last_layer_computes_one_token() -> None:
    """What nobody reads is not computed: the last MLP sees token 0 alone, the others see all."""
    net = encoder(layers=2)
    lengths = []
    for layer in net.layers:
        mlp = layer.get_submodule("linear1")
        mlp.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    net(torch.randn(1, 9, DIM).double(), torch.zeros(9, DIM).double())
    assert lengths == [9, 1]


def test_cells_are_row_major_with_columns_first() -> None:
    """Token 1 + y·w + x is the vector of column x, then that of row y."""
    table = PositionTable(8)
    tokens = table(3, 5)
    assert tokens.shape == (16, 8)
    torch.testing.assert_close(tokens[0], torch.cat([table.pose, table.pose]))
    torch.testing.assert_close(tokens[1 + 2 * 5 + 4], torch.cat([table.columns[4], table.rows[2]]))


@pytest.mark.parametrize(("height", "width"), [(256, 10), (10, 256)])
def test_map_larger_than_the_tables_is_refused(height: int, width: int) -> None:
    """255 cells a side is the most; the error says the sizes."""
    table = PositionTable(4)
    assert table(255, 255).shape == (1 + 255 * 255, 4)
    with pytest.raises(ValueError, match=f"{height}x{width} cells .* 255x255"):
        table(height, width)


def test_cells_of_a_smaller_image_have_the_places_of_the_full_one() -> None:
    """With vectors that are linear in the place, those at the smaller image's cells are exact."""
    table = PositionTable(4)
    with torch.no_grad():
        for vectors, step in ((table.rows, 1.0), (table.columns, 10.0)):
            vectors.copy_(step * (torch.arange(len(vectors))[:, None] + 0.5).expand(-1, 2))
    table.stretch = (2.0, 2.5)
    cells = table(3, 4)[1:].unflatten(0, (3, 4))
    assert torch.allclose(cells[0, :, 0], 10 * torch.tensor([1.25, 3.75, 6.25, 8.75]))
    assert torch.allclose(cells[:, 0, 2], torch.tensor([1.0, 3.0, 5.0]))
    assert table(127, 102).shape == (1 + 127 * 102, 4)
    for height, width in ((128, 4), (3, 103)):
        with pytest.raises(ValueError, match="larger than the position tables"):
            table(height, width)


def test_attention_weights_are_dropped_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Published dropout covers the attention weights, too."""
    rates = []
    original = F.scaled_dot_product_attention

    def spy(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float) -> Tensor:
        rates.append(dropout_p)
        return original(q, k, v, dropout_p=dropout_p)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    net = encoder(layers=1, dropout=0.3)
    x, position = torch.randn(1, 4, DIM).double(), torch.zeros(4, DIM).double()
    net.train()(x, position)
    net.eval()(x, position)
    assert rates == [0.3, 0.0]


def test_dropout_varies_in_training_and_not_in_evaluation() -> None:
    """Two passes differ in training mode and are identical in evaluation mode."""
    net = encoder()
    x, position = torch.randn(1, 4, DIM).double(), torch.zeros(4, DIM).double()
    assert torch.equal(net(x, position), net(x, position))
    net.train()
    assert not torch.equal(net(x, position), net(x, position))


def test_matrices_are_drawn_xavier_uniform() -> None:
    """Every matrix stays within the Xavier bound and fills it."""
    torch.manual_seed(0)
    for parameter in Encoder(64, 4, 2, 64, 0.1).parameters():
        if parameter.dim() > 1:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.95 * bound < parameter.abs().max() <= bound
