"""An interrupted fit goes on to the same bits, and only with what it was started with."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Points
from rap.splat import fit as fitting
from rap.splat.fit import FitError, Saving, fit
from rap.splat.gaussians import Gaussians, load_ply
from rap.splat.objective import Targets, Terms
from rap.splat.state import FitState, load_state, save_state

CAMERA = Camera(20.0, 20.0, 12.0, 10.0, 24, 20)
CONFIG = FitConfig(iterations=14, max_gaussians=90, sh_degree=1, refine_every=3, means_lr=1e-2)
CPU = torch.device("cpu")


class KilledError(Exception):
    """Stands for a killed process."""


def noise(seed: int = 0, num: int = 70) -> tuple[torch.Tensor, torch.Tensor, Camera, Points]:
    """Photographs that show nothing, their poses and camera, and points in front of them."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (4, 3, 20, 24), generator=generator).byte()
    poses = torch.eye(4).repeat(4, 1, 1)
    poses[:, :3, 3] = 0.1 * torch.randn(4, 3, generator=generator)
    xyz = torch.randn(num, 3, generator=generator) * 0.5 + torch.tensor([0.0, 0.0, 2.0])
    points = Points(xyz, torch.randint(0, 256, (num, 3), generator=generator).byte())
    return images, poses, CAMERA, points


def run(config: FitConfig, saving: Saving | None = None, seed: int = 0, num: int = 70) -> Gaussians:
    """A small fit to noise."""
    return fit(*noise(seed, num), config, CPU, saving=saving)


def assert_equal(found: Gaussians, expected: Gaussians) -> None:
    """To the last bit, with the appearance."""
    assert found.num == expected.num
    for name in ("means", "quats", "log_scales", "opacity_logits", "sh"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    if expected.appearance is not None:
        assert found.appearance is not None
        for name, value in vars(expected.appearance).items():
            assert torch.equal(getattr(found.appearance, name), value), name


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Have the step of this number fail, until the patch is undone by the next call."""
    original = fitting.step

    def at(number: int) -> None:
        def step(state: FitState, course: fitting.Course) -> tuple[Terms, torch.Tensor]:
            if state.iteration == number:
                raise KilledError
            return original(state, course)

        monkeypatch.setattr(fitting, "step", step)

    return at


PRUNED = replace(CONFIG, prune=0.4, finetune_iterations=5)


@pytest.mark.parametrize(
    ("config", "number"),
    [
        pytest.param(CONFIG, 8, id="mcmc"),
        pytest.param(replace(CONFIG, strategy="classic"), 8, id="classic"),
        pytest.param(replace(CONFIG, appearance_dim=3), 8, id="appearance"),
        pytest.param(replace(CONFIG, exposure=True), 8, id="exposure"),
        pytest.param(replace(CONFIG, exposure=True, appearance_dim=3), 8, id="both"),
        pytest.param(replace(CONFIG, images_per_step=3), 8, id="several images"),
        pytest.param(PRUNED, 8, id="before pruning"),
        pytest.param(PRUNED, 14, id="at pruning"),
        pytest.param(PRUNED, 16, id="after pruning"),
        pytest.param(replace(PRUNED, strategy="classic"), 16, id="classic after pruning"),
    ],
)
def test_a_resumed_fit_ends_with_the_same_bits(
    tmp_path: Path, interrupt: Callable[[int], None], config: FitConfig, number: int
) -> None:
    """Interrupted in the middle, with every random draw and moment in place again."""
    saving = Saving(tmp_path / "state.safetensors", every_s=0.0)
    expected = run(config)
    interrupt(number)
    with pytest.raises(KilledError):
        run(config, saving)
    interrupt(-1)
    assert_equal(run(config, replace(saving, resume=True)), expected)


@pytest.mark.slow
def test_thousands_of_gaussians_in_their_light_go_on_to_the_same_bits(
    tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    """As many as it takes for a product to be rounded by where its factors lie in memory."""
    config = replace(CONFIG, iterations=80, max_gaussians=4000, sh_degree=0, appearance_dim=4)
    saving = Saving(tmp_path / "state.safetensors", every_s=0.0)
    expected = run(config, num=4000)
    interrupt(50)
    with pytest.raises(KilledError):
        run(config, saving, num=4000)
    interrupt(-1)
    assert_equal(run(config, replace(saving, resume=True), num=4000), expected)


@pytest.mark.parametrize("extra", [0, 24])
def test_what_is_read_lies_where_torch_puts_its_own(tmp_path: Path, extra: int) -> None:
    """Products are rounded by where in memory their factors lie: not where the file has them."""
    images, poses, camera, points = noise()
    config = replace(CONFIG, appearance_dim=3)
    start = partial(fitting.begin, Targets(images), poses, camera, points, config, CPU)
    path, mark = tmp_path / "state.safetensors", "m" * extra
    course, state = start()
    fitting.step(state, course)
    save_state(path, state, mark)
    _, read = start()
    load_state(path, read, mark, config.iterations)
    moments = [value for kept in read.optimizer.state.values() for value in kept.values()]
    assert len(moments) == 3 * 11
    for tensor in (*read.parameters.values(), *read.light.values(), *moments):
        assert tensor.data_ptr() % 64 == 0


def test_the_fit_can_be_looked_at_while_it_goes_on(
    tmp_path: Path, interrupt: Callable[[int], None]
) -> None:
    """Beside the state lies a .ply of the Gaussians at that moment."""
    saving = Saving(tmp_path / "state.safetensors", tmp_path / "partial.ply", every_s=0.0)
    interrupt(5)
    with pytest.raises(KilledError):
        run(CONFIG, saving)
    assert load_ply(tmp_path / "partial.ply").num >= 70
    assert {path.name for path in tmp_path.iterdir()} == {"state.safetensors", "partial.ply"}


def test_a_short_fit_that_fails_in_the_end_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of the last step lies there, though `every_s` had not passed."""

    def fail(*_: object) -> Gaussians:
        raise KilledError

    config = replace(CONFIG, exposure=True)
    saving = Saving(tmp_path / "state.safetensors", every_s=3600.0)
    expected = run(config)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "with_exposures", fail)
        with pytest.raises(KilledError):
            run(config, saving)
    monkeypatch.setattr(fitting, "step", fail)
    found = run(config, replace(saving, resume=True))
    assert torch.equal(found.means, expected.means)


