"""Which views are worth keeping: coverage alone, or with the BRISQUE score of each picture."""

import pytest
import torch

from benchmarks import plain_brisque, workloads
from benchmarks.harness import Measure, axis, combine
from benchmarks.workloads import Scale
from rap.config import ViewsConfig
from rap.scene import Scene
from rap.synthesis.brisque import brisque
from rap.synthesis.filter import accept

TOLERANCE = 0.2
"""Of a score; spread over tens, as those of the trained model are."""
ROUNDING = 0.01
"""Of a score in float64, whose shapes come from a table."""
NUM_PLAIN = 4
SPREAD = 2.0


@pytest.mark.parametrize(
    ("score", "batch_size"),
    combine(
        axis(["brisque", "coverage"]), axis([8, 64]),
        default=lambda score, batch_size: score == "brisque" or batch_size == 64,
    ),
)  # fmt: skip
def bench_filter(
    measure: Measure, device: torch.device, scale: Scale, scene: Scene,
    score: str, batch_size: int,
) -> None:  # fmt: skip
    """Scores are those of float64 on the CPU, and the views that pass follow from them.

    A few of the latter are scored by the definition, too.
    """
    photos = workloads.photographs(scene, scale.image_height)[:batch_size]
    index = torch.arange(batch_size) % len(photos)
    alpha = workloads.alphas(batch_size, photos.shape[2], photos.shape[3])
    model = workloads.brisque_model()
    scored = score == "brisque"
    exact = brisque(photos.double() / 255, model)[index] if scored else torch.zeros(batch_size)
    config = ViewsConfig(min_coverage=0.5, max_brisque=float(exact.median()))
    photos = photos[index]
    images, alpha_there, model_there = (photos / 255).to(device), alpha.to(device), model.to(device)

    def judge() -> tuple[torch.Tensor, torch.Tensor | None]:
        scores = brisque(images, model_there) if scored else None
        return accept(alpha_there.mean(dim=(1, 2)), scores, config), scores

    read = alpha.nbytes + (images.nbytes if scored else 0)
    result = measure(judge, items=batch_size, unit="images", clock="gpu", moves_bytes=read)

    passed, scores = result.value
    covered = alpha.double().mean(dim=(1, 2))
    expected, sure = covered >= 0.5, (covered - 0.5).abs() > 1e-4
    if scores is not None:
        off = float((scores.cpu() - exact).abs().max())
        result.check(off < TOLERANCE, f"a score differs from float64 by {off:.3f}")
        arrays, some = (
            plain_brisque.as_arrays(vars(model)),
            range(0, batch_size, batch_size // NUM_PLAIN),
        )
        off = max(
            abs(plain_brisque.score(photos[i].double().numpy() / 255, arrays) - float(exact[i]))
            for i in some
        )
        result.check(off < ROUNDING, f"a score in float64 differs from the definition by {off:.3f}")
        spread = float(exact.std())
        result.check(spread > SPREAD, f"scores spread by {spread:.2f} only: any mistake would pass")
        expected &= exact <= config.max_brisque
        sure &= (exact - config.max_brisque).abs() > TOLERANCE
    same = bool((passed.cpu() == expected)[sure].all())
    result.check(same, "a view passes that should not, or the reverse")
    share = float(expected.double().mean())
    result.check(0.05 < share < 0.95, f"{share:.0%} pass: the filter decides nothing")
