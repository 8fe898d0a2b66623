#!/usr/bin/env bash
# Builds the native kernels with a sanitizer and runs their tests on them: tests/sanitize.sh address|thread
set -euo pipefail
cd "$(dirname "$0")/.."
kind=${1:?address or thread}
venv=${VENV:-.venv}
out=build/sanitize-$kind
rm -rf "$out"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$out" \
  -C "cmake.define.ADAMOMENTUM_SANITIZE=$kind" -C "build-dir=build/cmake-$kind" .
# The interpreter itself, with the packages of the environment but without its link to the ordinary build.
python=$("$venv/bin/python" -c 'import sys; print(sys._base_executable)')
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
export PYTHONPATH="$PWD/$out:$site" PYTHONDONTWRITEBYTECODE=1
case $kind in
  address)
    export LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libstdc++.so.6)"
    export ASAN_OPTIONS=detect_leaks=0:halt_on_error=1
    "$python" -m pytest -q -p no:cacheprovider tests/torch/test_fused_cpu.py tests/torch/test_precision.py \
      -k "not fork and not compiled and not instruction_sets"
    ;;
  thread)
    # Torch's own pool is not instrumented, so its barriers would be taken for races: threads of the moment instead.
    export LD_PRELOAD="$(gcc -print-file-name=libtsan.so)" TSAN_OPTIONS=halt_on_error=1:report_signal_unsafe=0
    "$python" tests/stress_threads.py
    ;;
esac
