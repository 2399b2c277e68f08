"""Settings of the splat and of the views that it synthesises."""

from dataclasses import dataclass
from typing import Literal

from rap.config.checks import ConfigError, at_least, check_numbers, in_range

Strategy = Literal["mcmc", "classic"]
MAX_RENDERS = 10_000_000
"""Of photographs in a fit, whose order is drawn before it: weeks on a CPU, a day on a GPU."""


@dataclass(frozen=True)
class FitConfig:
    """Photographs and poses to Gaussians (3D Gaussian splatting)."""

    strategy: Strategy = "mcmc"
    """How Gaussians come and go: `mcmc` moves them about, `classic` clones, splits and removes."""
    iterations: int = 5000
    """Optimisation steps."""
    images_per_step: int = 1
    """Photographs rendered per step; a step then does about as much as that many of one."""
    height: int | None = None
    """Train at this image height; none: the photographs' own."""
    max_gaussians: int = 300_000
    """There are never more than this."""
    initial_points: int = 100_000
    """Use at most this many initial points; surplus is drawn at random."""
    depth_points: int = 0
    """Further initial points from depth, where frames have it: bare walls have no others."""
    sh_degree: int = 2
    """Highest spherical-harmonics degree of the colours."""
    ssim_weight: float = 0.2
    """w in the loss (1 - w)·L1 + w·(1 - SSIM)."""
    depth_weight: float = 0.0
    """Weight of the L1 of inverse depths times the scene's extent, where frames have depth."""
    exposure: bool = False
    """Compare each photograph after the exposure and white balance that bring it nearest."""
    antialiased: bool = True
    """Compensate opacity for the screen-space low-pass filter (Mip-Splatting)."""
    means_lr: float = 1.6e-4
    """Learning rate of the means per unit of scene extent; decays to 1 % of it."""
    scales_lr: float = 5e-3
    """Learning rate of the log scales."""
    quats_lr: float = 1e-3
    """Learning rate of the quaternions."""
    opacities_lr: float = 5e-2
    """Learning rate of the opacity logits."""
    sh_lr: float = 2.5e-3
    """Learning rate of the base colour; higher degrees get a twentieth."""
    opacity_reg: float = 0.01
    """Weight of the mean opacity with `mcmc`, which needs it to free Gaussians."""
    scale_reg: float = 0.01
    """Weight of the mean scale with `mcmc`."""
    appearance_dim: int = 0
    """Numbers in each photograph's appearance code, which says how it is lit; 0: all alike."""
    appearance_lr: float = 2e-3
    """Learning rate of the appearance's head; codes and features get 5x, exposures 0.3x."""
    appearance_reg: float = 1e-3
    """Weight of the squares of codes, head and exposures: holds photographs near the mean light."""
    appearance_dropout: float = 0.1
    """Share of the renderings in which a photograph is shown in the mean appearance."""
    noise_lr: float = 5e5
    """Strength of MCMC's exploration noise."""
    noise_every: int = 1
    """Steps between draws of the noise, each as strong as all that it stands for."""
    refine_every: int = 100
    """Steps between refinements."""
    refine_start: float = 0.1
    """Share of the iterations before the first refinement."""
    refine_stop: float = 0.85
    """Share of the iterations after the last refinement; equal to refine_start: there is none."""
    prune: float = 0.0
    """Share of the Gaussians to remove in the end: those that the photographs show least."""
    finetune_iterations: int = 500
    """Steps after pruning."""
    seed: int = 7
    """Seed of every random choice of the fit."""

    def __post_init__(self) -> None:
        at_least(self, "fit", 1, "iterations", "images_per_step")
        at_least(self, "fit", 2, "max_gaussians", "initial_points")
        at_least(self, "fit", 1, "refine_every", "noise_every")
        at_least(self, "fit", 16, "height")
        at_least(self, "fit", 0, "depth_weight", "depth_points")
        at_least(self, "fit", 1, "finetune_iterations")
        in_range(self, "fit", 0, 1, "prune", below=True)
        at_least(self, "fit", 0, "means_lr", "scales_lr", "quats_lr", "opacities_lr", "sh_lr")
        at_least(self, "fit", 0, "noise_lr", "opacity_reg", "scale_reg")
        at_least(self, "fit", 0, "appearance_dim", "appearance_lr", "appearance_reg")
        in_range(self, "fit", 0, 3, "sh_degree")
        in_range(self, "fit", 0, 1, "ssim_weight", "refine_start", "refine_stop")
        in_range(self, "fit", 0, 1, "appearance_dropout")
        if self.refine_start > self.refine_stop:
            raise ConfigError(
                f"fit.refine_start = {self.refine_start!r} must be at most fit.refine_stop ="
                f" {self.refine_stop!r}"
            )
        most = max(self.iterations, self.finetune_iterations) * self.images_per_step
        if most > MAX_RENDERS:
            raise ConfigError(
                f"fit.iterations = {self.iterations} and fit.finetune_iterations = "
                f"{self.finetune_iterations}, times fit.images_per_step = {self.images_per_step}, "
                f"must each be at most {MAX_RENDERS:,}"
            )
        check_numbers(self, "fit")


