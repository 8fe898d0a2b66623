// The kernels for any processor of the target architecture, and the choice among those that were compiled.
#define ISA base
#include "kernels.inl"

#include <cstdlib>
#include <cstring>

namespace adamomentum {

const Kernels &kernels() {
#ifdef ADAMOMENTUM_AVX2
  static const Kernels &chosen = []() -> const Kernels & {
    __builtin_cpu_init();
    const char *most = std::getenv("ADAMOMENTUM_ISA");  // for tests of the other tables
    if ((most && !std::strcmp(most, "base")) || !__builtin_cpu_supports("avx2")) return kernels_base;
#ifdef ADAMOMENTUM_AVX512
    const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (avx512 && !(most && !std::strcmp(most, "avx2"))) return kernels_avx512;
#endif
    return kernels_avx2;
  }();
  return chosen;
#else
  return kernels_base;
#endif
}

}  // namespace adamomentum
