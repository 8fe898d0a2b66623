"""Many parallel steps of the native kernels on threads of their own, compared with serial ones; for a sanitizer."""

import sys

import torch

from adamomentum import AdaMomentum
from adamomentum.torch import fused_cpu

native, reason = fused_cpu._load()
if native is None:
    sys.exit(reason)
native.use_torch_threads(0)
native.serial_below(0)
rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 40
for state_dtype in (None, torch.bfloat16, "8bit"):
    runs = []
    for threads in (1, 4):
        fused_cpu.torch.get_num_threads = lambda threads=threads: threads
        generator = torch.Generator().manual_seed(0)
        params = [torch.zeros(1 + 9973 * i) for i in range(30)]
        opt = AdaMomentum(params, fused=True, state_dtype=state_dtype)
        norms = []
        for _ in range(rounds):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            norms.append(opt.clip_grad_norm_(1.0).item())
            opt.step()
        runs.append((params, norms))
    (one, norms), (four, others) = runs
    assert norms == others
    assert all(torch.equal(p, q) for p, q in zip(one, four, strict=True))
print(f"{3 * rounds} steps on 4 threads equal those on 1 ({native.thread_source()} threads)")