@dataclass(frozen=True)
class ViewsConfig:
    """Random view synthesis (RVS): new poses near the training poses, rendered from the splat."""

    translation_m: float = 0.2
    """Largest shift of the camera, uniform in a ball."""
    rotation_deg: float = 10.0
    """Largest turn of the camera about itself, a geodesic angle."""
    curriculum_share: float = 0.0
    """Share of the epochs in which these two go from a start to what they are; 0: off."""
    curriculum_start: float = 0.25
    """Factor on the two in the first epoch; above 1 they shrink. It changes evenly."""
    per_image: int = 1
    """Views per training photograph; 0 trains without synthesis, with weights.view = 0 as well."""
    refresh_epochs: int = 1
    """Epochs between redraws of all views; with `stream_per_step` only the first redraws all."""
    bounds_margin_m: float = 0.2
    """Views must lie in the box of the training cameras, widened by this."""
    min_coverage: float = 0.5
    """A view with a lower mean alpha is rejected."""
    max_brisque: float = 0.0
    """A view with a higher BRISQUE score (0 clean, 100 bad) is rejected; 0: not scored."""
    max_attempts: int = 10
    """How often a view that is rejected is drawn, the first time included; then the best attempt is
    kept and counted."""
    appearance_scale: float = 2.0
    """Strongest light of a view, if the splat has codes: 1 as photographed; 0: all mean. A splat
    of exposures alone shows each view as its photograph was exposed; at 0 in the mean exposure."""
    appearance_jitter: float = 0.1
    """Random change of a view's appearance code, relative to the photographs' spread."""
    render_height: int | None = None
    """Draw at this height, then shrink to the network's image; none: draw at its size directly."""
    render_batch: int | None = None
    """Views drawn per call; none: as many as the memory model allows, up to 32."""
    stream_per_step: int = 0
    """Views redrawn beside each training step, in turn, instead of all at once; 0: none."""
    colors: Literal["evaluated", "baked"] = "evaluated"
    """Directional colours: exact for each view, or as seen from the middle of the photographs."""
    sh_degree: int | None = None
    """Highest degree of directional colour; none: as fitted. Not exact."""
    fused_colors: bool = True
    """On CUDA, colours of all views by one kernel."""
    fused_blend: bool = True
    """On CUDA, unless packed, blend by our own kernel instead of gsplat's; same picture."""
    fused_projection: bool = True
    """With `fused_blend`, project by our own kernel; colours in half floats, 68 dB from it."""
    morton_order: bool = True
    """Sort the Gaussians along a space-filling curve, for the caches; same picture."""
    packed: bool = False
    """Keep only visible (view, Gaussian) pairs: less memory where few are visible; same picture."""
    radius_clip_px: float = 0.0
    """Leave out Gaussians that reach no farther than this in x and in y. Not exact."""
    tile_size: Literal[8, 16] = 16
    """Pixels along a tile, without `fused_projection` or packed; same picture."""

    def __post_init__(self) -> None:
        at_least(self, "views", 0, "translation_m", "rotation_deg", "per_image")
        at_least(self, "views", 0, "stream_per_step", "radius_clip_px")
        at_least(self, "views", 16, "render_height")
        if self.sh_degree is not None:
            in_range(self, "views", 0, 3, "sh_degree")
        at_least(self, "views", 0, "bounds_margin_m", "max_brisque")
        at_least(self, "views", 0, "appearance_scale", "appearance_jitter")
        at_least(self, "views", 0, "curriculum_start")
        in_range(self, "views", 0, 1, "curriculum_share")
        # a pixel's alpha ends below 1, where too little light is left to count
        in_range(self, "views", 0, 1, "min_coverage", below=True)
        at_least(self, "views", 1, "refresh_epochs", "max_attempts", "render_batch")
        check_numbers(self, "views")
