"""Stable Diffusion 1 and 2, and the starter: one text encoder, one UNet.

Source: Rombach et al. 2022, arXiv:2112.10752; diffusers ``pipeline_stable_diffusion.py``.
"""

from __future__ import annotations

from memcard.generation.engines._stable_diffusion import StableDiffusion

PLUGIN = StableDiffusion()
