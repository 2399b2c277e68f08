"""BRISQUE in batches against its definition, and against the package whose parameters it uses."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import plain_brisque
from rap.data.images import decode
from rap.data.room import RoomSpec, make
from rap.scene import DataError
from rap.synthesis.brisque import brisque
from rap.synthesis.brisque_files import load_brisque
from rap.synthesis.brisque_model import BrisqueModel, shape_table

TOLERANCE = 0.05
"""A tenth of what is promised against the package."""


def synthetic_model(seed: int = 0, num: int = 200) -> BrisqueModel:
    """Random support vectors, for scores that spread over hundreds."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    low = torch.tensor([0.3, 0.02] + 4 * [0.2, -0.2, 0.0, 0.0], dtype=torch.float64)
    high = torch.tensor([10.0, 0.8] + 4 * [1.4, 0.2, 0.7, 0.6], dtype=torch.float64)
    return BrisqueModel(
        support=2 * random(num, 36) - 1,
        coefficients=200 * (2 * random(num) - 1),
        gamma=torch.tensor(0.05, dtype=torch.float64),
        rho=torch.tensor(-50.0, dtype=torch.float64),
        low=low.repeat(2),
        high=high.repeat(2),
    )


def pictures(height: int, width: int, seed: int = 0) -> Tensor:
    """8-bit pictures: noise, soft clouds, clouds with burnt-out and black parts, and few levels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(4, 3, height, width, generator=generator)
    coarse = torch.rand(4, 3, 5, 6, generator=generator)
    clouds = F.interpolate(coarse, (height, width), mode="bicubic") + 0.05 * noise
    burnt = 3 * clouds - 0.9
    steps = (4 * clouds).round() / 4 + 0.02 * noise * (noise > 0.9)
    images = torch.cat([noise[:2], clouds, burnt, steps]).clamp(0, 1)
    return (images * 255).round() / 255


def twin_scores(images: Tensor, model: BrisqueModel) -> Tensor:
    arrays = plain_brisque.as_arrays(vars(model))
    scores = [plain_brisque.score(image.double().numpy(), arrays) for image in images]
    return torch.tensor(scores, dtype=torch.float64)


@pytest.mark.parametrize(("height", "width"), [(48, 64), (37, 51), (46, 33)])
def test_scores_are_those_of_the_definition(device: torch.device, height: int, width: int) -> None:
    """float32 in batches agrees with float64 by dense windows, for even and odd sizes."""
    model, images = synthetic_model(), pictures(height, width)
    found = brisque(images.to(device), model.to(device)).cpu()
    expected = twin_scores(images, model).float()
    assert expected.std() > 5, "the model tells these pictures apart"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def test_float64_agrees_to_rounding() -> None:
    """In float64 nothing is left but the twin's own roots and the table between its entries."""
    model, images = synthetic_model(), pictures(40, 56)
    found = brisque(images.double(), model)
    torch.testing.assert_close(found, twin_scores(images.double(), model), rtol=0, atol=1e-3)


def test_a_score_does_not_depend_on_the_batch(device: torch.device) -> None:
    """Alone and among others a picture scores the same."""
    model, images = synthetic_model().to(device), pictures(32, 40).to(device)
    alone = torch.cat([brisque(image[None], model) for image in images])
    torch.testing.assert_close(brisque(images, model), alone, rtol=0, atol=1e-3)


def test_the_precision_of_training_does_not_reach_the_scores(device: torch.device) -> None:
    """Inside autocast to bfloat16, and with TF32 allowed, the scores are the same."""
    model, images = synthetic_model().to(device), pictures(32, 40).to(device)
    expected = brisque(images, model)
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    with torch.autocast(device.type, torch.bfloat16):
        found = brisque(images, model)
    torch.backends.cuda.matmul.allow_tf32 = before
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("level", [0.0, 1.0, 0.3])
def test_one_colour_is_the_worst_picture(device: torch.device, level: float) -> None:
    """Black, white or gray: nothing can be fitted, and the score is infinite, never NaN."""
    images = torch.full((1, 3, 24, 32), level, device=device)
    assert not brisque(images, synthetic_model().to(device)).isnan().any()
    black = torch.zeros(1, 3, 24, 32, device=device)
    assert brisque(black, synthetic_model().to(device)).tolist() == [torch.inf]


def test_tiny_pictures_are_refused() -> None:
    """The second scale needs a few pixels."""
    with pytest.raises(ValueError, match="7x20 images; accepted: at least 8x8"):
        brisque(torch.rand(1, 3, 20, 7), synthetic_model())


def test_shapes_grow_with_the_ratio() -> None:
    """The table can be searched; a Gaussian has shape 2 and ratio 2/π, a Laplacian 1 and 1/2."""
    table = shape_table()
    assert bool((table.ratios.diff() > 0).all())
    shapes = np.interp([2 / np.pi, 0.5], table.ratios.numpy(), table.shapes.numpy())
    assert shapes.tolist() == pytest.approx([2.0, 1.0], abs=1e-6)


@pytest.mark.cuda
def test_scoring_does_not_wait_for_the_gpu() -> None:
    """Nothing in it makes the host wait."""
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda")
    model, images = synthetic_model().to(device), pictures(32, 40).to(device)
    brisque(images, model)
    torch.cuda.set_sync_debug_mode("error")
    try:
        brisque(images, model)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def distorted(images: Tensor) -> Tensor:
    """The pictures themselves, blurred, noisy, and too bright."""
    generator = torch.Generator().manual_seed(0)
    noise = 0.05 * torch.randn(images.shape, generator=generator)
    blurred = F.avg_pool2d(F.pad(images, (2, 2, 2, 2), mode="replicate"), 5, stride=1)
    every = torch.cat([images, blurred, images + noise, 2 * images]).clamp(0, 1)
    return (every * 255).round() / 255


def room_pictures(num: int) -> Tensor:
    scene = make(RoomSpec(num_train=num, num_test=2))
    return distorted(decode(scene.train, scene.camera, num_workers=0) / 255)


def test_trained_parameters_tell_noise_from_a_room() -> None:
    """With the package's parameters pure noise scores worse than any picture of a room."""
    try:
        model = load_brisque()
    except DataError as error:
        pytest.skip(str(error))
    noise = torch.rand(3, 3, 120, 160, generator=torch.Generator().manual_seed(0))
    room = brisque(room_pictures(6)[:6], model)
    assert brisque(noise, model).min() > room.max() + 5
    assert bool((room.abs() < 100).all())


@pytest.mark.filterwarnings("ignore")
def test_scores_are_those_of_the_package() -> None:
    """Within 0.5 of the package itself on 100 rendered, blurred, noisy and burnt-out pictures."""
    package = pytest.importorskip(
        "brisque", reason="needs the package brisque with its OpenCV and libsvm",
        exc_type=ImportError,
    )  # fmt: skip
    images = room_pictures(25)
    theirs = package.BRISQUE(url=False)
    scale = theirs.scale_features
    # numpy 2.4 no longer turns arrays of one number into numbers, which the package expects
    theirs.scale_features = lambda found: scale([np.asarray(number).item() for number in found])
    bytes_of = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    expected = torch.tensor([theirs.score(image) for image in bytes_of])
    found = brisque(images, load_brisque())
    torch.testing.assert_close(found, expected, rtol=0, atol=0.5)
