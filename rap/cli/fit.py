"""`rap fit`: photographs and poses to Gaussians."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import rap
from rap import log
from rap.cli.arguments import (
    Device,
    Out,
    SceneFormat,
    SceneName,
    UsageError,
    check_at_least,
    check_out,
    parse_configured,
)
from rap.config import Config, FitConfig

_SHEET_FRAMES = 12


@dataclass(frozen=True)
class Fit:
    """Fit Gaussians to a scene's training photographs, and show them beside its test photographs.

    Writes the splat and, beside it, a contact sheet as .png. An interrupted fit goes on with
    --resume.
    """

    scene: SceneName
    """The scene's folder, or the word `room`."""
    out: Out
    """The .ply file to write."""
    preset: str | None = None
    """Settings to start from; none: `room` for the room, `seven_scenes` for a folder."""
    config: Path | None = None
    """A .toml file of settings to start from."""
    format: SceneFormat | None = None
    """Read the folder in this format; none: recognise it."""
    device: Device = "auto"
    """`auto` is the GPU where there is one."""
    force: bool = False
    """Overwrite the output."""
    resume: bool = False
    """Go on with an interrupted fit to the same output."""
    save_every_s: float = 60.0
    """Seconds between stores of the state, OUT.state.safetensors, and of an early view of the
    splat, OUT.partial.ply; both go when the fit has ended."""
    fit: FitConfig = field(default_factory=FitConfig)


def run(argv: Sequence[str]) -> int:
    """Fit, save, then score on the test frames."""
    arguments, config = parse_configured(Fit, "fit", argv)
    sheet = arguments.out.with_suffix(".png")
    check_out(arguments.out, force=arguments.force, suffix=".ply")
    check_out(sheet, force=arguments.force)

    saving = _saving(arguments)
    log.sweep(arguments.out.parent, arguments.out.stem)

    from rap.data.check import warn_of_wrong_poses
    from rap.splat.gaussians import save_ply

    scene = rap.load(arguments.scene, arguments.format)
    warn_of_wrong_poses(scene, arguments.scene)
    try:
        gaussians = rap.fit(scene, config, arguments.device, saving=saving)
    except KeyboardInterrupt:
        if saving.state.exists():
            log.info(f"{saving.state}: the same command with --resume goes on from here")
        raise
    save_ply(arguments.out, gaussians)
    saving.clear()
    log.info(f"{arguments.out}: {gaussians.num:,} Gaussians")
    if scene.test:
        _show(scene, gaussians, config, sheet)
    return 0


def _saving(arguments: Fit) -> "rap.splat.state.Saving":
    """Where the state goes; what an interrupted fit left is neither lost nor taken by mistake."""
    check_at_least(0, save_every_s=arguments.save_every_s)
    state = arguments.out.with_suffix(".state.safetensors")
    if arguments.resume and not state.exists():
        raise UsageError(f"{state}: there is no interrupted fit to resume; leave out --resume")
    if state.exists() and not arguments.resume and not arguments.force:
        raise UsageError(
            f"{state}: an interrupted fit; go on with --resume, or drop it with --force"
        )
    from rap.splat.state import Saving

    preview = arguments.out.with_suffix(".partial.ply")
    return Saving(state, preview, arguments.save_every_s, resume=arguments.resume)


def _show(
    scene: "rap.scene.Scene",
    gaussians: "rap.splat.gaussians.Gaussians",
    config: Config,
    sheet: Path,
) -> None:
    """Medians of PSNR and SSIM over the test frames, and the contact sheet.

    A sheet that cannot be drawn is a warning: the splat is what counts.
    """
    from rap.data.images import decode
    from rap.data.masks import decode_masks
    from rap.scene import poses
    from rap.splat.scores import evaluate_renders
    from rap.splat.sheet import contact_sheet

    camera = scene.camera
    if config.fit.height is not None:
        camera = camera.with_height(config.fit.height)
    photos = decode(scene.test, camera, config.image.num_workers)
    masks = decode_masks(scene.test, camera, config.image.num_workers)
    scores = evaluate_renders(gaussians, photos, poses(scene.test), camera, masks)
    psnr, psnr_affine, ssim, ssim_affine = (_median(values) for values in scores[:4])
    counted = (
        "" if masks is None else f", of the {masks.float().mean():.1%} that no mask leaves out"
    )
    log.info(
        f"{len(photos)} test frames, medians: PSNR {psnr:.2f} dB, {psnr_affine:.2f} dB after a "
        f"colour affine per image, SSIM {ssim:.4f}, {ssim_affine:.4f} after it{counted}"
    )
    if gaussians.appearance is not None:
        _show_relit(scene, gaussians, photos, camera, masks)
    step = -(-len(photos) // _SHEET_FRAMES)
    captions = [
        f"{frame.name}  {value:.1f} dB"
        for frame, value in zip(scene.test, scores.psnr.tolist(), strict=True)
    ]
    try:
        contact_sheet(sheet, photos[::step], scores.renders[::step], captions[::step])
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        log.warn(f"no {sheet}: {error}")
    else:
        log.info(f"{sheet}: photographs beside renderings")


def _show_relit(
    scene: "rap.scene.Scene",
    gaussians: "rap.splat.gaussians.Gaussians",
    photos: "rap.splat.relight.Images",
    camera: "rap.camera.Camera",
    masks: "rap.splat.relight.Masks",
) -> None:
    """What the appearance explains, apart from the figures that any splat has."""
    from rap.scene import poses
    from rap.splat.relight import score_relit

    scores = score_relit(gaussians, photos, poses(scene.test), camera, masks)
    codes = gaussians.appearance is not None and gaussians.appearance.num_codes > 0
    psnr = [f"{_median(values):.2f} dB" for values in scores[:3]]
    ssim = [f"{_median(values):.4f}" for values in scores.ssim]
    log.info(
        f"right halves, medians: PSNR {psnr[0]} in the mean appearance; with light read from the "
        f"left halves {psnr[1]} (exposure alone)"
        + (f", {psnr[2]} (code and exposure)" if codes else "")
        + f"; SSIM {', '.join(ssim if codes else ssim[:2])}"
    )


def _median(values: "rap.splat.relight.Values") -> float:
    """Of the frames of which a pixel counts; NaN where none does."""
    counted = values[~values.isnan()].tolist()
    return statistics.median(counted) if counted else float("nan")
