"""Averages of weights: what they are, what they cost in memory, and that the model gets its bits back."""

import copy
import json

import pytest
import torch
from torch import nn

from memcard.errors import MismatchError, UsageError
from memcard.training import _shadow
from memcard.training.decays import Constant, InverseGamma, Power, WarmUp
from memcard.training.ema import EMA


def net(seed=0, dtype=torch.float32):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 5)]
    return nn.Sequential(*layers).to(dtype)


def train(model, steps, each, seed=1):
    """Move the weights; the numbers do not matter."""
    source = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape, generator=source).to(p.dtype), alpha=0.01)
        each()


def bits(tensors):
    return {k: v.detach().reshape(-1).view(torch.uint8).clone() for k, v in tensors.items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def averages(ema, name=None):
    return {k: v.clone() for k, v in ema.weights(name).items() if v.is_floating_point()}


def test_a_constant_decay_is_the_recurrence():
    model = net()
    wanted = {k: p.detach().double() for k, p in model.named_parameters()}
    ema = EMA(model, 0.9)

    def each():
        ema.update()
        for k, p in model.named_parameters():
            wanted[k] = 0.9 * wanted[k] + 0.1 * p.detach().double()

    train(model, 20, each)

    got = ema.weights()
    assert all(torch.allclose(got[k].double(), wanted[k], rtol=1e-5, atol=1e-7) for k in wanted)
    assert ema.steps == 20


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (WarmUp(0.5), {"decay": 0.5}),
        (InverseGamma(0.6, 2.0, 0.75), {"use_ema_warmup": True, "inv_gamma": 2.0, "power": 0.75}),
    ],
)
def test_warm_ups_are_those_of_diffusers(ours, theirs):
    from diffusers.training_utils import EMAModel

    model = net()
    ema = EMA(model, ours)
    peer = EMAModel(model.parameters(), **{"decay": 0.6, **theirs})

    train(model, 30, lambda: (ema.update(), peer.step(model.parameters())))

    mine = [ema.weights()[k] for k, _ in model.named_parameters()]
    assert all(
        torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, peer.shadow_params, strict=True)
    )


def test_a_power_function_average_weighs_step_tau_by_its_power():
    model = nn.Linear(1, 1, bias=False)
    rule = Power(0.1)
    ema, seen = EMA(model, rule), []

    train(model, 200, lambda: (ema.update(), seen.append(model.weight.item())))

    t = torch.arange(0, 201, dtype=torch.float64) / 200
    share = (t ** (rule.gamma + 1)).diff()
    assert float(ema.weights()["weight"]) == pytest.approx(
        float(share @ torch.tensor(seen, dtype=torch.float64)), rel=1e-5
    )


@pytest.mark.parametrize("rule", [Constant(0.99), Power(0.1)])
def test_an_average_of_every_tenth_step_is_as_long(rule):
    model = nn.Linear(1, 1, bias=False)
    one, ten = EMA(model, rule), EMA(model, rule, every=10)
    step = 0

    def each():
        nonlocal step
        step += 1
        with torch.no_grad():
            model.weight.fill_(step)
        one.update()
        ten.update()

    train(model, 1000, each)

    lag_one, lag_ten = (1000 - float(e.weights()["weight"]) for e in (one, ten))
    assert lag_ten == pytest.approx(lag_one, rel=0.06)


def test_until_start_the_average_is_the_model_and_begins_there():
    model = nn.Linear(4, 4)
    ema = EMA(model, 0.5, start=3, every=2)
    values = []

    train(model, 5, lambda: (ema.update(), values.append(model.weight.detach().clone())))

    assert torch.allclose(ema.weights()["weight"], 0.25 * values[2] + 0.75 * values[4])