def test_a_fit_that_diverges_keeps_its_last_good_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No state that is not finite is written over one that is."""
    original = fitting.step

    def step(state: FitState, course: fitting.Course) -> tuple[Terms, torch.Tensor]:
        if state.iteration == 6:
            state.parameters["means"].data[3] = float("nan")
        return original(state, course)

    saving = Saving(tmp_path / "state.safetensors", every_s=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "step", step)
        with pytest.raises(FitError, match="diverged"):
            run(CONFIG, saving)
    found = run(CONFIG, replace(saving, resume=True))
    assert torch.equal(found.means, run(CONFIG).means)


def test_a_state_of_another_fit_is_refused(tmp_path: Path) -> None:
    """Other settings or other images: the message names the file and what to do."""
    saving = Saving(tmp_path / "state.safetensors", every_s=0.0)
    run(CONFIG, saving)
    again = replace(saving, resume=True)
    for config, seed in ((replace(CONFIG, seed=8), 0), (CONFIG, 1)):
        with pytest.raises(FitError, match=r"state\.safetensors.*other settings, images or points"):
            run(config, again, seed)


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    """A torn file and one that is no state give one clear error each."""
    path = tmp_path / "state.safetensors"
    run(CONFIG, Saving(path, every_s=0.0))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(FitError, match="no state of a fit that can be read"):
        run(CONFIG, Saving(path, resume=True))
    with pytest.raises(FitError, match="no state of a fit that can be read"):
        run(CONFIG, Saving(tmp_path / "missing.safetensors", resume=True))


def forged(
    path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, object]], object]
) -> None:
    """The state with its tensors or with what it says of itself changed."""
    with safe_open(path, framework="pt") as file:
        told = json.loads(file.metadata()["fit"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no dict)
    change(tensors, told)
    save_file(tensors, path, metadata={"fit": json.dumps(told)})


FORGED: dict[str, tuple[Callable[[dict[str, torch.Tensor], dict[str, object]], object], str]] = {
    "no means": (lambda t, _: t.pop("parameter.means"), "parameter.means is missing"),
    "no moment": (lambda t, _: t.pop("exp_avg.sh_base"), "exp_avg.sh_base is missing"),
    "no steps": (lambda t, _: t.pop("step.codes"), "step.codes is missing"),
    "no generator": (lambda t, _: t.pop("generator"), "generator is missing"),
    "no statistics": (lambda t, _: t.pop("statistics.count"), "statistics.count is missing"),
    "surplus": (lambda t, _: t.update(more=torch.ones(2)), "more is unknown"),
    "rows": (
        lambda t, _: t.update({"parameter.quats": torch.ones(3, 4)}),
        r"parameter.quats is torch.float32 \[3, 4\] instead of torch.float32 \[70, 4\]",
    ),
    "scalar means": (lambda t, _: t.update({"parameter.means": torch.ones(())}), "no Gaussians"),
    "kind": (
        lambda t, _: t.update({"exp_avg.means": t["exp_avg.means"].double()}),
        "exp_avg.means is torch.float64",
    ),
    "nan": (
        lambda t, _: t["parameter.hidden"].fill_(torch.nan), "parameter.hidden is not finite"
    ),
    "short generator": (
        lambda t, _: t.update(generator=t["generator"][:-1]), "generator is torch.uint8"
    ),
    "other generator": (lambda t, _: t["generator"].fill_(255), "generator holds no state"),
    "no fingerprint": (lambda _, told: told.pop("fingerprint"), "fingerprint missing"),
    "no iteration": (lambda _, told: told.pop("iteration"), "iteration missing"),
    "before the first step": (lambda _, told: told.update(iteration=-5), "steps 1 to 14"),
    "after the last": (lambda _, told: told.update(iteration=10**6), "iteration 1000000; .* to 14"),
    "half a step": (lambda _, told: told.update(iteration=1.5), "iteration 1.5"),
}  # fmt: skip


@pytest.fixture(scope="module")
def whole_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a fit with all that can be in a state has left."""
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    run(FULL, Saving(path, every_s=3600.0))
    return path


