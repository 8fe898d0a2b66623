"""A format for each moment: what a pair of them stores, on every path, and how it is saved, loaded and refused."""

import copy
import io
import itertools
import pickle

import pytest
import torch
from lockstep import SWITCHES

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu, precision
from adamomentum.torch.functional import adamomentum
from adamomentum.torch.state import CODED, scale_of

FORMATS = ("float32", "bfloat16", "8bit")
PAIRS = list(itertools.permutations(FORMATS, 2))
STORED = {"float32": torch.float32, "bfloat16": torch.bfloat16, "8bit": torch.uint8}
KERNELS = fused_cpu.why_not() is None
PATHS = [{"fused": False}, {"fused": True}] if KERNELS else [{"fused": False}]
# To what decoded numbers agree that were rounded differently.
RELATIVE = {"float32": 1e-5, "bfloat16": 2**-7, "8bit": 0.13}


def parameters(dtype=torch.float32):
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape).to(dtype)) for shape in ((70_001,), (), (0,), (255,), (2, 3, 4, 5))]
    params[4] = torch.nn.Parameter(params[4].detach().to(memory_format=torch.channels_last))
    return params


def train(params, opt, steps=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
        opt.step()


def decoded(state):
    return [precision.unpack(state[key], state.get(scale_of(key)), moment) for key, moment in CODED]


def assert_same(opt, other):
    for ours, theirs in zip(opt.param_groups[0]["params"], other.param_groups[0]["params"], strict=True):
        assert torch.equal(ours, theirs)
        torch.testing.assert_close(dict(opt.state[ours]), dict(other.state[theirs]), rtol=0, atol=0)


# ---- what is stored ----


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pair", PAIRS)
def test_each_moment_is_stored_as_its_format_says(pair, path):
    p = torch.nn.Parameter(torch.ones(600, dtype=torch.bfloat16))
    opt = AdaMomentum([p], state_dtype=pair, rounding="stochastic", **path)
    train([p], opt)
    keys = ["step", *(scale_of(key) for (key, _), name in zip(CODED, pair, strict=True) if name == "8bit")]
    assert opt.state[p].keys() == {"exp_avg", "exp_avg_sq", *keys}
    assert [opt.state[p][key].dtype for key, _ in CODED] == [STORED[name] for name in pair]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pair", PAIRS)
def test_the_first_moment_is_that_of_a_run_with_its_format_for_both(pair, path):
    # It depends on the gradients and on itself alone.
    params, others = parameters(), parameters()
    opt, other = AdaMomentum(params, state_dtype=pair, **path), AdaMomentum(others, state_dtype=pair[0], **path)
    train(params, opt, 4)
    train(others, other, 4)
    for p, q in zip(params, others, strict=True):
        for key in ("exp_avg", "exp_avg_scale"):
            assert (key in opt.state[p]) == (key in other.state[q])
            assert key not in opt.state[p] or torch.equal(opt.state[p][key], other.state[q][key])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("second", ["bfloat16", "8bit"])
def test_the_second_moment_is_rounded_as_where_both_are(second, path):
    # At the first step both come from the same first moment, which is stored afterwards.
    p, q = torch.nn.Parameter(torch.ones(3000)), torch.nn.Parameter(torch.ones(3000))
    opt, other = AdaMomentum([p], state_dtype=("float32", second), **path), AdaMomentum([q], state_dtype=second, **path)
    train([p], opt)
    train([q], other)
    assert torch.equal(opt.state[p]["exp_avg_sq"], other.state[q]["exp_avg_sq"])


@pytest.mark.skipif(not KERNELS, reason="no native kernels here")
@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [
        (torch.float32, "nearest"),
        (torch.float16, "nearest"),
        (torch.bfloat16, "stochastic"),
        (torch.bfloat16, "kahan"),
        (torch.float16, "master"),
    ],
)
@pytest.mark.parametrize("pair", PAIRS)
def test_kernels_store_what_the_for_loop_stores(monkeypatch, pair, dtype, rounding):
    taken, run = [], fused_cpu.run
    monkeypatch.setattr(fused_cpu, "run", lambda batch, rule: (taken.append(len(batch)), run(batch, rule)))
    differ, total = [0, 0], 0
    for switches in ("plain", "l2", "rectify", "drop-in", "nesterov"):
        ours, theirs = parameters(dtype), parameters(dtype)
        options = {"state_dtype": pair, "rounding": rounding, **SWITCHES[switches]}
        opt, other = AdaMomentum(ours, fused=True, **options), AdaMomentum(theirs, fused=False, **options)
        for t in range(7):  # rectify takes its other branch from step 6
            train(ours, opt, seed=t)
            train(theirs, other, seed=t)
            for p, q in zip(ours, theirs, strict=True):
                torch.testing.assert_close(p, q, rtol=2 * torch.finfo(dtype).eps + 1e-5, atol=1e-6)
                both = zip(decoded(opt.state[p]), decoded(other.state[q]), pair, (1e-6, 1e-12), strict=True)
                for i, (a, b, name, atol) in enumerate(both):
                    torch.testing.assert_close(a, b, rtol=RELATIVE[name], atol=atol)
                    differ[i] += 0 if name == "float32" else (a != b).sum().item()
                total += p.numel()
                with torch.no_grad():
                    q.copy_(p)
                for key, value in opt.state[p].items():
                    other.state[q][key].copy_(value)
    assert taken == [5] * 35
    # The last bit of float32 arithmetic may tip a rounding, and only that.
    assert max(differ) <= 5e-3 * total


