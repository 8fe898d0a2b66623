#!/usr/bin/env bash
# All that needs a GPU, in ten minutes: the tests marked gpu, then the times of a step. Usage: tests/gpu.sh [FOLDER]
#
# For a machine with CUDA, torch, Triton and pytest, and no network: nothing is installed. The native code is built where
# there is CMake, nanobind and a compiler, and done without where not. One part that fails does not stop the next; what
# they print goes to files in FOLDER, build/gpu by default, and a summary comes last. PYTHON names the interpreter.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
out=${1:-build/gpu}
mkdir -p "$out" build/gpu
export PYTHONPATH="$PWD/src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
summary=()
failures=0

part() { # name, seconds at most, command
  local name=$1 limit=$2 start=$SECONDS code=0
  shift 2
  timeout --kill-after=10 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  ((code == 0)) || failures=$((failures + 1))
  summary+=("$name: $( ((code == 0)) && echo done || echo "FAILED with $code") in $((SECONDS - start)) s")
  return $code
}

native() {
  cmake -S . -B build/gpu/native -DCMAKE_BUILD_TYPE=Release -DPython_EXECUTABLE="$(command -v "$python")" &&
    cmake --build build/gpu/native --parallel && cp build/gpu/native/_native*.so src/adamomentum/
}
export -f native
export python

part versions 20 "$python" -c 'import sys, torch, triton
print(sys.version); print("torch", torch.__version__, "triton", triton.__version__)
print(torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"); sys.exit(not torch.cuda.is_available())'
part native 60 bash -c native
part doctor 20 "$python" -c 'from adamomentum.torch import fused_cpu, fused_cuda
print("native:", fused_cpu.why_not() or fused_cpu.details()); print("CUDA:", fused_cuda.why_not() or "usable")'

folders=(tests/torch tests/bench)
"$python" -c 'import adamomentum.study.testing' 2>/dev/null && folders+=(tests/study)
workers=()
"$python" -c 'import xdist' 2>/dev/null && workers=(-n 4 --dist worksteal)
part tests 300 "$python" -m pytest "${folders[@]}" -m gpu -q -p no:cacheprovider --continue-on-collection-errors \
  "${workers[@]}" --durations=10
part step-times 120 "$python" benchmarks/cuda_step_time.py
part host-times 30 "$python" benchmarks/cuda_host_time.py

echo "== what ran, with logs in $out"
printf '%s\n' "${summary[@]}"
cat "$out/versions.log" "$out/doctor.log"
echo "== tests"
grep -E '^(FAILED|ERROR)' "$out/tests.log" | cut -c1-200 | head -40
tail -n 1 "$out/tests.log"
echo "== times"
cat "$out/step-times.log" "$out/host-times.log" | grep -E '^\||^torch|Error' | cut -c1-200
exit $((failures > 0))
