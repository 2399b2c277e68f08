"""What a step of a fit does and when: each of its parts is called on time, with what is its due."""

from collections.abc import Callable
from dataclasses import replace
from math import sqrt
from types import ModuleType
from typing import Any

import pytest
import torch

from rap.camera import Camera
from rap.config import FitConfig
from rap.scene import Points
from rap.splat import classic, density
from rap.splat import fit as fitting
from rap.splat.fit import Course, begin, step
from rap.splat.objective import Targets, Terms, term_weights
from rap.splat.state import FitState

CAMERA = Camera(10.0, 10.0, 6.0, 5.0, 12, 10)
CONFIG = FitConfig(
    iterations=30, max_gaussians=40, sh_degree=1, refine_every=3, refine_start=0.2, refine_stop=0.8
)
CLASSIC = replace(CONFIG, strategy="classic", refine_every=1)
Call = tuple[int, tuple[Any, ...], dict[str, Any]]
Watch = Callable[[ModuleType, str], list[Call]]


class Fit:
    """A small fit to noise, and at which of its steps it is."""

    course: Course
    state: FitState

    def start(self, config: FitConfig, num: int = 25) -> None:
        """Before the first step, with `num` points and depth where it counts."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (4, 3, 10, 12), generator=generator).byte()
        poses = torch.eye(4).repeat(4, 1, 1)
        poses[:, :3, 3] = 0.1 * torch.randn(4, 3, generator=generator)
        xyz = torch.randn(num, 3, generator=generator) * 0.5 + torch.tensor([0.0, 0.0, 2.0])
        points = Points(xyz, torch.randint(0, 256, (num, 3), generator=generator).byte())
        targets = Targets(images, torch.ones(4, 10, 12))
        cpu = torch.device("cpu")
        self.course, self.state = begin(targets, poses, CAMERA, points, config, cpu)

    def run(self, config: FitConfig) -> None:
        """All steps."""
        self.start(config)
        for _ in range(len(self.course.order)):
            step(self.state, self.course)


@pytest.fixture
def small_fit() -> Fit:
    return Fit()


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, small_fit: Fit) -> Watch:
    """The calls of a function from now on, each with the steps done and what it was given."""

    def watched(module: ModuleType, name: str) -> list[Call]:
        original, calls = getattr(module, name), []

        def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 (passed on)
            calls.append((small_fit.state.iteration, args, options))
            return original(*args, **options)

        monkeypatch.setattr(module, name, call)
        return calls

    return watched


def steps_of(calls: list[Call]) -> list[int]:
    return [at for at, _, _ in calls]


def test_opacities_are_reset_every_tenth_part_of_the_first_half(
    small_fit: Fit, watch: Watch
) -> None:
    """By the classic strategy."""
    resets = watch(classic, "reset_opacity")
    small_fit.run(CLASSIC)
    assert steps_of(resets) == [3, 6, 9, 12, 15]


def test_the_classic_strategy_refines_in_its_phase(small_fit: Fit, watch: Watch) -> None:
    """Every `refine_every` steps, with all that views said since; huge ones go after a reset."""
    refined, observed = watch(classic, "refine"), watch(classic, "observe")
    config = replace(CLASSIC, iterations=40, refine_every=2, refine_start=0.05)
    small_fit.run(config)
    assert steps_of(refined) == list(range(4, 32, 2))
    assert [options["remove_huge"] for _, _, options in refined] == [
        at > 6 for at in steps_of(refined)
    ]
    for _, (_, _, _, size_m, cap, generator), _ in refined:
        assert (size_m, cap) == (small_fit.course.size_m, config.max_gaussians)
        assert generator is small_fit.state.generator
    assert steps_of(observed) == list(range(32))
    assert all(gradient.abs().sum() > 0 for _, (_, gradient, _), _ in observed)


def test_mcmc_relocates_and_grows_in_its_phase(small_fit: Fit, watch: Watch) -> None:
    """Every `refine_every` steps, up to the cap; no probe is drawn for it, nothing is reset."""
    resets = watch(classic, "reset_opacity")
    relocated, grown = watch(density, "relocate"), watch(density, "grow")
    drawn = watch(fitting, "render")
    small_fit.run(CONFIG)
    assert steps_of(relocated) == steps_of(grown) == [9, 12, 15, 18, 21]
    assert {args[2] for _, args, _ in grown} == {CONFIG.max_gaussians}
    assert all(options["probe"] is None for _, _, options in drawn)
    assert not resets


@pytest.mark.parametrize("noise_every", [1, 4])
def test_noise_moves_the_means_until_the_last_refinement(
    small_fit: Fit, watch: Watch, noise_every: int
) -> None:
    """A draw that stands for n steps is √n times as strong; it falls with the means' rate."""
    explored = watch(density, "explore")
    config = replace(CONFIG, noise_every=noise_every, noise_lr=2e5)
    small_fit.run(config)
    assert steps_of(explored) == list(range(0, 24, noise_every))
    for at, (_, strength, _), _ in explored:
        rate = config.means_lr * small_fit.course.extent_m * 0.01 ** (at / 30)
        assert strength == pytest.approx(rate * 2e5 * sqrt(noise_every))