def test_bytes_of_state():
    sizes = {"float32": 4, "bfloat16": 2, "8bit": 1 + 1 / 256}
    for pair in PAIRS:
        p = torch.nn.Parameter(torch.zeros(1 << 16))
        opt = AdaMomentum([p], state_dtype=pair)
        opt.init_state()
        size = sum(t.nbytes for key, t in opt.state[p].items() if key != "step") / p.numel()
        assert size == sum(sizes[name] for name in pair)


def test_training_leads_where_float32_leads():
    # A block holds gradients from 1e-3 to 1; halfway they drop to a tenth, and v has to fall by a factor of 100.
    generator = torch.Generator().manual_seed(1)
    scale = 10 ** (3 * torch.rand(4096, generator=generator) - 3)
    mean = 0.1 * scale * torch.randn(4096, generator=generator)
    formats = {None: 0.0, ("float32", "8bit"): 0.05, ("bfloat16", "8bit"): 0.05}
    params = [torch.nn.Parameter(torch.zeros(4096)) for _ in formats]
    opts = [AdaMomentum([p], state_dtype=f) for p, f in zip(params, formats, strict=True)]
    for t in range(600):
        grad = (mean + scale * torch.randn(4096, generator=generator)) * (0.1 if t >= 300 else 1)
        for p, opt in zip(params, opts, strict=True):
            p.grad = grad
            opt.step()
    exact = params[0]
    for p, limit in zip(params[1:], list(formats.values())[1:], strict=True):
        assert 0 < (p - exact).norm() / exact.norm() < limit


@pytest.mark.parametrize("path", PATHS)
def test_a_nan_shows_in_the_block_of_codes_and_in_its_element_elsewhere(path):
    p = torch.nn.Parameter(torch.zeros(600))
    opt = AdaMomentum([p], state_dtype=("float32", "8bit"), **path)
    train([p], opt)
    p.grad[300] = torch.nan
    opt.step()
    m, v = decoded(opt.state[p])
    assert m.isnan().nonzero().item() == 300
    assert v.isnan().nonzero().flatten().tolist() == list(range(256, 512))


@pytest.mark.parametrize("capturable", [False, True])
@pytest.mark.parametrize("pair", PAIRS)
def test_compiled(pair, capturable):
    params, others = parameters(), parameters()
    opt = AdaMomentum(params, state_dtype=pair, capturable=capturable, fused=False)
    other = AdaMomentum(others, state_dtype=pair, fused=False)
    step = torch.compile(opt.step, backend="eager")
    for t in range(3):
        generator = torch.Generator().manual_seed(t)
        for p, q in zip(params, others, strict=True):
            p.grad = torch.empty_like(p).copy_(torch.randn(p.shape, generator=generator))
            q.grad = p.grad.clone()
        step()
        other.step()
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-4)
        assert [opt.state[p][key].dtype for key, _ in CODED] == [STORED[name] for name in pair]


