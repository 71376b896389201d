"""Schedules: how the noise levels of a run are spaced, under the names every tool gives them.

A schedule is a function of the levels a model was trained on and of the number of steps. Where diffusers
has an option for it, that option is used; every other schedule is computed here and handed over, so that
it is the same for all samplers.

Sources: k-diffusion (``get_sigmas_karras``, ``get_sigmas_exponential``); Karras et al. 2022,
arXiv:2206.00364, equation 5; Lin et al. 2023, arXiv:2305.08891, table 2; Lee et al. 2024,
arXiv:2407.12173; Sabour et al. 2024, arXiv:2404.14507; the documentation of A1111 and ComfyUI.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from memcard.errors import NotFoundError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.float64]
    # (levels of training, ascending, all above 0; steps) -> levels of the run, descending, all above 0
    Levels: TypeAlias = Callable[[Array, int], Array]

_RHO: Final = 7.0  # of Karras et al. 2022
_BETA: Final = 0.6  # both parameters of the beta distribution, as in Lee et al. 2024
_THRESHOLD: Final = 0.025  # how far the straight half of linear_quadratic goes
# The ten levels NVIDIA publishes for Stable Diffusion 1.5 and for XL, and the lowest of the model.
_AYS: Final = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)
_AYS_XL: Final = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


class Schedule(NamedTuple):
    """One spacing of the noise levels. Its key in ``SCHEDULES`` is its public name."""

    options: Mapping[str, Any]  # for a class of diffusers that has this schedule itself
    title: str  # A1111's "Schedule type"
    source: str  # the paper or the tool that defines it
    levels: Levels | None = None  # None: each sampler's usual time steps
    comfyui: str = ""  # its name there, if it has one
    aliases: tuple[str, ...] = ()  # what else it is called
    models: Literal["all", "noise", "flow"] = "all"  # whose levels it is made for


def normal(table: Array, steps: int) -> Array:
    """Return levels at even time steps from the last to the first."""
    import numpy as np

    return _at(table, np.linspace(len(table) - 1, 0, steps))


def trailing(table: Array, steps: int) -> Array:
    """Return levels at even time steps, the last included and the first not."""
    import numpy as np

    count = len(table)
    return _at(table, np.round(count - np.arange(steps) * (count / steps)) - 1)


def karras(table: Array, steps: int) -> Array:
    """Return levels whose seventh roots are even."""
    import numpy as np

    high, low = table[-1] ** (1 / _RHO), table[0] ** (1 / _RHO)
    ramp: Array = (high + np.linspace(0, 1, steps) * (low - high)) ** _RHO
    return ramp


def exponential(table: Array, steps: int) -> Array:
    """Return levels whose logarithms are even."""
    import numpy as np

    found: Array = np.exp(np.linspace(math.log(table[-1]), math.log(table[0]), steps))
    return found


def beta(table: Array, steps: int) -> Array:
    """Return levels at time steps of even quantiles of a beta distribution: dense at both ends."""
    import numpy as np

    moments = beta_quantile(1 - np.arange(steps) / steps) * (len(table) - 1)
    whole = np.rint(moments)
    distinct = len(set(whole.tolist())) == steps  # many steps would fall onto one: then in between
    return _at(table, whole if distinct else moments)


def beta_sigma(table: Array, steps: int) -> Array:
    """Return even quantiles of a beta distribution over the levels themselves."""
    import numpy as np

    shares = beta_quantile(1 - np.linspace(0, 1, steps))
    found: Array = table[0] + shares * (table[-1] - table[0])
    return found


def simple(table: Array, steps: int) -> Array:
    """Return every n-th level of training, counted from the highest."""
    import numpy as np

    stride = len(table) / steps
    found: Array = table[-1 - np.array([int(step * stride) for step in range(steps)])]
    return found


def ddim_uniform(table: Array, steps: int) -> Array:
    """Return every n-th level of training, counted from the second lowest; n is a whole number."""
    import numpy as np

    stride = max(len(table) // steps, 1)
    return table[np.minimum(1 + np.arange(steps) * stride, len(table) - 1)[::-1]]


def kl_optimal(table: Array, steps: int) -> Array:
    """Return levels whose arcus tangents are even."""
    import numpy as np

    found: Array = np.tan(np.linspace(math.atan(table[-1]), math.atan(table[0]), steps))
    return found


def linear_quadratic(table: Array, steps: int) -> Array:
    """Return levels that fall slowly and evenly for half of the steps, then ever faster.

    What has fallen after step i is i * threshold / half at first; then a parabola that goes on with the
    same value and slope and ends at 1 with the last step.
    """
    import numpy as np

    at = np.arange(steps)
    half = steps // 2
    if half == 0:
        return table[-1:]
    rest = steps - half
    gap = half - _THRESHOLD * steps
    a = gap / (half * rest**2)
    b = _THRESHOLD / half - 2 * gap / rest**2
    fallen = np.where(at < half, at * _THRESHOLD / half, a * at**2 + b * at + a * half**2)
    found: Array = (1 - fallen) * table[-1]
    return found


def align_your_steps(table: Array, steps: int) -> Array:
    """Return NVIDIA's levels for Stable Diffusion 1.5, between them even in the logarithm."""
    return _between(_AYS, table, steps)


def align_your_steps_xl(table: Array, steps: int) -> Array:
    """Return NVIDIA's levels for Stable Diffusion XL, between them even in the logarithm."""
    return _between(_AYS_XL, table, steps)


