"""How many Gaussians, and where: densification as Markov chain Monte Carlo.

Kheradmand et al., "3D Gaussian Splatting as Markov Chain Monte Carlo", NeurIPS 2024. Gaussians are
samples: dead ones move onto live ones, their number grows to a cap, and noise lets them explore.
The functions change `parameters` and the optimiser's state in place; each parameter is the only one
in a group of the optimiser that has its name.
"""

from functools import cache
from math import comb, sqrt

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

Parameters = dict[str, nn.Parameter]
"""`means`, `quats`, `log_scales`, `opacity_logits` and any other per-Gaussian tensors."""

MIN_OPACITY = 0.005
"""Gaussians below this are dead."""
GROWTH = 0.05
"""Largest share of new Gaussians at one refinement."""
_MAX_COPIES = 51
"""More copies of one Gaussian are treated as this many; the binomial sum stays exact."""
_MAX_CATEGORIES = 1 << 24
"""What torch.multinomial accepts."""
_GATE_STEEPNESS = 100.0
_GATE_OPACITY = 0.005


def split_evenly(
    opacities: Float[Tensor, " m"], scales: Float[Tensor, "m 3"], copies: Int64[Tensor, " m"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, "m 3"]]:
    """Opacity and scales with which `copies` equal Gaussians look like the one they replace.

    Equation 9 of the paper. Its double sum collapses by sum_{i=k+1..N} C(i-1, k) = C(N, k+1), which
    leaves one alternating sum; float64 keeps it exact up to 51 copies.
    """
    copies = copies.clamp(1, _MAX_COPIES)
    old = opacities.double()
    new = -torch.expm1(torch.log1p(-old) / copies)
    powers = new[:, None] ** torch.arange(1, _MAX_COPIES + 1, device=new.device)
    ratio = old / (_binomials().to(new.device)[copies] * powers).sum(1)
    eps = torch.finfo(opacities.dtype).eps
    new = new.to(opacities.dtype).clamp(MIN_OPACITY, 1 - eps)
    return new, scales * ratio.to(scales.dtype)[:, None]


