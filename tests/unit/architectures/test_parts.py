"""Text encoders, image encoders and autoencoders, as transformers and diffusers make them."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import diffusers
import pytest
import torch
import transformers

from memcard.architectures import components, identify
from memcard.architectures._names import Names
from memcard.architectures._text_encoders import NAMES, text_encoder
from memcard.architectures._vaes import AUTOENCODERS
from memcard.core.tensors import DTYPES, Spec, Specs

Shapes = Mapping[str, tuple[int, ...]]
VISION = "CLIPVisionModelWithProjection"


def specs_of(shapes: Shapes, prefix: str = "") -> Specs:
    return {prefix + name: Spec(DTYPES["F16"], shape) for name, shape in shapes.items()}


def shapes_of(model: Callable[[], torch.nn.Module]) -> Shapes:
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {name: tuple(value.shape) for name, value in model().state_dict().items()}


def text_model(kind: str, **config: Any) -> Shapes:
    """A model of transformers, by the name of its class before ``Model`` or ``For``."""
    name = kind.split("For", maxsplit=1)[0].replace("EncoderModel", "").replace("TextModel", "Text")
    name = name.replace("VisionModelWithProjection", "Vision").removesuffix("Model")
    options = getattr(transformers, f"{name}Config")(**config)
    return shapes_of(lambda: getattr(transformers, kind)(options))


def clip(width: int, layers: int) -> Shapes:
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": 4}
    return text_model("CLIPTextModel", num_hidden_layers=layers, **sizes)


def t5(kind: str, vocabulary: int, width: int, inner: int) -> Shapes:
    sizes = {"d_ff": inner, "d_kv": 64, "num_layers": 24, "num_heads": width // 64}
    gated = {} if inner == 65536 else {"feed_forward_proj": "gated-gelu"}
    return text_model(f"{kind}EncoderModel", vocab_size=vocabulary, d_model=width, **sizes, **gated)


def language(kind: str, vocabulary: int, width: int, layers: int) -> Shapes:
    sizes = {"vocab_size": vocabulary, "hidden_size": width, "num_hidden_layers": layers}
    return text_model(kind, **sizes)


# What one would read on the file's card, and the model. All sizes are the published ones.
ENCODERS: dict[str, Callable[[], Shapes]] = {
    "CLIP-L, 12 layers": lambda: clip(768, 12),
    "OpenCLIP-H, 23 layers": lambda: clip(1024, 23),
    "CLIP-G, 32 layers": lambda: clip(1280, 32),
    "T5-XXL, 24 layers": lambda: t5("T5", 32128, 4096, 10240),
    "T5-11B, 24 layers": lambda: t5("T5", 32128, 1024, 65536),
    "UMT5-XXL, 24 layers": lambda: t5("UMT5", 256384, 4096, 10240),
    "Pile-T5-XL, 24 layers": lambda: t5("UMT5", 32128, 2048, 5120),
    "mT5-XL, 24 layers": lambda: t5("MT5", 250112, 2048, 5120),
    "Llama-3.1-8B, 32 layers": lambda: language("LlamaForCausalLM", 128256, 4096, 32),
    "Gemma-2-2B, 26 layers": lambda: language("Gemma2Model", 256000, 2304, 26),
    "Qwen3-4B, 36 layers": lambda: language("Qwen3Model", 151936, 2560, 36),
    "Qwen3-0.6B, 28 layers": lambda: language("Qwen3ForCausalLM", 151936, 1024, 28),
    "Qwen2.5-VL-7B, 28 layers": lambda: language("Qwen2Model", 152064, 3584, 28),
    "Mistral-Small-3, 40 layers": lambda: language("MistralModel", 131072, 5120, 40),
    "Chinese CLIP (BERT), 24 layers, vocabulary 47020": lambda: text_model(
        "BertModel",
        vocab_size=47020,
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
    ),
    "language model, 96 wide, vocabulary 99, 2 layers": lambda: language("LlamaModel", 99, 96, 2),
}
IMAGES: dict[str, Callable[[], Shapes]] = {
    "CLIP-H vision, 32 layers": lambda: text_model(
        VISION, hidden_size=1280, num_attention_heads=16, num_hidden_layers=32
    ),
    "CLIP-L vision, 24 layers": lambda: text_model(
        VISION, hidden_size=1024, num_attention_heads=16, num_hidden_layers=24
    ),
    "SigLIP vision, 27 layers": lambda: text_model(
        "SiglipVisionModel", hidden_size=1152, num_hidden_layers=27, num_attention_heads=16
    ),
    "DINOv2 vision, 12 layers": lambda: text_model("Dinov2Model"),
}


@pytest.mark.parametrize("what", ENCODERS)
def test_a_text_encoder_is_told_alone_and_in_a_folder(what: str) -> None:
    shapes = ENCODERS[what]()
    for prefix in ("", "text_encoder.", "wrapped."):
        found = identify(specs_of(shapes, prefix), {})

        assert (found.kind, found.architecture) == ("text_encoder", None)
        assert found.components["text_encoder"].what == what


@pytest.mark.parametrize("what", IMAGES)
def test_an_image_encoder_is_told(what: str) -> None:
    found = identify(specs_of(IMAGES[what]()), {})

    assert found.kind == "image_encoder"
    assert found.components["image_encoder"].what == what


def test_every_name_an_encoder_can_get_is_in_the_list_that_families_use() -> None:
    told = {what.partition(",")[0] for what in (*ENCODERS, *IMAGES)}

    assert told - {"language model"} <= set(NAMES)


OPEN_CLIP: Shapes = {
    "token_embedding.weight": (49408, 1280),
    "positional_embedding": (77, 1280),
    **{f"transformer.resblocks.{n}.attn.in_proj_weight": (3840, 1280) for n in range(32)},
}
GGUF_T5: Shapes = {
    "token_embd.weight": (32128, 4096),
    **{f"enc.blk.{n}.attn_q.weight": (4096, 4096) for n in range(24)},
}
GGUF_QWEN: Shapes = {
    "token_embd.weight": (152064, 3584),
    **{f"blk.{n}.attn_q.weight": (3584, 3584) for n in range(28)},
}
WAN_UMT5: Shapes = {
    "token_embedding.weight": (256384, 4096),
    **{f"blocks.{n}.attn.q.weight": (4096, 4096) for n in range(24)},
    "blocks.0.pos_embedding.embedding.weight": (32, 64),
}
GLM: Shapes = {
    "embedding.word_embeddings.weight": (65024, 4096),
    **{
        f"encoder.layers.{n}.self_attention.query_key_value.weight": (4608, 4096) for n in range(28)
    },
}


@pytest.mark.parametrize(
    ("shapes", "what"),
    [
        (OPEN_CLIP, "CLIP-G, 32 layers"),
        (GGUF_T5, "T5-XXL, 24 layers"),
        (GGUF_QWEN, "Qwen2.5-VL-7B, 28 layers"),
        (WAN_UMT5, "UMT5-XXL, 24 layers"),
        (GLM, "ChatGLM3-6B, 28 layers"),
    ],
)
def test_other_layouts_of_encoders_are_told_too(shapes: Shapes, what: str) -> None:
    for prefix in ("", "conditioner.embedders.1.model.", "text_encoders.x.transformer."):
        assert str(text_encoder(Names(specs_of(shapes)), "")) == what
        found = identify(specs_of(shapes, prefix), {})
        assert found.components["text_encoder"].what == what


def test_a_model_that_also_sees_says_so() -> None:
    shapes = {f"model.{n}": s for n, s in language("Qwen3Model", 151936, 4096, 36).items()}
    found = identify(specs_of({**shapes, "visual.blocks.0.attn.qkv.weight": (3, 3)}), {})

    what = found.components["text_encoder"].what
    assert what == "Qwen3-VL-8B, 36 layers, with its image half"


def kl(channels: int, **more: Any) -> Shapes:
    four = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": (128, 256, 512, 512),
    }
    return vae("AutoencoderKL", latent_channels=channels, layers_per_block=2, **four, **more)


def vae(kind: str, **config: Any) -> Shapes:
    return shapes_of(lambda: getattr(diffusers, kind)(**config))


VAES: dict[str, tuple[Callable[[], Shapes], str | None]] = {
    "SD or SDXL, 4 channels": (lambda: kl(4), None),
    "SD3 or Flux, 16 channels": (
        lambda: kl(16, use_quant_conv=False, use_post_quant_conv=False),
        None,
    ),
    "Flux.2, 32 channels": (lambda: vae("AutoencoderKLFlux2"), "flux2"),
    "Wan 2.1, 16 channels": (lambda: vae("AutoencoderKLWan"), None),
    "Wan 2.2, 48 channels": (
        lambda: vae("AutoencoderKLWan", base_dim=160, decoder_base_dim=256, z_dim=48,
                    is_residual=True, in_channels=12, out_channels=12, patch_size=2),
        None,
    ),
    "HunyuanVideo, 16 channels": (lambda: vae("AutoencoderKLHunyuanVideo"), "hunyuan_video"),
    "HunyuanVideo 1.5 or Hunyuan-Image refiner, 32 channels": (
        lambda: vae("AutoencoderKLHunyuanVideo15"),
        None,
    ),
    "Hunyuan-Image 2.1, 64 channels": (
        lambda: vae("AutoencoderKLHunyuanImage", in_channels=3, out_channels=3, latent_channels=64,
                    block_out_channels=(128, 256, 512, 512, 1024, 1024), layers_per_block=2,
                    spatial_compression_ratio=32, sample_size=384),
        "hunyuan_image",
    ),
    "CogVideoX, 16 channels": (lambda: vae("AutoencoderKLCogVideoX"), "cogvideox"),
    "LTX, 128 channels": (lambda: vae("AutoencoderKLLTXVideo"), None),
    "LTX-2 (sound), 8 channels": (lambda: vae("AutoencoderKLLTX2Audio"), "ltx2"),
    "Mochi, 12 channels": (lambda: vae("AutoencoderKLMochi"), "mochi"),
    "Cosmos 1.0, 16 channels": (lambda: vae("AutoencoderKLCosmos"), "cosmos1"),
    "DC-AE, 32 channels": (lambda: vae("AutoencoderDC"), "sana"),
    "TAESD (tiny)": (lambda: vae("AutoencoderTiny"), None),
    "SD asymmetric, 4 channels": (lambda: vae("AsymmetricAutoencoderKL"), None),
    "SVD, 4 channels over time": (lambda: vae("AutoencoderKLTemporalDecoder"), "svd"),
    "Allegro, 4 channels": (lambda: vae("AutoencoderKLAllegro"), None),
    "EasyAnimate, 16 channels": (lambda: vae("AutoencoderKLMagvit"), None),
    "Oobleck (sound)": (lambda: vae("AutoencoderOobleck"), None),
}  # fmt: skip


@pytest.mark.parametrize("what", VAES)
def test_an_autoencoder_is_told_by_one_kind_only_alone_and_in_a_folder(what: str) -> None:
    build, family = VAES[what]
    shapes = build()
    names = Names(specs_of(shapes))
    fits = [
        kind.name
        for kind in AUTOENCODERS
        if all(sign.test(names.root(""), {}) is not None for sign in kind.signs)
    ]

    assert fits == [what]
    for prefix in ("", "vae.", "first_stage_model.", "wrapped."):
        found = identify(specs_of(shapes, prefix), {})
        assert (found.kind, found.architecture) == ("vae", family)
        assert found.components["vae"].what == what


def test_a_file_of_two_parts_is_split() -> None:
    shapes = {f"vae.{n}": s for n, s in kl(4).items()}
    shapes |= {f"text_encoder.{n}": s for n, s in clip(768, 12).items()}
    parts = components(specs_of(shapes))

    assert {parts[n] for n in shapes if n.startswith("vae.")} == {"vae"}
    assert {parts[n] for n in shapes if n.startswith("text_encoder.")} == {"text_encoder"}
