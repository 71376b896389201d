"""What a graph of ComfyUI says about the picture: sampler, prompts, checkpoint, LoRAs, size.

The graph is followed backwards from what saves the picture. A node that is not known is passed where
there is only one way through it; where there are several, all ends are listed in a note and none is chosen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from memcard.errors import CorruptError
from memcard.generation._comfy_nodes import Graph, Link, Node, file_name
from memcard.generation.image_info import ImageInfo, Used, UsedLora, numbers, sampling

_LOADER: Final = ("ckpt_name", "unet_name", "base_ckpt_name", "model_path")
_TEXTS: Final = ("text", "text_g", "text_l", "clip_l", "clip_g", "t5xxl", "llama", "prompt")
_STACKED: Final = re.compile(r"lora_(?:name_)?0*(\d{1,3})")
_SHOWN: Final = 200  # characters of a text in a note
_SAMPLERS: Final = 20
_DECODERS: Final = 50


def understand(text: str) -> ImageInfo:
    """Return what the API graph of a picture says.

    Nothing is raised: a graph that cannot be read is a note.
    """
    try:
        graph = Graph.read(text)
    except CorruptError as error:
        return ImageInfo("ComfyUI", notes=(str(error),))
    notes: list[str] = []
    first, later = _samplers(graph)
    if not first:
        return ImageInfo("ComfyUI", notes=("The graph has no sampler that memcard knows.",))
    if len(first) > _SAMPLERS:
        return ImageInfo("ComfyUI", notes=(f"The graph has {len(first)} samplers.",))
    facts = _agreed([_facts(graph, node, notes) for node in first], first, notes)
    vae = _vae(graph, first, notes)
    settings: dict[str, Any] = {name: facts[name] for name in _KEPT if name in facts}
    sampler = sampling(facts.get("sampler"), facts.get("schedule"))
    notes += [_later(graph, node) for node in later]
    if len(later) == 1:
        settings |= _second_pass(graph, later[0])
    kinds = {"prediction_type": facts["prediction"]} if "prediction" in facts else {}
    kept = numbers(settings, notes)
    return ImageInfo(
        "ComfyUI",
        *(facts.get("prompt", ""), facts.get("negative", ""), {**kept, **sampler, **kinds}),
        checkpoint=facts.get("checkpoint"),
        vae=vae,
        loras=facts.get("loras", ()),
        seed=numbers({"seed": facts.get("seed")}, notes).get("seed"),
        notes=tuple(dict.fromkeys(notes)),
    )


_KEPT: Final[tuple[str, ...]] = (
    *("steps", "cfg", "guidance", "denoise", "cfg_rescale", "clip_skip", "width", "height"),
)


def _samplers(graph: Graph) -> tuple[list[Node], list[Node]]:
    """Return the samplers that begin from noise or a picture, and those that go on from another."""
    linked = {key for node in graph for key, _ in graph.links(node).values()}
    ends = [node for node in graph if node.id not in linked]
    saving = [node for node in ends if "save" in node.kind.lower()]
    there = graph.upstream(saving or ends)
    samplers = [node for node in there.values() if _is_sampler(graph, node)]
    if len(samplers) > _SAMPLERS:
        return samplers, []
    behind = {node.id: graph.upstream([node]) for node in samplers}
    later = [
        node
        for node in samplers
        if any(other.id in behind[node.id] for other in samplers if other is not node)
    ]
    if len(later) == len(samplers):  # a circle, which ComfyUI would refuse
        return samplers, []
    return [node for node in samplers if node not in later], later


def _is_sampler(graph: Graph, node: Node) -> bool:
    links = graph.links(node)
    if {"guider", "sigmas"} <= set(links):
        return True
    return {"positive", "negative", "model"} <= set(links) and (
        "sampler_name" in node.inputs or {"sampler", "sigmas"} <= set(links)
    )


def _facts(graph: Graph, node: Node, notes: list[str]) -> dict[str, Any]:
    """Return what one sampler was told; what cannot be found out is left out and noted."""
    links = graph.links(node)
    guider = _target(graph, links.get("guider")) or node
    sigmas = _target(graph, links.get("sigmas")) or node
    chosen = _target(graph, links.get("sampler")) or node
    noise = _target(graph, links.get("noise")) or node
    seed = "noise_seed" if "noise_seed" in noise.inputs else "seed"
    found: dict[str, Any] = {
        "seed": graph.number(noise, seed),
        "steps": graph.number(sigmas, "steps"),
        "cfg": 1.0 if guider.kind == "BasicGuider" else graph.number(guider, "cfg"),
        "sampler": graph.text(chosen, "sampler_name"),
        "schedule": graph.text(sigmas, "scheduler"),
        "denoise": _part(graph.number(sigmas, "denoise")),
    }
    for name, holder in (("seed", noise), ("steps", sigmas), ("cfg", guider)):
        key = seed if name == "seed" else name
        if found[name] is None and key in holder.inputs:
            notes.append(f"Which {name} {holder} gets is not clear.")
    guiding = graph.links(guider)
    found |= _model(graph, guiding.get("model") or links.get("model"), notes)
    positive = guiding.get("positive") or guiding.get("conditioning")
    found |= _prompt(graph, positive, "positive", notes)
    found |= _prompt(graph, guiding.get("negative"), "negative", notes)
    found |= _size(graph, links, notes)
    return {name: value for name, value in found.items() if value is not None}


def _target(graph: Graph, link: Link | None) -> Node | None:
    """Return the node a link leads to, past nodes that only hand on."""
    seen: set[str] = set()
    while link is not None and link[0] not in seen:
        node = graph.nodes[link[0]]
        inputs = graph.links(node)
        if len(inputs) != 1 or len(node.inputs) != 1:
            return node
        seen.add(node.id)
        (link,) = inputs.values()
    return None


def _part(denoise: float | None) -> float | None:
    """Return denoise if it says anything: 1 is all of it."""
    return None if denoise is None or denoise >= 1 else denoise


def _model(graph: Graph, link: Link | None, notes: list[str]) -> dict[str, Any]:
    """Return checkpoint, LoRAs and what was set on the model's way."""
    ends, passed = graph.walk(
        link, lambda node: _loaded(node) is not None, lambda node, _: _toward_model(graph, node)
    )
    found: dict[str, Any] = {}
    names = [name for name in map(_loaded, ends) if name]
    if len(names) == 1:
        found["checkpoint"] = Used(names[0])
    elif names:
        listed = ", ".join(repr(name[:_SHOWN]) for name in names[:20])
        notes.append(f"The model is made of several files in the graph: {listed}.")
    stacked = [node for end in ends for node in _stack(graph, end)]
    found["loras"] = tuple(
        lora for node in (*stacked, *ends, *reversed(passed)) for lora in _loras(graph, node)
    )
    for node in passed:
        if "RescaleCFG" in node.kind:
            found["cfg_rescale"] = graph.number(node, "multiplier")
        if (said := node.inputs.get("sampling")) in ("eps", "v_prediction"):
            found["prediction"] = "epsilon" if said == "eps" else said
    return found


