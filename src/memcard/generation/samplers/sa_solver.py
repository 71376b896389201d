"""SA-Solver: stochastic Adams, with corrector. Source: Xue et al. 2023, arXiv:2309.05019."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="SA Solver",
    comfyui="sa_solver",
    diffusers="scheduling_sasolver.SASolverScheduler",
    source="arXiv:2309.05019",
    # its way to put noise on a picture knows whole time steps alone
    schedules=("normal", "karras", "exponential", "trailing"),
    random=True,
    flow="scheduling_sasolver.SASolverScheduler",
    flow_options={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    aliases=("sasolver",),
)