FULL = replace(CONFIG, strategy="classic", refine_start=1.0, refine_stop=1.0, appearance_dim=3)


@pytest.mark.parametrize("case", FORGED)
def test_a_state_that_is_not_whole_is_refused_by_name(
    tmp_path: Path, whole_state: Path, case: str
) -> None:
    """It can be read, but no fit can go on from it: one error names the file and what is wrong."""
    change, message = FORGED[case]
    path = tmp_path / "state.safetensors"
    path.write_bytes(whole_state.read_bytes())
    forged(path, change)
    with pytest.raises(FitError, match=rf"state\.safetensors: no whole state .*{message}.*anew"):
        run(FULL, Saving(path, resume=True))


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "3", "[]", '{"version": ' + "9" * 5000 + "}"])
def test_a_state_that_says_nothing_of_itself_is_refused(tmp_path: Path, text: str) -> None:
    """Whatever stands where the fit's description should."""
    path = tmp_path / "state.safetensors"
    save_file({"generator": torch.zeros(3)}, path, metadata={"fit": text})
    with pytest.raises(FitError, match=r"state\.safetensors: no (whole )?state of .*fit anew"):
        run(CONFIG, Saving(path, resume=True))


def test_a_state_of_another_device_is_refused(tmp_path: Path) -> None:
    """Random draws of a GPU do not go on on a CPU; the message says where they do."""
    path = tmp_path / "state.safetensors"
    run(CONFIG, Saving(path, every_s=0.0))
    # in the header, which is text; a word of the same length
    path.write_bytes(path.read_bytes().replace(rb"\"cpu\"", rb"\"gpu\""))
    with pytest.raises(FitError, match=r"started on gpu.*resume with --device gpu"):
        run(CONFIG, Saving(path, resume=True))