def test_several_averages_at_once_are_those_of_several_objects():
    model = net()
    both = EMA(model, [0.9, Power(0.1)])
    apart = EMA(model, 0.9), EMA(model, Power(0.1))

    train(model, 7, lambda: [e.update() for e in (both, *apart)])

    assert both.names == ("0.9", "power_0.1")
    assert same(bits(averages(both, "0.9")), bits(averages(apart[0])))
    assert same(bits(averages(both, "power_0.1")), bits(averages(apart[1])))
    with pytest.raises(UsageError, match=r"several averages are kept; say which: 0\.9, power_0\.1"):
        both.weights()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_updates_of_half_precision_weights_are_not_lost(dtype):
    model = nn.Linear(64, 64, bias=False).to(dtype)
    with torch.no_grad():
        model.weight.fill_(1.0)
    wide, narrow = EMA(model, 0.9999), EMA(model, 0.9999, dtype=dtype)
    with torch.no_grad():
        model.weight.fill_(1.5)

    for _ in range(1000):
        wide.update()
        narrow.update()

    assert float(wide.weights()["weight"][0, 0]) == pytest.approx(
        1.5 - 0.5 * 0.9999**1000, rel=1e-4
    )
    assert float(narrow.weights()["weight"][0, 0]) == 1.0  # 1e-4 of the way is below the last bit


def test_large_and_odd_tensors_pass_through_the_small_buffer(monkeypatch):
    monkeypatch.setattr(_shadow, "_ON_CPU", 100)
    model = nn.ParameterDict(
        {
            "tall": nn.Parameter(torch.randn(90, 7)),
            "row": nn.Parameter(torch.randn(1, 250)),
            "scalar": nn.Parameter(torch.randn(())),
            "empty": nn.Parameter(torch.randn(0, 3)),
            "last": nn.Parameter(torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)),
        }
    ).bfloat16()
    start = {k: p.detach().float() for k, p in model.items()}
    ema = EMA(model, 0.75)

    train(model, 1, ema.update)

    for k, p in model.items():
        assert torch.equal(ema.weights()[k], start[k].lerp(p.detach().float(), 0.25)), k