def _toward_model(graph: Graph, node: Node) -> Mapping[str, Link]:
    links = graph.onward(node, "model")
    stacks = {name: link for name, link in graph.links(node).items() if "lora_stack" in name}
    return {**links, **stacks}


def _stack(graph: Graph, loader: Node) -> list[Node]:
    """Return the nodes whose LoRAs a loader lays on itself, the first in the chain first."""
    link = graph.links(loader).get("lora_stack")

    def onward(node: Node, _: int) -> Mapping[str, Link]:
        return {name: link for name, link in graph.links(node).items() if "lora_stack" in name}

    return graph.walk(link, lambda node: False, onward)[1][::-1]


def _loaded(node: Node) -> str | None:
    """Return the file that a node loads a denoiser from; None if it loads none."""
    for key in _LOADER:
        if name := file_name(node.inputs.get(key)):
            return name
    return None


def _loras(graph: Graph, node: Node) -> Iterator[UsedLora]:
    """Yield the LoRAs that a node lays on: one, a numbered list of them, or objects (rgthree)."""
    if name := file_name(node.inputs.get("lora_name")):
        yield _lora(
            name,
            graph.number(node, "strength_model" if "strength_model" in node.inputs else "strength"),
            graph.number(node, "strength_clip"),
        )
    count = graph.number(node, "lora_count")
    for key, value in node.inputs.items():
        match = _STACKED.fullmatch(key)
        if not match or (count is not None and int(match[1]) > count):
            continue
        number = match[1]
        if isinstance(value, dict) and value.get("on") is not False:
            if isinstance(value.get("lora"), str) and value["lora"] != "None":
                yield _lora(value["lora"], value.get("strength"), value.get("strengthTwo"))
        elif (name := file_name(value)) and node.inputs.get(f"switch_{number}") != "Off":
            weights = (f"model_weight_{number}", f"model_str_{number}", f"lora_wt_{number}")
            own = next((key for key in weights if key in node.inputs), f"strength_{number}")
            texts = (f"clip_weight_{number}", f"clip_str_{number}")
            text = next((key for key in texts if key in node.inputs), "")
            yield _lora(name, graph.number(node, own), graph.number(node, text))


