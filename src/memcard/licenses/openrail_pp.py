"""CreativeML Open RAIL++-M, of Stable Diffusion 2 and XL. Source: https://github.com/Stability-AI/generative-models."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._rail import DUTIES, FITS, TERMS

PLUGIN = License(
    id="openrail++",
    title="CreativeML Open RAIL++-M",
    version="July 26, 2023 (SD XL); November 24, 2022 (SD 2)",
    source="https://github.com/Stability-AI/generative-models/blob/main/model_licenses/LICENSE-SDXL1.0",
    terms=TERMS,
    duties=DUTIES,
    derivatives="carry",
    compatible=FITS,
    names=("creativeml open rail++ m", "creativeml openrail++ m license", "openrail++ m", "sdxl license"),
    links=(
        "huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/blob/main/license.md",
        "github.com/stability-ai/generative-models/blob/main/model_licenses/license-sdxl1.0",
        "huggingface.co/stabilityai/stable-diffusion-2/blob/main/license-model",
    ),
    bases=(
        "SDXL 1.0", "SDXL 1.0 LCM", "SDXL Lightning", "SDXL Hyper", "SDXL Distilled", "SD 1.5 LCM", "SD 1.5 Hyper",
        "stabilityai/stable-diffusion-xl-base-1.0", "stabilityai/stable-diffusion-xl-refiner-1.0",
        "sd_xl_base_1.0", "sd_xl_base_1.0_0.9vae", "sd_xl_refiner_1.0", "SD 2.0", "SD 2.0 768", "SD 2.1", "SD 2.1 768",
        "stabilityai/stable-diffusion-2", "stabilityai/stable-diffusion-2-1", "v2-1_768-ema-pruned",
        "PixArt a", "PixArt E", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS",
    ),
)  # fmt: skip