@pytest.mark.parametrize("moment", ["at once", "when waited for"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_from_another_device_are_waited_for_and_not_overtaken(monkeypatch, dtype, moment):
    """The order of things; the other device is one in name only."""
    monkeypatch.setattr(_shadow, "_ON_CPU", 50)
    away, late = torch.device("mps"), []
    monkeypatch.setattr(
        *(_shadow, "layout"),
        lambda params, shadows: [
            (p.dtype, away, s.dtype, s.device) for p, s in zip(params, shadows, strict=True)
        ],
    )

    def send(to, of, *, non_blocking):
        assert non_blocking
        late.extend(zip(to, of, strict=True))
        if moment == "at once":
            arrive(away)

    def arrive(device):
        assert device == away
        for room, value in late:
            room.copy_(value)
        late.clear()

    monkeypatch.setattr(torch, "_foreach_copy_", send)
    monkeypatch.setattr(torch.accelerator, "synchronize", arrive)
    params = [torch.randn(n, 7).to(dtype) for n in (3, 9, 1, 20, 2)]
    shadows = [torch.randn(p.shape) for p in params]
    wanted = [s.lerp(p.float(), 0.25) for s, p in zip(shadows, params, strict=True)]

    plan = _shadow.Plan(params, shadows)
    plan.update(params, [shadows], [0.75])

    assert all(torch.equal(s, w) for s, w in zip(shadows, wanted, strict=True))
    assert late == []


def test_an_update_makes_no_temporary_of_full_size():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and not func._schema.name.endswith(
                ("detach", "slice", "alias")
            ):
                made.append((func._schema.name, out.numel()))
            return out

    made = []
    for dtype in (torch.float32, torch.bfloat16):
        model = nn.Linear(1500, 1500).to(dtype)
        ema = EMA(model)
        ema.update()  # the plan and its buffer are made once
        with Sizes():
            ema.update()

    assert made == []


def test_the_model_has_the_averages_inside_and_its_own_bits_afterwards():
    model = net()
    ema = EMA(model, 0.9)
    train(model, 5, ema.update)
    raw, smooth = bits(model.state_dict()), bits(ema.weights())

    with ema.swapped_in():
        assert same(bits(model.state_dict()), smooth)

    assert same(bits(model.state_dict()), raw)
    assert same(bits(ema.weights()), smooth)


@pytest.mark.parametrize("buffers", ["copy", "average"])
def test_what_an_evaluation_does_to_buffers_is_undone(buffers):
    model = net().train()
    ema = EMA(model, 0.9, buffers=buffers)
    train(model, 3, lambda: (model(torch.randn(2, 3, 8, 8)), ema.update()))
    raw, smooth = bits(model.state_dict()), bits(ema.weights())

    with ema.swapped_in():
        model(torch.randn(4, 3, 8, 8) + 7)

    assert same(bits(model.state_dict()), raw)
    assert same(bits(ema.weights()), smooth)


def test_an_error_inside_gives_the_weights_back():
    model = net(dtype=torch.bfloat16)
    ema = EMA(model, 0.9)
    train(model, 5, ema.update)
    raw, smooth = bits(model.state_dict()), bits(ema.weights())

    with pytest.raises(KeyError), ema.swapped_in():
        raise KeyError

    assert same(bits(model.state_dict()), raw)
    assert same(bits(ema.weights()), smooth)


class _Interrupted(torch.utils._python_dispatch.TorchDispatchMode):
    """Ctrl-C right after the n-th copy, the moment when a signal is noticed."""

    def __init__(self, moment):
        super().__init__()
        self.left = moment

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.left -= func._schema.name == "aten::copy_"
        if self.left == 0:
            self.left = -1
            raise KeyboardInterrupt
        return out


@pytest.mark.parametrize("moment", range(1, 38))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_interrupt_in_the_middle_of_the_exchange_loses_nothing(moment, dtype):
    model = net(dtype=dtype)
    ema = EMA(model, 0.9)
    train(model, 5, ema.update)
    raw, smooth = bits(model.state_dict()), bits(ema.weights())

    try:
        with _Interrupted(moment), ema.swapped_in():
            pass
    except KeyboardInterrupt:
        pass

    assert same(bits(model.state_dict()), raw)
    assert same(bits(ema.weights()), smooth)
    ema.update()


def test_nothing_is_saved_or_updated_while_the_averages_are_in_the_model():
    model = net()
    ema = EMA(model)

    with ema.swapped_in():
        for call in (ema.update, ema.state_dict, ema.weights, ema.swapped_in().__enter__):
            with pytest.raises(UsageError, match=r"Leave the `with ema\.swapped_in\(\)` block"):
                call()

    ema.update()


def test_a_resumed_average_goes_on_with_the_same_bits():
    model = net()
    ema = EMA(model, [0.99, Power(0.05)], every=3, start=2, buffers="average")
    train(model, 10, ema.update)
    saved, twin = copy.deepcopy(ema.state_dict()), copy.deepcopy(model)
    train(model, 10, ema.update, seed=2)

    again = EMA(twin, [0.99, Power(0.05)], every=3, start=2, buffers="average")
    again.load_state_dict(saved)
    train(twin, 10, again.update, seed=2)

    for name in ema.names:
        assert same(bits(ema.weights(name)), bits(again.weights(name)))
    assert (again.steps, again.run) == (20, ema.run)


def test_the_state_is_named_tensors_and_json():
    state = EMA(net(), 0.9999).state_dict()

    tensors = {k: v for k, v in state.items() if isinstance(v, torch.Tensor)}
    json.dumps({k: v for k, v in state.items() if k not in tensors})
    assert list(tensors)[:2] == ["0.9999.0.weight", "0.9999.0.bias"]


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (lambda: EMA(net(), 0.99), "Make the EMA with the decays"),
        (lambda: EMA(nn.Sequential(nn.Conv2d(3, 9, 3)), 0.9), "is \\[8, 3, 3, 3\\], the model has"),
        (lambda: EMA(nn.Linear(2, 2), 0.9), "'weight' is missing"),
        (lambda: EMA(net(), 0.9, dtype=torch.bfloat16), "torch.float32 into torch.bfloat16"),
    ],
)
def test_a_state_of_something_else_is_refused_and_changes_nothing(other, text):
    state = EMA(net(1), 0.9).state_dict()
    ema = other()
    before = bits(ema.weights())

    with pytest.raises(MismatchError, match=text):
        ema.load_state_dict(state)

    assert same(bits(ema.weights()), before)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("count", torch.tensor(3))
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_tied_weights_are_averaged_once_and_frozen_ones_shared():
    model = Tied()
    ema = EMA(model, 0.9)

    state = [k for k in ema.state_dict() if k.startswith("0.9.")]
    found = ema.weights()

    assert state == ["0.9.embed.weight"]
    assert found.keys() == model.state_dict().keys()
    assert found["head.weight"].data_ptr() == found["embed.weight"].data_ptr()
    assert found["frozen.weight"].data_ptr() == model.frozen.weight.data_ptr()


