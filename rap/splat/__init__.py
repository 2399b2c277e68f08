"""Gaussian splats: parameters, rendering, fitting. Only here are gsplat and fused-ssim known."""
