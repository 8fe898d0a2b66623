"""The CUDA kernel compiled without a GPU: what its variants take of registers, memory and instructions.

    python tests/compiled_cuda.py [--capability 90]

prints it for the variants that users run most, as a table: a program's elements are 8 a thread, and the instructions
are those of the machine code, rarely run ones included, over 8.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget

from adamomentum.torch import fused_cuda_kernel as kernel
from adamomentum.torch.rounding import ROUNDINGS

BIN = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Registers of a multiprocessor, and how many of a thread's are counted together, as of capability 7.0 and later.
REGISTERS, REGISTER_STEP = 65536, 8
_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "8bit": "uint8"}


class Variant(NamedTuple):
    """Dtypes of parameters and moments, and the switches that code is made for."""

    param: str
    m: str
    v: str
    rounding: str = "nearest"
    amsgrad: bool = False
    l2: bool = False
    lookahead: bool = False
    nesterov: bool = False
    step: str | None = None
    found_inf: bool = False


# The defaults, what saves memory, and the form that goes with adjust_lr.
USUAL = (
    Variant("f32", "f32", "f32"),
    Variant("f32", "f32", "f32", lookahead=True),
    Variant("bf16", "bf16", "bf16"),
    Variant("bf16", "8bit", "8bit", "stochastic"),
    Variant("bf16", "f32", "8bit", "stochastic"),
)


class Resources(NamedTuple):
    """Of one thread: registers, bytes of memory of its own, accesses to them; and what all machine code has."""

    registers: int
    stack: int
    spills: int
    instructions: int

    @property
    def threads(self) -> int:
        """How many threads of a multiprocessor the registers allow, whole programs."""
        of_program = -(-self.registers // REGISTER_STEP) * REGISTER_STEP * 32 * kernel.WARPS
        return min(2048, REGISTERS // of_program * 32 * kernel.WARPS)


def compiled(variant: Variant, capability: int) -> Any:
    """Compile a variant, as a launch does."""
    tl = kernel.tl
    p = variant
    param, m, v = (getattr(tl, _DTYPES[name]) for name in p[:3])
    constants = {"PARAM": param, "M_STATE": m, "V_STATE": v, "AMSGRAD": p.amsgrad, "HAS_L2": p.l2}
    constants |= {"LOOKAHEAD": p.lookahead, "NESTEROV": p.nesterov, "ROUNDING": ROUNDINGS.index(p.rounding)}
    constants |= {"STEP": getattr(tl, p.step) if p.step else None, "CHUNK": kernel.CHUNK}
    arguments = {"table": "*i64", "owners": "*i32", "numbers": "*fp32", "grad_factor": "*fp32"}
    arguments |= {"l2": "fp32", "passes": "fp32", "momentum_floor": "fp32", "found_inf": "*fp32"}
    signature = {**arguments, **dict.fromkeys(constants, "constexpr")}
    if not p.found_inf:
        signature["found_inf"], constants["found_inf"] = "constexpr", None
    return triton.compile(
        triton.compiler.ASTSource(kernel.update_chunk, signature, constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": kernel.WARPS, "enable_fp_fusion": False},
    )


def resources(variant: Variant, capability: int) -> Resources:
    """Compile a variant and read its machine code."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(compiled(variant, capability).asm["cubin"])

        def dump(*command: str) -> str:
            return subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout

        usage = dump(str(BIN / "cuobjdump"), "-res-usage")
        code = dump(str(BIN / "nvdisasm"), "-c")
    registers, stack = (int(re.search(rf"{name}:(\d+)", usage)[1]) for name in ("REG", "STACK"))
    operations = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", code, re.MULTILINE)
    spills = sum(operation.split(".")[0] in ("LDL", "STL") for operation in operations)
    return Resources(registers, stack, spills, sum(operation not in ("NOP", "BRA") for operation in operations))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, default=90)
    capability = parser.parse_args().capability
    each = kernel.CHUNK // (32 * kernel.WARPS)
    print("| parameters, moments | registers | stack | spills | threads a multiprocessor | instructions an element |")
    print("|---|---|---|---|---|---|")
    for variant in USUAL:
        r = resources(variant, capability)
        name = f"{variant.param}, {variant.m} and {variant.v}, {variant.rounding}{', look-ahead' * variant.lookahead}"
        print(f"| {name} | {r.registers} | {r.stack} | {r.spills} | {r.threads} | {r.instructions / each:.0f} |")


if __name__ == "__main__":
    main()
