"""The Python API: its names, how light it is, and that its functions stay functions."""

import inspect
import subprocess
import sys
from pathlib import Path

import rap

ROOT = Path(__file__).parents[1]


def _python(code: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_names() -> None:
    """A change of the public names is a decision, made here."""
    expected = ["Config", "evaluate", "fit", "load", "localize", "preset", "render", "train"]
    assert sorted(rap.__all__) == expected
    assert all(hasattr(rap, name) for name in expected)


def test_signatures() -> None:
    """So is a change of what the functions take."""
    parameters = {
        name: list(inspect.signature(getattr(rap, name)).parameters)
        for name in ("load", "fit", "render", "train", "evaluate", "localize")
    }
    assert parameters == {
        "load": ["path", "format"],
        "fit": ["scene", "config", "device", "saving"],
        "render": ["gaussians", "camera", "world_from_camera", "antialiased", "with_depth"],
        "train": ["scene", "gaussians", "config", "out", "device", "resume"],
        "evaluate": ["scene", "run", "device", "precision"],
        "localize": ["photos", "run", "device", "precision"],
    }


def test_import_is_light() -> None:
    """`import rap` loads neither torch nor anything slow, optional or compiling on import."""
    heavy = ("torch", "gsplat", "fused_ssim", "timm", "matplotlib", "tyro", "pynvml", "PIL")
    assert _python(f"import rap, sys; print(*sorted(set({heavy!r}) & set(sys.modules)))") == ""


def test_functions_are_not_replaced_by_packages() -> None:
    """`rap.train` and `rap.evaluate` are also packages, and loading those changes nothing."""
    from rap.evaluate import report
    from rap.train import loop

    assert inspect.ismodule(loop)
    assert inspect.ismodule(report)
    assert inspect.isfunction(rap.train)
    assert inspect.isfunction(rap.evaluate)


def test_evaluate_package_offers_what_it_lists() -> None:
    """Every name that loads on first use exists, has its type in the stub, and no other does."""
    from rap import evaluate

    assert callable(evaluate)
    package = sys.modules["rap.evaluate"]
    stub = (ROOT / "rap" / "evaluate" / "__init__.pyi").read_text(encoding="utf-8")
    typed = sorted(line.split(" as ")[1] for line in stub.splitlines() if line)
    assert typed == dir(package)
    assert all(hasattr(package, name) for name in typed)
    assert not hasattr(package, "nothing")
