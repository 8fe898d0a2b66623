from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from adamomentum.bench import measure as module
from adamomentum.bench.machine import describe, versions
from adamomentum.bench.measure import Settings, measure
from adamomentum.bench.peers import CLIP, REFERENCE, STEP, Contestant, Unavailable, _named, contestants
from adamomentum.bench.workloads import choose

SETTINGS = Settings(torch.device("cpu"), threads=(1,), rounds=2, seconds=0.0)


def broken(message: str, kind: type[BaseException] = RuntimeError):
    def make(params):
        raise kind(message)

    return make


def half_broken(params):
    """An optimizer that is made but cannot step."""

    class NoStep(torch.optim.SGD):
        def step(self, closure=None):
            raise RuntimeError("kernel image\nis missing")

    return NoStep(params)


def test_the_reference_comes_first() -> None:
    for group in ("large", "small", "clip"):
        assert contestants(group)[0].name == REFERENCE
    for table in (STEP, CLIP):
        assert len({c.name for c in table}) == len(table)


@pytest.mark.parametrize(
    ("contestant", "reason"),
    [
        (Contestant("x", "not-there", _named("not_there_either", "AdamW")), "not installed"),
        (Contestant("x", "torch", _named("not_there_either", "AdamW")), "No module named 'not_there_either'"),
        (Contestant("x", "peer", broken("no AVX\nlong story")), "failed: no AVX"),
        (Contestant("x", "peer", broken("")), "failed: RuntimeError"),
        (Contestant("x", "peer", broken("cannot build", SystemExit)), "failed: cannot build"),
        (Contestant("x", "adamomentum", broken("no kernel")), "not available: no kernel"),
        (Contestant("x", "torch", broken("unused"), only_on="cuda"), "not for cpu"),
    ],
)
def test_why_one_does_not_take_part(contestant, reason) -> None:
    with pytest.raises(Unavailable) as error:
        contestant.create([torch.nn.Parameter(torch.zeros(2))])
    assert str(error.value) == reason


def test_one_that_fails_does_not_stop_the_others(monkeypatch) -> None:
    table = (
        STEP[0],
        Contestant("absent", "not-there", _named("not_there", "AdamW")),
        Contestant("stuck", "peer", half_broken),
        replace(STEP[1], name="fine"),
    )
    monkeypatch.setattr(module, "contestants", lambda group: table)
    [workload] = choose(["100x64"], quick=True)
    result = measure(workload, replace(SETTINGS, allocations=3))
    assert result.missing == {"absent": "not installed", "stuck": "failed: kernel image"}
    assert list(result.times[1]) == list(result.state) == [REFERENCE, "fine"]
    assert len(result.times[1]["fine"].ratios) == 3 * 2
    assert result.times[1][REFERENCE].ratios == [1.0] * 6


def test_without_the_reference_there_is_nothing_to_compare(monkeypatch) -> None:
    monkeypatch.setattr(module, "contestants", lambda group: (Contestant(REFERENCE, "torch", half_broken),))
    [workload] = choose(["100x64"], quick=True)
    with pytest.raises(Unavailable, match="failed: kernel image"):
        measure(workload, SETTINGS)


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    [workload] = choose(["100x64"], quick=True)
    seen = []
    measure(workload, replace(SETTINGS, threads=(1, 2)), seen.append)
    assert torch.get_num_threads() == before
    assert seen == ["100x64, 1 thread: 2 rounds", "100x64, 2 threads: 2 rounds"]


@pytest.mark.parametrize("contestant", CLIP, ids=lambda c: c.name)
def test_each_step_really_clips(contestant, monkeypatch) -> None:
    monkeypatch.setattr(module, "contestants", lambda group: (contestant,))
    norms = []
    clip = module.clip_grad_norm_
    monkeypatch.setattr(module, "clip_grad_norm_", lambda params, m: norms.append((clip(params, m).item(), m)))
    [workload] = choose(["clip-100x512"], quick=True)
    try:
        measure(workload, SETTINGS)
    except Unavailable as error:
        pytest.skip(str(error))
    # The profiled step is the only one whose gradients are not restored before.
    assert contestant.clip == "own" or len([n for n, m in norms if n > 1.9 * m]) >= len(norms) - 1 > 3


def test_machine_and_versions() -> None:
    assert "cores" in describe(torch.device("cpu"))
    installed = versions()
    assert installed["torch"] == torch.__version__
    assert list(installed)[:2] == ["Python", "adamomentum"]