def test_the_functional_form_takes_the_scales_of_one_moment():
    p, q = torch.ones(300), torch.nn.Parameter(torch.ones(300))
    opt = AdaMomentum([q], state_dtype=("bfloat16", "8bit"), lr=0.1)
    opt.init_state()
    state = copy.deepcopy(dict(opt.state[q]))
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-16, "weight_decay": 0.0}
    for t in range(3):
        train([q], opt, seed=t)
        columns = [[state[key]] for key in ("exp_avg", "exp_avg_sq", "step", "exp_avg_sq_scale")]
        adamomentum([p], [q.grad], *columns[:2], [], columns[2], exp_avg_sq_scales=columns[3], **options)
    assert torch.equal(p, q)
    torch.testing.assert_close(state, dict(opt.state[q]), rtol=0, atol=0)


# ---- saved and loaded ----


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("pair", PAIRS)
def test_runs_resume_bit_for_bit_from_files_and_copies(pair, path):
    params = parameters(torch.bfloat16)
    opt = AdaMomentum(params, state_dtype=pair, rounding="stochastic", weight_decay=0.1, **path)
    train(params, opt, 3)
    file = io.BytesIO()
    torch.save(opt.state_dict(), file)
    file.seek(0)
    others = [torch.nn.Parameter(p.detach().clone()) for p in params]
    other = AdaMomentum(others, lr=0.5)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.param_groups[0]["state_dtype"] == pair
    assert_same(opt, other)
    copies = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    for each in (opt, other, *copies):
        train(each.param_groups[0]["params"], each, 3, seed=1)
    for each in (other, *copies):
        assert_same(opt, each)


@pytest.mark.parametrize("saved_as", [None, "float64", *FORMATS, *PAIRS])
@pytest.mark.parametrize("loaded_as", ["float32", "bfloat16", "8bit", *PAIRS])
def test_another_format_is_converted_on_load(saved_as, loaded_as):
    params = [torch.nn.Parameter(torch.randn(700)), torch.nn.Parameter(torch.randn(3, 5))]
    opt = AdaMomentum(params, state_dtype=saved_as)
    train(params, opt, 3)
    saved = opt.state_dict()
    saved["param_groups"][0]["state_dtype"] = loaded_as
    other = AdaMomentum([torch.nn.Parameter(p.detach().clone()) for p in params])
    other.load_state_dict(saved)
    formats = precision.formats_of(loaded_as)
    for p, q in zip(params, other.param_groups[0]["params"], strict=True):
        state = other.state[q]
        wide = saved_as == "float64" and loaded_as == "float32"  # no wider than they were, and no narrower
        assert [state[key].dtype for key, _ in CODED] == [torch.float64 if wide else STORED[name] for name in formats]
        scales = {scale_of(key) for (key, _), name in zip(CODED, formats, strict=True) if name == "8bit"}
        assert state.keys() == {"step", "exp_avg", "exp_avg_sq", *scales}
        for a, b, name, atol in zip(decoded(state), decoded(opt.state[p]), formats, (1e-4, 1e-9), strict=True):
            torch.testing.assert_close(a, b, rtol=RELATIVE[name], atol=atol)
    train(other.param_groups[0]["params"], other)


def test_what_was_saved_stays_where_no_format_is_asked_for():
    params = parameters()
    for pair in PAIRS:
        opt = AdaMomentum(params, state_dtype=pair)
        train(params, opt)
        saved = opt.state_dict()
        saved["param_groups"][0]["state_dtype"] = None
        other = AdaMomentum(params)
        other.load_state_dict(saved)
        # Codes stay; bfloat16 without the option is widened, as it would be of another optimizer.
        kinds = [torch.uint8 if name == "8bit" else torch.float32 for name in pair]
        assert [other.state[params[0]][key].dtype for key, _ in CODED] == kinds
        train(params, other)


@pytest.mark.parametrize("pair", [("8bit", "bfloat16"), ("bfloat16", "8bit"), ("float32", "8bit")])
def test_codes_that_a_loader_cast_to_floats_are_refused(pair):
    p = torch.nn.Parameter(torch.randn(600))
    opt = AdaMomentum([p], state_dtype=pair)
    train([p], opt)
    saved = opt.state_dict()
    state = {key: value.float() for key, value in saved["state"][0].items() if not key.endswith("scale")}
    key = "exp_avg" if pair[0] == "8bit" else "exp_avg_sq"
    with pytest.raises(ValueError, match=f"'{key}' looks like 8-bit codes that were cast to .*state_dtype=\\('"):
        opt.load_state_dict({**saved, "state": {0: state}})