def _lora(name: str, strength: object, text: object) -> UsedLora:
    def number(value: object) -> float | None:
        ok = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= 100
        return float(value) if ok else None  # type: ignore[arg-type]  # the line above

    unet, clip = number(strength), number(text)
    return UsedLora(name, 1.0 if unet is None else unet, None if clip == unet else clip)


def _prompt(graph: Graph, link: Link | None, role: str, notes: list[str]) -> dict[str, Any]:
    """Return the text that conditions a sampler, with the guidance and clip skip on its way."""

    def onward(node: Node, slot: int) -> Mapping[str, Link]:
        links = graph.links(node)
        if {"positive", "negative"} <= set(links):
            name = ("positive", "negative")[slot] if slot in (0, 1) else role
            return {name: links[name]}
        return graph.onward(node, "conditioning", "cond")

    ends, passed = graph.walk(
        link, lambda node: _texts(graph, node, role) is not None or _is_sampler(graph, node), onward
    )
    key = "prompt" if role == "positive" else "negative"
    told = [(node, _texts(graph, node, role)) for node in ends]
    found: dict[str, Any] = {}
    if len(told) == 1 and told[0][1]:
        found[key] = "\n".join(told[0][1])
    elif len(told) > 1:
        each = "; ".join(
            f"{node}: {', '.join(map(_brief, said or []))}" for node, said in told[:20]
        )
        notes.append(f"The {role} prompt is put together from several texts: {each}.")
    elif link is not None:
        notes.append(f"The {role} prompt cannot be found in the graph.")
    if role == "positive":
        guided = [graph.number(node, "guidance") for node in (*passed, *ends)]
        found["guidance"] = next((value for value in guided if value is not None), None)
        found["clip_skip"] = _clip_skip(graph, ends)
    return found


def _texts(graph: Graph, node: Node, role: str) -> list[str] | None:
    """Return the different texts that a node encodes; None if it encodes none."""
    if node.kind == "ConditioningZeroOut":
        return [""]
    own = node.inputs.get(role)
    if isinstance(own, str):  # a loader of a custom pack that encodes too
        return [own]
    if "clip" not in graph.links(node) and not node.kind.startswith("CLIPTextEncode"):
        return None
    texts = [graph.text(node, key) for key in _TEXTS if key in node.inputs]
    if not texts:
        return None
    return list(dict.fromkeys(text for text in texts if text is not None)) or [f"(made by {node})"]


