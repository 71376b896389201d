"""What ControlNets add to a UNet: they see the latents and a picture, and add to what its blocks pass on.

Source: Zhang et al. 2023, arXiv:2302.05543; diffusers ``pipeline_controlnet.py``, ``multicontrolnet.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from memcard.generation.engine import Cond, Pipeline

NET: Final = "controlnet."  # of the components: controlnet.0, controlnet.1, …
STRENGTHS: Final = "controls"  # of ``Pipeline.extras``: how strong each is, in this run


def controlled(
    pipeline: Pipeline,
    latents: Tensor,
    moment: Tensor,
    cond: Cond,
    added: Mapping[str, Tensor] | None,
) -> dict[str, Any]:
    """Return what the UNet is given from the ControlNets whose pictures are in ``cond``; {} if none is."""
    down: list[Tensor] = []
    middle: Tensor | None = None
    for i, strength in enumerate(pipeline.extras.get(STRENGTHS, ())):
        name = f"{NET}{i}"
        if name not in cond:
            continue
        found, last = pipeline.modules[name](
            latents,
            moment,
            encoder_hidden_states=cond["states"],
            controlnet_cond=cond[name],
            conditioning_scale=strength,
            added_cond_kwargs=added,
            return_dict=False,
        )
        down = [a + b for a, b in zip(down, found, strict=True)] if down else list(found)
        middle = last if middle is None else middle + last
    if middle is None:
        return {}
    return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
