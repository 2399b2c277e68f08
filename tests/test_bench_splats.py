"""What the benchmarks of rendering draw, and that what they check can fail."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import clouds
from benchmarks.workloads import CPU_SCALE
from rap.splat.gaussians import save_ply

CPU = torch.device("cpu")


def test_a_fitted_splat_without_codes_is_shown_in_random_light(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the default settings fit it: it knows exposures alone."""
    fitted = clouds.cloud(50, 1, CPU)
    assert fitted.appearance is not None
    alone = replace(
        fitted.appearance, codes=torch.zeros(3, 0), hidden=torch.zeros(0, 32),
        exposure=fitted.appearance.exposure[:3],
    )  # fmt: skip
    save_ply(tmp_path / "fitted.ply", replace(fitted, appearance=alone))
    monkeypatch.setenv(clouds.FITTED, str(tmp_path / "fitted.ply"))
    light = clouds.shown("fitted", CPU_SCALE, CPU).gaussians.appearance
    assert light is not None
    assert light.num_codes == 8
    assert len(light.exposure) == len(light.codes)
