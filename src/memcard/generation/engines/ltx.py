"""LTX-Video 0.9: one transformer over all frames, told by T5; latents of 8 frames and 32 x 32 pixels.

The arithmetic, its order and the order of the random numbers are those of diffusers' LTXPipeline and
LTXImageToVideoPipeline up to 0.9.1, of LTXConditionPipeline from 0.9.5 on, so that both give the same bits
from the same weights (``tests/unit/generation/test_ltx.py``, ``test_ltx_pictures.py``).

Source: HaCohen et al. 2024, arXiv:2501.00103; diffusers ``pipeline_ltx.py``, ``pipeline_ltx_condition.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Generator, Tensor, nn

from memcard.errors import UsageError
from memcard.generation._engine import quiet
from memcard.generation.denoise import Start
from memcard.generation.engine import Cond, Pipeline
from memcard.generation.engines import _flow, _ltx_frames, _ltx_header, _ltx_vae, _models
from memcard.generation.engines._ltx_frames import Grid, packed, unpacked
from memcard.generation.finite import tiles
from memcard.generation.latents import generator
from memcard.generation.latents import noise as unit_noise
from memcard.generation.placed import Pictures, Placed
from memcard.generation.samplers import SAMPLERS
from memcard.generation.settings import Settings
from memcard.generation.t5 import t5_states
from memcard.generation.words import Words

if TYPE_CHECKING:
    from memcard.generation.passes import Picture

# Of a prompt: up to 0.9.1, and from 0.9.5 on, as diffusers' pipelines have it.
TOKENS: Final = (128, 256)
_SHAPE: Final = "ltx shape"  # of ``Pipeline.extras``
_CORNER: Final = 2  # latents along a side that show the colour of one, for previews
_AT_ONCE: Final = 16  # of these that are decoded together
_NO_MASK: Final = "LTX-Video takes no mask: a clip changes as a whole. Leave --mask out."
_NO_LAST: Final = (
    "this release of LTX-Video knows of a first frame only; one from 0.9.5 on can end at a picture too. "
    "Leave --last-image out."
)
_CLIP: Final = 4  # dimensions of pixels that are a clip
_TIME: Final = 8  # frames that one of the latents stands for, in every release


class LTXVideo:
    """Clips from LTX-Video."""

    title = "LTX-Video"
    source = "arXiv:2501.00103"
    families: tuple[str, ...] = ("ltx_video",)
    components: tuple[str, ...] = ("text_encoder", "transformer", "vae")
    optional: tuple[str, ...] = ()
    variants: tuple[str, ...] = ("2B", "13B")
    vae_encoder: tuple[str, ...] = ("encoder",)
    latent_dtype = torch.float32  # whatever the models compute in, as in LTXPipeline
    decodes_with_source = True  # ``decode`` draws
    ends_at_picture = True  # knows ``Picture.last``
    reads_clips = True  # as ``encode_pixels`` of all frames

    def empty(self, component: str, config: Mapping[str, Any]) -> nn.Module:
        """Build a component on the meta device."""
        if component == "text_encoder":
            return _models.t5(config)
        with quiet(), torch.device("meta"):
            found = _kind(component)(**_models.plain(config))
        module: nn.Module = found.eval().requires_grad_(requires_grad=False)
        return module

    def header(self, metadata: Mapping[str, str], label: str) -> Mapping[str, Mapping[str, Any]]:
        """Return what a file says in its header or by its name, by component, for their configs."""
        return _ltx_header.read(metadata, label)

    def usual(self, pipeline: Pipeline) -> Mapping[str, Any]:
        """Return the settings of a distilled model: as many steps as it has levels, no guidance."""
        own = pipeline.configs["scheduler"].get(_ltx_header.OWN, {})
        if "levels" not in own:
            return {}
        sampler = "lcm" if own.get("fresh") else "euler"
        return {"steps": len(own["levels"]), "cfg": 1.0, "sampler": sampler}

    def fitting(self, pipeline: Pipeline, settings: Settings) -> tuple[Settings, tuple[str, ...]]:
        """Return settings with the nearest number of frames that can be made, and what changed."""
        time = pipeline.configs.get("vae", {}).get("temporal_compression_ratio") or _TIME
        return _flow.whole_frames(settings, time, self.title)

    def encode(
        self, pipeline: Pipeline, words: Words, settings: Settings, *, negative: bool = False
    ) -> Cond:
        """Return the states of 128 or 256 tokens, and which of them are words.

        Raises:
            UsageError: a clip of this length or size cannot be made.
        """
        del negative
        _grid(pipeline, settings)
        causal = _ltx_header.causal(pipeline.configs)
        states, mask = t5_states(
            pipeline.modules["text_encoder"],
            pipeline.tokenizers["text_encoder"],
            words,
            TOKENS[causal],
            extras=pipeline.extras,
            masked=causal,
        )
        return {"states": states, "mask": mask.bool()}

    def noise(self, pipeline: Pipeline, settings: Settings, source: Generator) -> Tensor:
        """Return unit noise, [1, tokens, channels]; drawn frame by frame of the latents."""
        grid = _grid(pipeline, settings)
        extras: Any = pipeline.extras
        extras[_SHAPE] = grid.shape  # previews see nothing but tokens
        channels = int(pipeline.configs["transformer"]["in_channels"])
        return packed(unit_noise((channels, *grid.shape), source))

    def picture_latents(self, pipeline: Pipeline, latents: Tensor) -> Tensor:
        """Return the latents of the clip that ``noise`` was last drawn for, frame by frame."""
        return unpacked(latents, pipeline.extras[_SHAPE])

    def decode_patches(self, pipeline: Pipeline, patches: Tensor) -> Tensor:
        """Return what the decoder makes of latents without noise, in -1..1, [n, 3, height, width].

        One latent is 32 pixels wide, so a corner of each patch is enough.
        """
        corners = patches[:, :, None, :_CORNER, :_CORNER]
        shown = [
            _ltx_vae.shown(pipeline, corners[i : i + _AT_ONCE])[:, :, 0]
            for i in range(0, len(corners), _AT_ONCE)
        ]
        return torch.cat(shown).float().cpu()

    def scheduler(self, pipeline: Pipeline, settings: Settings) -> Any:
        """Return the scheduler: of the levels its release was trained on.

        Where these are shifted, longer and larger clips get more of their steps at high noise.
        """
        config = dict(pipeline.configs["scheduler"])
        shifted = _ltx_header.shifted(pipeline.configs)
        if not shifted or settings.steps == 1:
            config["shift_terminal"] = None  # one level is noise alone: nothing to stretch, 0/0
        config["use_dynamic_shifting"] = shifted
        mu = _flow.shift(config, _grid(pipeline, settings).tokens) if shifted else None
        with quiet():
            found = SAMPLERS[settings.sampler].scheduler(
                config, schedule=settings.schedule, prediction_type="flow"
            )
            levels = _ltx_header.levels(pipeline.configs, settings.steps)
            found.set_timesteps(sigmas=levels, mu=mu, device=pipeline.device)
        return found

    def predict(
        self, pipeline: Pipeline, latents: Tensor, moment: Tensor, cond: Cond, settings: Settings
    ) -> Tensor:
        """Ask the transformer; the guess comes in the dtype of the latents."""
        grid = _grid(pipeline, settings)
        batch = latents.shape[0]
        found: Tensor = pipeline.denoiser(
            hidden_states=latents.to(pipeline.dtype),
            encoder_hidden_states=cond["states"],
            timestep=_ltx_frames.moments(moment, batch, cond.get("kept")),
            encoder_attention_mask=cond["mask"],
            num_frames=grid.frames,
            height=grid.rows,
            width=grid.columns,
            rope_interpolation_scale=(grid.time / settings.fps, grid.side, grid.side),
            video_coords=_places(pipeline, grid, cond, settings, batch),
            return_dict=False,
        )[0]
        return found.to(latents.dtype)

    def decode(
        self,
        pipeline: Pipeline,
        latents: Tensor,
        settings: Settings,
        source: Generator | None = None,
    ) -> Tensor:
        """Return the frames of a clip.

        Args:
            pipeline: the models.
            latents: [1, tokens, channels].
            settings: size and frames.
            source: of the noise a decoder from 0.9.1 on removes itself; None for one that is the same
                for every clip.
        """
        opened = unpacked(latents, _grid(pipeline, settings).shape)
        video = _ltx_vae.shown(pipeline, opened, source or generator(0))
        return (video[0] * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 3, 0).float().cpu()

    def encode_pixels(
        self, pipeline: Pipeline, pixels: Tensor, settings: Settings, source: Generator
    ) -> Tensor:
        """Return the latents of a clip, [1, tokens, channels].

        Args:
            pipeline: the models.
            pixels: 0..1, [height, width, 3] for a clip that stands still, or [frames, height, width, 3].
            settings: size and frames.
            source: the autoencoder draws from it.
        """
        grid = _grid(pipeline, settings)
        if pixels.ndim == _CLIP:
            return packed(_ltx_vae.read(pipeline, pixels, source))
        return packed(_ltx_vae.read(pipeline, pixels[None], source).repeat(1, 1, grid.frames, 1, 1))

    def check(self, pipeline: Pipeline, settings: Settings, given: Collection[str]) -> None:
        """Refuse pictures that a clip cannot be made of.

        Raises:
            UsageError: says what to leave out.
        """
        if "mask" in given:
            raise UsageError(_NO_MASK)
        if "control" in given:
            raise UsageError("LTX-Video follows no drawing. Leave --control-image out.")
        if "last" in given and settings.frames == 1:
            raise UsageError("one frame is no clip that could end at a picture. Say more --frames.")
        if "last" in given and not _ltx_header.causal(pipeline.configs):
            raise UsageError(_NO_LAST)

    def strength(self, pipeline: Pipeline, settings: Settings) -> float | None:
        """Return how much of the first frame is painted anew if nobody says it: of a clip nothing."""
        del pipeline
        return 0.0 if settings.frames > 1 else None

    def start(
        self,
        pipeline: Pipeline,
        picture: Picture | None,
        control: Tensor | None,
        settings: Settings,
    ) -> Callable[[Generator], Start] | None:
        """Return what begins a clip with a picture; None for one frame, and for a clip painted over."""
        del control
        if picture is None or settings.frames == 1 or picture.pixels.ndim == _CLIP:
            return None
        pictures = Pictures(picture.pixels, 1 - picture.strength, picture.last)

        def begin(source: Generator) -> Start:
            with torch.inference_mode(), tiles(pipeline, settings):
                place = self.place(pipeline, pictures, settings, source)
            return Start(torch.empty(0), 1.0, place=place)

        return begin

    def place(
        self, pipeline: Pipeline, pictures: Pictures, settings: Settings, source: Generator
    ) -> Callable[[Tensor, Generator], Placed]:
        """Return what puts pictures into the noise of a clip, once that is drawn.

        Up to 0.9.1 the picture is read before the noise is drawn, from 0.9.5 on afterwards.

        Args:
            pipeline: the models.
            pictures: the first frame and, if there is one, the last.
            settings: size and frames.
            source: the autoencoder draws from it.

        Raises:
            UsageError: this release knows of no picture at the end.
        """
        grid = _grid(pipeline, settings)
        if not _ltx_header.causal(pipeline.configs):
            if pictures.last is not None:
                raise UsageError(_NO_LAST)
            first = _ltx_vae.read(pipeline, pictures.first[None], source)
            return lambda noise, source: _ltx_frames.place_first(noise, first, pictures.kept, grid)

        def later(noise: Tensor, source: Generator) -> Placed:
            first = _ltx_vae.read(pipeline, pictures.first[None], source)
            found = _ltx_frames.place_first(noise, first, pictures.kept, grid)
            found = replace(found, stir=_ltx_frames.STIR)
            if pictures.last is None:
                return found
            last = _ltx_vae.read(pipeline, pictures.last[None], source)
            return _ltx_frames.place_last(
                *(found, last, pictures.kept, grid, settings.frames - 1, settings.fps, source)
            )

        return later

    def mask(self, pipeline: Pipeline, mask: Tensor) -> Tensor:
        """Refuse a mask.

        Raises:
            UsageError: always; a part of a clip cannot be kept yet.
        """
        del pipeline, mask
        raise UsageError(_NO_MASK)


def _places(
    pipeline: Pipeline, grid: Grid, cond: Cond, settings: Settings, batch: int
) -> Tensor | None:
    """Return where each token stands, [batch, 3, tokens]; None: as the model counts it itself."""
    if "places" in cond:
        return cond["places"]
    if not _ltx_header.causal(pipeline.configs):
        return None
    return grid.places(settings.fps).to(pipeline.device).expand(batch, -1, -1)


def _kind(component: str) -> Any:
    if component == "vae":
        from diffusers.models.autoencoders.autoencoder_kl_ltx import AutoencoderKLLTXVideo

        return AutoencoderKLLTXVideo
    from diffusers.models.transformers.transformer_ltx import LTXVideoTransformer3DModel

    return LTXVideoTransformer3DModel


def _grid(pipeline: Pipeline, settings: Settings) -> Grid:
    """Return the latents of a clip."""
    time, side = pipeline.vae.temporal_compression_ratio, pipeline.vae.spatial_compression_ratio
    faults = []
    if (settings.frames - 1) % time:
        below = (settings.frames - 1) // time * time + 1
        faults.append(
            f"{settings.frames} frames are not one more than a multiple of {time}: "
            f"use {below} or {below + time}"
        )
    for name, size in (("width", settings.width), ("height", settings.height)):
        if size % side:
            below = max(side, size // side * side)
            faults.append(
                f"{name} {size} is not a multiple of {side}: use {below} or {below + side}"
            )
    if faults:
        raise UsageError(f"LTX-Video cannot make this clip: {'; '.join(faults)}.")
    frames = (settings.frames - 1) // time + 1
    return Grid(frames, settings.height // side, settings.width // side, time, side)


PLUGIN = LTXVideo()