def test_the_harmonics_rise_by_a_degree_every_30th_part(small_fit: Fit, watch: Watch) -> None:
    """As far as there are harmonics, which `trained_colors` sees to."""
    colored = watch(fitting, "trained_colors")
    small_fit.run(replace(CONFIG, iterations=45))
    assert [degree for _, (_, _, degree, _), _ in colored] == [at * 2 // 3 for at in range(45)]


def test_a_step_shows_its_own_photographs(small_fit: Fit, watch: Watch) -> None:
    """From where they were taken, in their order."""
    drawn, judged = watch(fitting, "render"), watch(fitting, "objective")
    colored = watch(fitting, "trained_colors")
    small_fit.run(replace(CONFIG, iterations=8, images_per_step=2))
    course = small_fit.course
    assert course.order.shape == (8, 2)
    assert sorted(course.order[:2].flatten().tolist()) == [0, 1, 2, 3]
    for (at, render_args, _), (_, terms_args, _), (_, color_args, _) in zip(
        drawn, judged, colored, strict=True
    ):
        chosen = course.order[at]
        assert torch.equal(render_args[2], course.camera_from_world[chosen])
        assert torch.equal(terms_args[3], chosen)
        assert torch.equal(color_args[1], course.centres[chosen])


def test_light_is_shown_with_its_dropout(small_fit: Fit, watch: Watch) -> None:
    """Code and exposure of a photograph; with the exposure solved for, none is learnt."""
    lit, colored = watch(fitting, "shown"), watch(fitting, "trained_colors")
    drawn, judged = watch(fitting, "render"), watch(fitting, "objective")
    config = replace(CONFIG, iterations=2, appearance_dim=3, appearance_dropout=0.375)
    for exposure in (False, True):
        small_fit.run(replace(config, exposure=exposure))
    assert [args[2] for _, args, _ in lit] == 4 * [0.375]
    assert all(
        args[1] is chosen[3] for (_, args, _), (_, chosen, _) in zip(lit, judged, strict=True)
    )
    assert all(args[3].shape == (1, 3) for _, args, _ in colored)
    assert [options["exposure"] is None for _, _, options in drawn] == [False, False, True, True]


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_depth_is_drawn_where_it_counts(small_fit: Fit, watch: Watch, weight: float) -> None:
    """It costs time elsewhere."""
    drawn = watch(fitting, "render")
    small_fit.run(replace(CONFIG, iterations=1, depth_weight=weight))
    assert [options["with_depth"] for _, _, options in drawn] == [weight > 0]


def test_rates_fall_with_the_steps_that_are_done(small_fit: Fit, watch: Watch) -> None:
    """The means' to a hundredth, the light's by its own rule; both from `done`, 0 to 1."""
    rates, updated = watch(fitting, "set_learning_rates"), watch(fitting, "update")
    config = replace(CONFIG, iterations=10, images_per_step=4, prune=0.5, finetune_iterations=2)
    small_fit.start(config)
    found = []
    for _ in range(12):
        step(small_fit.state, small_fit.course)
        found.append(small_fit.state.optimizer.param_groups[0]["lr"])
    first = 2 * config.means_lr * small_fit.course.extent_m
    assert found == pytest.approx([first * 0.01 ** (min(at, 10) / 10) for at in range(12)])
    assert [args[2] for _, args, _ in rates] == [min(at, 10) / 10 for at in range(12)]
    assert len(updated) == 12


def test_every_term_counts_with_its_weight(small_fit: Fit) -> None:
    """What a step adds to a gradient is the term's own times the weight that the settings name."""
    config = replace(
        CONFIG, ssim_weight=0.25, depth_weight=0.5, opacity_reg=0.03, scale_reg=0.04,
        appearance_reg=0.06, appearance_dim=2,
    )  # fmt: skip
    expected = {
        "l1": 0.75, "ssim": -0.25, "depth": 1.5, "opacity": 0.03, "scale": 0.04, "appearance": 0.06,
    }  # fmt: skip
    assert term_weights(config, 3.0) == pytest.approx(expected)
    small_fit.start(config)
    assert {name: float(value) for name, value in small_fit.course.weights.items()} == (
        pytest.approx(term_weights(config, small_fit.course.extent_m))
    )


def test_the_step_goes_down_the_weighted_terms(
    small_fit: Fit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gradient that the optimiser gets is that of the weighted sum."""
    small_fit.start(replace(CONFIG, appearance_dim=2, appearance_dropout=0.0, opacity_reg=0.3))
    learnt = small_fit.state.parameters | small_fit.state.light
    weights = term_weights(small_fit.course.config, small_fit.course.extent_m)
    original, expected, found = fitting.objective, [], []

    def objective(*args: Any) -> Terms:  # noqa: ANN401 (passed on)
        terms = original(*args)
        weighted = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        expected.extend(torch.autograd.grad(weighted, list(learnt.values()), retain_graph=True))
        return terms

    monkeypatch.setattr(fitting, "objective", objective)
    monkeypatch.setattr(
        fitting, "update", lambda _: found.extend(value.grad for value in learnt.values())
    )
    step(small_fit.state, small_fit.course)
    for name, gradient, right in zip(learnt, found, expected, strict=True):
        torch.testing.assert_close(gradient, right, atol=1e-7, rtol=1e-4, msg=name)
