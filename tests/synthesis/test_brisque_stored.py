"""BRISQUE against figures of the package itself, which need not be installed for that."""

import json
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from rap.scene import DataError
from rap.synthesis.brisque import brisque
from rap.synthesis.brisque_files import load_brisque
from tests.synthesis.make_brisque_scores import STORED, levels, scored_pictures
from tests.synthesis.test_brisque import synthetic_model

PROMISED = 0.5
"""What is promised against the package."""
LEVEL_TOLERANCE = 0.01
"""Of the mean level of a picture, whose bytes may be rounded otherwise elsewhere."""


@cache
def pictures_of(kind: str) -> Tensor:
    return scored_pictures()[kind]


def stored(kind: str) -> dict[str, Any]:
    return json.loads(STORED.read_text(encoding="utf-8"))[kind]


@pytest.mark.parametrize("kind", ["synthetic", "room"])
def test_the_pictures_are_those_that_the_package_scored(kind: str) -> None:
    """Where this fails nothing is wrong with the scores: make the figures anew."""
    expected = torch.tensor(stored(kind)["levels"])
    found = torch.tensor(levels(pictures_of(kind)))
    torch.testing.assert_close(found, expected, rtol=0, atol=LEVEL_TOLERANCE)


@pytest.mark.parametrize("kind", ["synthetic", "room"])
def test_scores_with_given_parameters_are_those_of_the_package(
    device: torch.device, kind: str
) -> None:
    """Its OpenCV, SciPy and libsvm, with random support vectors in the place of its own."""
    expected = torch.tensor(stored(kind)["stand_in"])
    found = brisque(pictures_of(kind).to(device), synthetic_model().to(device)).cpu()
    assert expected.std() > 10 * PROMISED, "the model tells these pictures apart"
    torch.testing.assert_close(found, expected, rtol=0, atol=PROMISED)


@pytest.mark.parametrize("kind", ["synthetic", "room"])
def test_scores_with_its_own_parameters_are_those_of_the_package(kind: str) -> None:
    """Where its two files are installed; neither OpenCV nor libsvm is needed."""
    try:
        model = load_brisque()
    except DataError as error:
        pytest.skip(str(error))
    expected = torch.tensor(stored(kind)["trained"])
    found = brisque(pictures_of(kind), model)
    torch.testing.assert_close(found, expected, rtol=0, atol=PROMISED)
