"""A filter that hardly lets a view pass is told once, with what rejects them."""

import pytest

from rap.config import ViewsConfig
from rap.train.rejects import once, rejection

CONFIG = ViewsConfig(min_coverage=0.9, max_brisque=30.0)


def record(
    acceptance: float, kind: str = "views", rendered: int = 200, epoch: int = 3
) -> dict[str, object]:
    """An epoch's log record, as far as it is about views."""
    return {
        "epoch": epoch, f"{kind}_rendered": rendered, f"{kind}_acceptance": acceptance,
        f"{kind}_below_filter": 17, f"{kind}_low_coverage": 190, f"{kind}_high_brisque": 4,
    }  # fmt: skip


@pytest.mark.parametrize("kind", ["views", "streamed"])
def test_few_that_pass_are_told_with_the_reason(kind: str) -> None:
    """The numbers, and which limit rejected."""
    told = rejection(record(0.05, kind), CONFIG)
    assert told is not None
    assert told.startswith("5.0% of the 200 views drawn for epoch 3 pass the filter (190 had a cov")
    assert "coverage below 0.9, 4 a BRISQUE score above 30); 17 that do not are trained on" in told
    alone = rejection(record(0.05, kind), ViewsConfig(min_coverage=0.9))
    assert alone is not None
    assert "BRISQUE score" not in alone


@pytest.mark.parametrize(
    "logged", [{"epoch": 1}, record(0.1), record(1.0), record(0.0, "streamed", rendered=0)]
)
def test_many_that_pass_need_no_word(logged: dict[str, object]) -> None:
    """Nor does an epoch in which none was drawn."""
    assert rejection(logged, CONFIG) is None


def test_a_training_is_told_once(capfd: pytest.CaptureFixture[str]) -> None:
    """However many of its epochs reject everything, and not before the first that does."""
    warn = once(CONFIG)
    for epoch, acceptance in enumerate([1.0, 0.0, 0.0]):
        warn(record(acceptance, epoch=epoch))
    err = capfd.readouterr().err
    assert err.count("warning: ") == 1
    assert "0.0% of the 200 views drawn for epoch 1 pass" in err