def test_frozen_parameters_can_be_averaged_too():
    ema = EMA(Tied(), 0.9, frozen="average")

    assert "0.9.frozen.weight" in ema.state_dict()


def test_what_is_unfrozen_later_is_told():
    model = Tied()
    ema = EMA(model, 0.9)
    model.frozen.requires_grad_(True)

    with pytest.raises(UsageError, match=r"frozen\.weight, frozen\.bias: needs a gradient now"):
        ema.update()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile imports old parts
def test_wrappers_leave_no_trace_in_the_names():
    plain, part = net(), net()
    part[3] = torch.compile(part[3])

    wrapped = EMA(nn.DataParallel(torch.compile(net())), 0.9)

    assert EMA(plain, 0.9).state_dict().keys() == wrapped.state_dict().keys()
    assert EMA(plain, 0.9).state_dict().keys() == EMA(part, 0.9).state_dict().keys()


def test_several_models_have_their_names_in_front():
    ema = EMA({"unet": nn.Linear(2, 2), "text": nn.Linear(3, 3)}, 0.9)

    assert list(ema.weights()) == ["unet.weight", "unet.bias", "text.weight", "text.bias"]


def test_averages_are_copied_into_another_model_with_buffers():
    model, other = net(0), net(5)
    ema = EMA(model, 0.9)
    train(model, 4, lambda: (model(torch.randn(2, 3, 8, 8)), ema.update()))

    ema.copy_to(other)

    assert same(bits(other.state_dict()), bits(ema.weights()))
    with pytest.raises(MismatchError, match="the averages"):
        ema.copy_to(nn.Linear(288, 5))


def test_a_model_that_is_converted_later_is_followed():
    model = net()
    ema = EMA(model, 0.5, buffers="average")
    ema.update()

    model.to(torch.float64)
    with torch.no_grad():
        model[3].bias.fill_(1.0)
    ema.update()
    ema.update()

    assert ema.weights()["3.bias"].dtype == torch.float32
    assert float(ema.weights()["3.bias"][0]) == pytest.approx(1, abs=0.26)


def test_an_infinity_does_not_become_nan_when_the_weights_are_taken_as_they_are():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(float("inf"))
    ema = EMA(model, WarmUp(0.9))

    ema.update()

    assert float(ema.weights()["weight"]) == float("inf")


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"decay": 1.0}, "decay is 1; it goes from 0"),
        ({"decay": []}, "at least one"),
        ({"decay": [0.9, 0.9]}, "each once"),
        ({"decay": Power(0.1), "every": 0, "start": -1}, "every is 0.*start is -1"),
        ({"buffers": "x"}, "buffers is 'x'"),
        ({"frozen": "x"}, "frozen is 'x'"),
        ({"decay": {"": 0.9}}, "is no name"),
    ],
)
def test_arguments_out_of_range_are_refused(given, text):
    with pytest.raises(UsageError, match=text):
        EMA(nn.Linear(1, 1), **given)


def test_nothing_to_average_is_refused():
    with pytest.raises(UsageError, match="nothing to average"):
        EMA(nn.Linear(1, 1).requires_grad_(False))


@pytest.mark.parametrize("sigma", [0.3, 0, -1])
def test_a_width_out_of_range_is_refused_at_once(sigma):
    with pytest.raises(UsageError, match="sigma_rel is"):
        Power(sigma)
