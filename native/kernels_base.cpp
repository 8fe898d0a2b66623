// The kernels for any processor of the target architecture, and the choice among those that were compiled.
#define ISA base
#include "kernels.inl"

#include <cstdlib>
#include <cstring>

namespace adamomentum {

const Kernels &kernels() {
#ifdef ADAMOMENTUM_AVX2
  static const bool avx2 = [] {
    __builtin_cpu_init();
    const char *wanted = std::getenv("ADAMOMENTUM_ISA");  // for tests of the other table
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c") && !(wanted && !std::strcmp(wanted, "base"));
  }();
  if (avx2) return kernels_avx2;
#endif
  return kernels_base;
}

}  // namespace adamomentum