def test_from_adam():
    from adamomentum.torch import from_adam

    params = parameters()
    adam = torch.optim.AdamW(params)
    train(params, adam, 3)
    for pair in PAIRS:
        opt = AdaMomentum(params, state_dtype=pair)
        opt.load_state_dict(from_adam(adam.state_dict(), opt))
        state, theirs = opt.state[params[0]], adam.state[params[0]]
        for a, key, name, atol in zip(decoded(state), ("exp_avg", "exp_avg_sq"), pair, (1e-4, 1e-9), strict=True):
            torch.testing.assert_close(a, theirs[key], rtol=RELATIVE[name], atol=atol)


# ---- the option ----


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ((torch.float32, "8bit"), ("float32", "8bit")),
        (["bfloat16", "8bit"], ("bfloat16", "8bit")),
        ((torch.bfloat16, torch.float32), ("bfloat16", "float32")),
        (("8bit", "8bit"), "8bit"),
        ((torch.float32, "float32"), "float32"),
        (torch.bfloat16, "bfloat16"),
    ],
)
def test_groups_hold_names(given, kept):
    p = torch.nn.Parameter(torch.ones(3))
    opt = AdaMomentum([p], state_dtype=given)
    assert opt.defaults["state_dtype"] == opt.param_groups[0]["state_dtype"] == kept
    opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(3))], "state_dtype": given})
    assert opt.param_groups[1]["state_dtype"] == kept
    opt.param_groups[0]["state_dtype"] = given
    opt.step()
    assert opt.param_groups[0]["state_dtype"] == kept


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (("float64", "8bit"), ValueError, r"a pair of 'float32', .*; float64 goes with itself alone, as state_dtype="),
        ((torch.float64, torch.float64), ValueError, "float64 goes with itself alone"),
        (("float32", torch.float16), ValueError, "in float16 a second moment underflows"),
        (("float32", "4bit"), ValueError, r"state_dtype must be a pair of .*, got \('float32', '4bit'\)"),
        (("float32",), ValueError, r"state_dtype must be one for both moments or a pair of .*, got \('float32',\)"),
        (("float32",) * 3, ValueError, "must be one for both moments or a pair"),
        ((), ValueError, "must be one for both moments or a pair"),
        (("float32", 8), TypeError, r"must be a pair of .*, got \('float32', 8\)"),
        (("float32", None), TypeError, r"must be a pair of .*, got \('float32', None\)"),
        ({"float32", "8bit"}, TypeError, "state_dtype must be torch.float32, .* got {"),
    ],
)
def test_wrong_pairs_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        AdaMomentum([torch.nn.Parameter(torch.ones(3))], state_dtype=given)


@pytest.mark.parametrize("pair", PAIRS)
def test_what_does_not_go_with_a_pair_is_refused(pair):
    p = torch.nn.Parameter(torch.ones(3))
    for name in ("amsgrad", "differentiable", "foreach"):
        with pytest.raises(ValueError, match=rf"{name}=True does not go with state_dtype=\('{pair[0]}', '{pair[1]}'\)"):
            AdaMomentum([p], state_dtype=pair, **{name: True})
    with pytest.raises(TypeError, match="params must be real with state_dtype"):
        AdaMomentum([torch.zeros(2, dtype=torch.complex64)], state_dtype=pair)


def test_moments_that_do_not_go_together_are_refused():
    p = torch.nn.Parameter(torch.ones(3))
    opt = AdaMomentum([p], state_dtype=("float32", "8bit"))
    train([p], opt)
    opt.state[p]["exp_avg"] = opt.state[p]["exp_avg"].double()
    with pytest.raises(ValueError, match="must share a dtype, or be in float32, bfloat16 and 8-bit codes, got"):
        opt.step()
    opt.state[p]["exp_avg"] = opt.state[p]["exp_avg"].float()
    opt.step()
    opt.param_groups[0].update(state_dtype=None, amsgrad=True)
    with pytest.raises(ValueError, match="do not go with moments stored in bfloat16 or 8 bits"):
        opt.step()
    opt.param_groups[0].update(amsgrad=False)
    del opt.state[p]["exp_avg_sq_scale"]
    with pytest.raises(ValueError, match="'exp_avg_sq_scale' of a parameter of shape"):
        opt.step()
