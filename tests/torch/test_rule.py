"""The rule for one parameter, and what ties its numbers to the C++ kernels; test_fused_cuda.py ties the CUDA one."""

import numpy as np
import pytest
import torch
from fused_steps import rule_of
from lockstep import SWITCHES

from adamomentum import reference
from adamomentum.torch import fused_cpu
from adamomentum.torch.rule import Numbers, update_one
from adamomentum.torch.scalars import numbers_at


@pytest.mark.parametrize("switches", SWITCHES)
def test_update_one_is_algorithm_1(switches):
    options = {"lr": 0.01, **SWITCHES[switches]}
    rule = rule_of(**options)._replace(grad_factor=-1.0 if options.get("maximize") else 1.0)
    theta = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    m, v, v_max = (torch.zeros_like(theta) for _ in range(3))
    expected, state = theta.numpy().copy(), reference.State.zeros(theta.numpy())
    for t in range(1, 10):
        g = np.random.default_rng(t).standard_normal((2, 3))
        update_one(theta, torch.tensor(g), m, v, v_max, numbers_at(float(t), rule), rule)
        expected, state = reference.step(expected, g, state, **options)
        np.testing.assert_allclose(theta, expected, rtol=1e-9)


@pytest.mark.skipif(fused_cpu.why_not() is not None, reason=str(fused_cpu.why_not()))
def test_cpp_reads_every_number_by_its_name():
    read = []

    class Recorder:
        def __getattr__(self, name):
            read.append(name)
            return getattr(numbers_at(1.0, rule_of()), name)

    p = torch.ones(3)
    state = {"step": torch.tensor(0.0), "exp_avg": torch.zeros(3), "exp_avg_sq": torch.zeros(3)}
    batch = fused_cpu.new_batch()
    assert fused_cpu.add(batch, p, torch.ones(3), state, amsgrad=False)
    shared = {
        "grad_factor": 1.0,
        "l2": 0.0,
        "lookahead": False,
        "nesterov": False,
        "passes": 1.0,
        "momentum_floor": 0.0,
        "threads": 1,
    }
    batch.run([Recorder()], **shared)
    assert sorted(read) == sorted(Numbers._fields)
    assert state["step"] == 1
    assert (p != 1).all()
