"""Scores that the package `brisque` itself gives to seeded pictures, stored for tests without it.

Made once, in an environment that has the package with its OpenCV and libsvm:

    pip install brisque==0.2.0 opencv-python-headless libsvm-official scikit-image
    python -m tests.synthesis.make_brisque_scores

Of its parameters nothing is stored: figures alone, by its own trained model, and by its code with
the random parameters of `test_brisque.synthetic_model`, which every environment has.
"""

import importlib
import json
import pickle
import tempfile
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rap.data.images import decode
from rap.data.room import RoomSpec, make
from rap.synthesis.brisque_model import BrisqueModel
from tests.synthesis.test_brisque import distorted, pictures, synthetic_model

STORED = Path(__file__).with_name("brisque_scores.json")
ROOM = RoomSpec(num_train=3, num_test=1, width=96, height=72, num_points=50)


def scored_pictures() -> dict[str, Tensor]:
    """8-bit pictures in [0, 1] of two kinds and odd and even sizes, the same everywhere."""
    scene = make(ROOM)
    room = decode(scene.train, scene.camera, num_workers=0) / 255
    return {"synthetic": pictures(61, 84), "room": distorted(room)}


def levels(images: Tensor) -> list[float]:
    """Mean level of each picture, by which a test tells that they are the same."""
    return [round(level, 4) for level in (images * 255).mean(dim=(1, 2, 3)).tolist()]


def write_model(model: BrisqueModel, folder: Path) -> dict[str, str]:
    """The parameters as the package reads them; where they are."""
    rows = [
        " ".join([repr(factor), *(f"{i}:{value!r}" for i, value in enumerate(vector, start=1))])
        for factor, vector in zip(model.coefficients.tolist(), model.support.tolist(), strict=True)
    ]
    head = ["svm_type epsilon_svr", "kernel_type rbf", f"gamma {float(model.gamma)!r}",
            "nr_class 2", f"total_sv {len(rows)}", f"rho {float(model.rho)!r}", "SV"]  # fmt: skip
    (folder / "svm.txt").write_text("\n".join([*head, *rows, ""]))
    ranges = {"min_": model.low.tolist(), "max_": model.high.tolist()}
    (folder / "normalize.pickle").write_bytes(pickle.dumps(ranges))
    return {"svm": str(folder / "svm.txt"), "normalize": str(folder / "normalize.pickle")}


def package_scores(images: Tensor, files: dict[str, str] | None) -> list[float]:
    """By the package: its trained parameters, or those in the files."""
    scorer: Any = importlib.import_module("brisque").BRISQUE(url=False, model_path=files)
    scale = scorer.scale_features
    # numpy 2.4 no longer turns arrays of one number into numbers, which the package expects
    scorer.scale_features = lambda found: scale([np.asarray(number).item() for number in found])
    bytes_of = (images * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return [round(float(scorer.score(image)), 4) for image in bytes_of]


def main() -> None:
    """Score, and store."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = ("brisque", "opencv-python-headless", "libsvm-official", "numpy", "scipy")
    content: dict[str, Any] = {
        "made_by": "python -m tests.synthesis.make_brisque_scores",
        "versions": {name: metadata.version(name) for name in names},
    }
    with tempfile.TemporaryDirectory() as folder:
        files = write_model(synthetic_model(), Path(folder))
        for kind, images in scored_pictures().items():
            content[kind] = {
                "levels": levels(images),
                "stand_in": package_scores(images, files),
                "trained": package_scores(images, None),
            }
    STORED.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