def _between(levels: Sequence[float], table: Array, steps: int) -> Array:
    import numpy as np

    at = np.linspace(0, len(levels) - 1, steps)
    found = np.exp(np.interp(at, np.arange(len(levels)), np.log(levels)))
    return np.clip(found, table[0], table[-1])


def _at(table: Array, moments: Array) -> Array:
    """Return the levels at time steps, in the logarithm between two whole ones."""
    import numpy as np

    found: Array = np.exp(np.interp(moments, np.arange(len(table)), np.log(table)))
    return found


def moments_of(table: Array, levels: Array) -> Array:
    """Return the time steps of levels, 0..len(table)-1; between two whole ones by the logarithm."""
    import numpy as np

    return np.interp(np.log(levels), np.log(table), np.arange(len(table)))


def beta_quantile(shares: Array) -> Array:
    """Return the quantiles of the beta distribution with both parameters 0.6, for shares in 0..1.

    Its integral from 0 is taken over u = t^0.6, where the integrand is smooth; the distribution is
    its own mirror image. No scipy: nothing else here needs it.
    """
    import numpy as np

    nodes, weights = np.polynomial.legendre.leggauss(64)

    def integral(u: Array) -> Array:
        inside = (1 - (np.outer(u, (nodes + 1) / 2)) ** (1 / _BETA)) ** (_BETA - 1)
        found: Array = inside @ weights * u / 2
        return found

    shares = np.asarray(shares, dtype=np.float64)
    middle = 0.5**_BETA
    wanted = 2 * np.minimum(shares, 1 - shares) * integral(np.array([middle]))[0]
    low, high = np.zeros_like(wanted), np.full_like(wanted, middle)
    for _ in range(60):  # halves the gap each time, down to the last bit
        half = (low + high) / 2
        less = integral(half) < wanted
        low, high = np.where(less, half, low), np.where(less, high, half)
    lower = ((low + high) / 2) ** (1 / _BETA)
    found: Array = np.where(shares <= 0.5, lower, 1 - lower)
    return found


SCHEDULES: Final[Mapping[str, Schedule]] = {
    "normal": Schedule({}, "Normal", "arXiv:2112.10752", comfyui="normal", aliases=("uniform",)),
    "karras": Schedule(
        *({"use_karras_sigmas": True}, "Karras", "arXiv:2206.00364", karras, "karras"),
        aliases=("k", "ka"),
    ),
    "exponential": Schedule(
        *({"use_exponential_sigmas": True}, "Exponential", "k-diffusion", exponential),
        comfyui="exponential",
        aliases=("polyexponential",),  # with its usual rho of 1
    ),
    "trailing": Schedule(
        *({"timestep_spacing": "trailing"}, "SGM Uniform", "arXiv:2305.08891", trailing),
        comfyui="sgm_uniform",
        aliases=("sgmuniform",),
    ),
    "beta": Schedule({}, "Beta (time)", "arXiv:2407.12173", beta, "beta"),
    "beta_sigma": Schedule({}, "Beta", "A1111, diffusers", beta_sigma, aliases=("beta_sigmas",)),
    "simple": Schedule({}, "Simple", "ComfyUI", simple, "simple"),
    "ddim_uniform": Schedule({}, "DDIM", "ComfyUI", ddim_uniform, "ddim_uniform"),
    "kl_optimal": Schedule({}, "KL Optimal", "arXiv:2404.14507", kl_optimal, "kl_optimal"),
    "linear_quadratic": Schedule(
        {}, "Linear Quadratic", "Genmo Mochi 1", linear_quadratic, "linear_quadratic", models="flow"
    ),
    "align_your_steps": Schedule(
        {},
        "Align Your Steps",
        "arXiv:2404.14507",
        align_your_steps,
        aliases=("ays",),
        models="noise",
    ),
    "align_your_steps_xl": Schedule(
        {},
        "Align Your Steps XL",
        "arXiv:2404.14507",
        align_your_steps_xl,
        aliases=("ays_xl",),
        models="noise",
    ),
}


def find(name: str, *, tool: str = "") -> str:
    """Return our name of a schedule, from any tool's.

    Args:
        name: such as ``karras``, ``SGM Uniform``, ``sgm_uniform``, ``Beta``.
        tool: ``a1111`` where its title counts first: its Beta is our ``beta_sigma``.

    Raises:
        NotFoundError: no schedule has this name; says the nearest.
    """
    wanted = plain(name)
    own = {plain(title.title): key for key, title in SCHEDULES.items()}
    if tool == "a1111" and wanted in own:
        return own[wanted]
    known = {spelled: key for key in reversed(list(SCHEDULES)) for spelled in names_of(key)}
    if wanted in known:
        return known[wanted]
    near = get_close_matches(wanted, known, n=1)
    hint = f" Did you mean {known[near[0]]!r}?" if near else ""
    raise NotFoundError(f"no schedule {name!r}.{hint} There are: {', '.join(SCHEDULES)}.")


def plain(name: str) -> str:
    """Return a name as it is compared: lower case, one space for each gap, bar or line."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def names_of(schedule: str) -> tuple[str, ...]:
    """Return everything one of ``SCHEDULES`` is called, as it is compared."""
    found = SCHEDULES[schedule]
    spelled = (schedule, found.comfyui, *found.aliases, found.title)
    return tuple(dict.fromkeys(plain(name) for name in spelled if name))
