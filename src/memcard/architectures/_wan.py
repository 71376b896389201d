"""What Wan 2.1 and 2.2 share: the blocks, and the names of what is added to them.

They are told apart by what they take. One case is not: text to video 14B has the same tensors as
each half of Wan 2.2 text to video, so a lone file goes by the older name and says so. A diffusers
folder knows that it is a pair.

Source: Wan-Video Wan2.1 and Wan2.2, ``wan/modules/model.py``; diffusers' configs of the same names.
"""

from __future__ import annotations

from typing import Final

from memcard.architectures._signs import all_of, any_of, has, narrow, width

FIRST: Final = "patch_embedding.weight"
BLOCKS: Final = ("blocks.{}.self_attn.q.weight", "blocks.{}.attn1.to_q.weight")
IMAGE: Final = ("img_emb.proj.1.weight", "condition_embedder.image_embedder.ff.net.0.proj.weight")
FACE: Final = ("face_adapter.fuser_blocks.0.linear1_kv.weight", "face_adapter.0.to_k.weight")
SPEECH: Final = ("casual_audio_encoder.", "audio_injector.")

# The 5B model of Wan 2.2, and what control nets make of it. Fun control of Wan 2.1 takes 48 too.
SMALL22: Final = all_of(
    width(FIRST, 1, 48, 100, says="the 5B model"),
    any_of(width(FIRST, 0, 3072), narrow(FIRST, 0, 1536)),
)
# A diffusers folder says when to change from one half of a pair to the other; Wan 2.1 says null.
PAIR: Final = ("diffusers/model_index.json", '"boundary_ratio": 0.')

ORIGINAL: Final = (
    has("head.modulation"),
    has("time_projection.1.weight"),
    has("blocks.0.self_attn.norm_q.weight"),
    has(FIRST),
)
DIFFUSERS: Final = (
    has("condition_embedder.time_proj.weight"),
    has("condition_embedder.text_embedder.linear_1.weight"),
    has("blocks.0.attn1.norm_q.weight"),
    has(FIRST),
    has("proj_out.weight"),
)