@torch.no_grad()
def relocate(
    parameters: Parameters, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> int:
    """Move the dead Gaussians onto live ones drawn by opacity; returns how many moved."""
    opacities = parameters["opacity_logits"].sigmoid()
    dead = opacities <= MIN_OPACITY
    target = dead.nonzero().squeeze(1)
    if len(target) == 0 or len(target) == len(dead):
        return 0
    source = _draw(torch.where(dead, 0, opacities), len(target), generator)
    _make_room(parameters, source)
    for parameter in parameters.values():
        parameter[target] = parameter[source]
    touched = dead.clone()
    touched[source] = True
    _forget(parameters, optimizer, touched)
    return len(target)


@torch.no_grad()
def grow(
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    max_gaussians: int,
    generator: torch.Generator,
) -> int:
    """Add up to 5 % Gaussians beside those drawn by opacity; returns how many."""
    num = len(parameters["means"])
    num_new = min(max_gaussians, int((1 + GROWTH) * num)) - num
    if num_new <= 0:
        return 0
    opacities = parameters["opacity_logits"].sigmoid()
    source = _draw(opacities, num_new, generator)
    _make_room(parameters, source)
    touched = torch.zeros_like(opacities, dtype=torch.bool)
    touched[source] = True
    _forget(parameters, optimizer, touched)
    every = torch.arange(num, device=source.device)
    take(parameters, optimizer, torch.cat([every, source]), num_fresh=num_new)
    return num_new


@torch.no_grad()
def take(
    parameters: Parameters,
    optimizer: torch.optim.Optimizer,
    rows: Int64[Tensor, " m"],
    num_fresh: int = 0,
) -> None:
    """Make `rows` of the Gaussians all there is, in this order, repeated ones as copies.

    Their moments go with them; those of the last `num_fresh` rows start from zero.
    """
    groups = {group["name"]: group for group in optimizer.param_groups}
    old_rows = len(rows) - num_fresh
    for name, old in list(parameters.items()):
        new = nn.Parameter(old[rows])
        state = optimizer.state.pop(old, {})
        for key, value in state.items():
            if value.shape == old.shape:
                state[key] = value[rows]
                state[key][old_rows:] = 0
        optimizer.state[new] = state
        groups[name]["params"] = [new]
        parameters[name] = new


@torch.no_grad()
def explore(parameters: Parameters, strength: float, generator: torch.Generator) -> None:
    """Add noise to the means: within each Gaussian's own shape, and only where it is faint.

    `strength` is the learning rate of the means times the noise rate (equation 8; the gate closes
    within about 0.03 of opacity above 0.005).
    """
    means, quats = parameters["means"], parameters["quats"]
    opacities = parameters["opacity_logits"].sigmoid()
    gate = torch.sigmoid(_GATE_STEEPNESS * (_GATE_OPACITY - opacities))
    noise = torch.randn(means.shape, generator=generator, device=means.device, dtype=means.dtype)
    # |q|² times the rotation, and |q|², as one product; the covariance has the rotation twice
    products = (quats[:, :, None] * quats[:, None]).flatten(1) @ _from_products(means.device)
    rotation, size = products[:, :9].unflatten(1, (3, 3)), products[:, 9]
    local = (rotation * noise[:, :, None]).sum(1) * (2 * parameters["log_scales"]).exp()
    shift = (rotation * local[:, None]).sum(2)
    means.addcmul_(shift, (gate / (size * size))[:, None], value=strength)


@cache
def _from_products(device: torch.device) -> Float[Tensor, "16 10"]:
    """Which products of a quaternion's numbers, wxyz, make |q|² times its rotation, and |q|²."""
    w, x, y, z = range(4)
    entries = (
        ((w, w, 1), (x, x, 1), (y, y, -1), (z, z, -1)),
        ((x, y, 2), (w, z, -2)),
        ((x, z, 2), (w, y, 2)),
        ((x, y, 2), (w, z, 2)),
        ((w, w, 1), (x, x, -1), (y, y, 1), (z, z, -1)),
        ((y, z, 2), (w, x, -2)),
        ((x, z, 2), (w, y, -2)),
        ((y, z, 2), (w, x, 2)),
        ((w, w, 1), (x, x, -1), (y, y, -1), (z, z, 1)),
        ((w, w, 1), (x, x, 1), (y, y, 1), (z, z, 1)),
    )
    table = torch.zeros(16, len(entries))
    for column, terms in enumerate(entries):
        for first, second, factor in terms:
            table[4 * first + second, column] = factor
    return table.to(device)


@cache
def _binomials() -> Float64[Tensor, "rows columns"]:
    """Row N, column k - 1: (-1)^(k-1) · C(N, k) / sqrt(k)."""
    table = torch.zeros(_MAX_COPIES + 1, _MAX_COPIES, dtype=torch.float64)
    for num in range(1, _MAX_COPIES + 1):
        for k in range(1, num + 1):
            table[num, k - 1] = (-1) ** (k - 1) * comb(num, k) / sqrt(k)
    return table


def _draw(
    weights: Float[Tensor, " n"], num: int, generator: torch.Generator
) -> Int64[Tensor, "{num}"]:
    if len(weights) > _MAX_CATEGORIES:
        raise ValueError(f"{len(weights)} Gaussians; densification handles {_MAX_CATEGORIES}")
    return torch.multinomial(weights, num, replacement=True, generator=generator)


def _make_room(parameters: Parameters, source: Int64[Tensor, " m"]) -> None:
    """Shrink the Gaussians that are about to be copied, as often as they occur in `source`."""
    logits, log_scales = parameters["opacity_logits"], parameters["log_scales"]
    copies = torch.bincount(source, minlength=len(logits))[source] + 1
    opacities, scales = split_evenly(logits[source].sigmoid(), log_scales[source].exp(), copies)
    logits[source] = opacities.logit()
    log_scales[source] = scales.log()


def _forget(
    parameters: Parameters, optimizer: torch.optim.Optimizer, rows: Bool[Tensor, " n"]
) -> None:
    """Zero the optimiser's moments of Gaussians that are no longer what they were."""
    for parameter in parameters.values():
        for value in optimizer.state.get(parameter, {}).values():
            if value.shape == parameter.shape:
                value[rows] = 0