def _clip_skip(graph: Graph, encoders: Sequence[Node]) -> int | None:
    """Return how many layers from the end CLIP is read; None if nobody says it, or several."""
    found: set[float] = set()
    for encoder in encoders:
        _, passed = graph.walk(
            graph.links(encoder).get("clip"),
            lambda node: _loaded(node) is not None,
            lambda node, _: graph.onward(node, "clip"),
        )
        names = ("stop_at_clip_layer", "clip_skip")
        stops = [graph.number(node, name) for node in (encoder, *passed) for name in names]
        stop = next((value for value in stops if value is not None), None)  # the nearest counts
        found.add(1 if stop is None else -stop)
    said = found - {1} if len(found) == 1 else set()
    return next((int(value) for value in said if value > 0), None)


def _size(graph: Graph, links: Mapping[str, Link], notes: list[str]) -> dict[str, Any]:
    """Return the size of the empty latent; none for a run that begins from a picture."""
    start = links.get("latent_image") or links.get("latent") or links.get("samples")
    ends, _ = graph.walk(
        start,
        lambda node: {"width", "height"} <= set(node.inputs) or "pixels" in graph.links(node),
        lambda node, _: graph.onward(node, "samples", "latent"),
    )
    if len(ends) != 1:
        return {}
    if "pixels" in graph.links(ends[0]):
        notes.append(f"It begins from a picture ({ends[0]}).")
        return {}
    return {side: graph.number(ends[0], side) for side in ("width", "height")}


def _vae(graph: Graph, samplers: Sequence[Node], notes: list[str]) -> Used | None:
    """Return the VAE of a file of its own that decodes the samples."""
    keys = {node.id for node in samplers}
    names: set[str] = set()
    decoders = [node for node in graph if {"samples", "vae"} <= set(graph.links(node))]
    for node in decoders[:_DECODERS]:
        links = graph.links(node)
        if "pixels" in links or not keys & set(graph.upstream([node])):
            continue
        ends, _ = graph.walk(
            links["vae"],
            lambda other: "vae_name" in other.inputs or _loaded(other) is not None,
            lambda other, _: graph.onward(other, "vae"),
        )
        names |= {file_name(end.inputs.get("vae_name")) or "" for end in ends}
    if len(names) > 1:
        listed = ", ".join(sorted(name or "the checkpoint's own" for name in names))
        notes.append(f"Several VAEs are used: {listed}.")
    name = next(iter(names), "") if len(names) == 1 else ""
    return Used(name) if name and name != "Baked VAE" else None


def _agreed(
    facts: Sequence[Mapping[str, Any]], samplers: Sequence[Node], notes: list[str]
) -> dict[str, Any]:
    """Return what all samplers agree on; list the rest."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(name for said in facts for name in said):
        values = [said.get(name) for said in facts]
        if all(value == values[0] for value in values):
            found[name] = values[0]
            continue
        pairs = zip(samplers, values, strict=True)
        listed = "; ".join(f"{node}: {_brief(value)}" for node, value in list(pairs)[:20])
        notes.append(f"The samplers differ in {name}: {listed}.")
    return found


def _later(graph: Graph, node: Node) -> str:
    said = _facts(graph, node, [])
    parts = [
        f"{name} {said[name]}" for name in ("steps", "denoise", "cfg", "sampler") if name in said
    ]
    return f"Another pass follows in {node}: {', '.join(parts) or 'its settings are not clear'}."


def _second_pass(graph: Graph, node: Node) -> dict[str, Any]:
    """Return A1111's words for a second pass at a larger size."""
    said = _facts(graph, node, [])
    scales = [graph.number(other, "scale_by") for other in graph.upstream([node]).values()]
    known = [scale for scale in scales if scale is not None]
    found: dict[str, Any] = {}
    if len(known) == 1 and known[0] > 1 and "denoise" in said:
        found = {"hires_scale": known[0], "denoise": said["denoise"]}
        if "steps" in said:
            found["hires_steps"] = said["steps"]
    return found


def _brief(value: object) -> str:
    shown = " ".join(str(value).split())
    return repr(shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…")
