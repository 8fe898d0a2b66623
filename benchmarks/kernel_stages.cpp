// What a step of the native CPU kernels is made of: each stage alone on one block, in the nearest cache, in nanoseconds
// an element; and the memory's rate, which is waited for where that is longer. From the repository:
//
//   flags="-std=c++17 -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off -falign-loops=64 -Inative"
//   g++ $flags -DISA=avx2 -mavx2 benchmarks/kernel_stages.cpp -o stages && ./stages
//   wide="-DISA=avx512 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512"
//   g++ $flags $wide benchmarks/kernel_stages.cpp -o stages && ./stages
//   objdump -d --no-show-raw-insn -C stages   # the instructions of each
#include "kernels.inl"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <vector>

#include <immintrin.h>

using namespace adamomentum;
using namespace adamomentum::ISA;

template <class F> double least_seconds(int times, F run) {
  double least = 1e9;
  for (int repeat = 0; repeat < 40; ++repeat) {
    const auto before = std::chrono::steady_clock::now();
    for (int k = 0; k < times; ++k) {
      run(static_cast<uint32_t>(k));
      asm volatile("" ::: "memory");
    }
    least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - before).count());
  }
  return least / times;
}

template <class F> void stage(const char *name, F run) {
  std::printf("%-64s %.3f\n", name, least_seconds(400, run) / kBlock * 1e9);
}

void add_to_each(float *RESTRICT p, const float *RESTRICT g, float *RESTRICT m, float *RESTRICT v, int64_t n) {
  for (int64_t i = 0; i < n; ++i) p[i] += g[i], m[i] += g[i], v[i] += g[i];
}

int main() {
  _mm_setcsr(_mm_getcsr() | 0x8040);  // subnormal numbers are zero, as while a kernel runs
  alignas(64) static float theta[kBlock], grad[kBlock], m[kBlock], v[kBlock], master[kBlock];
  alignas(64) static uint16_t p16[kBlock], g16[kBlock], m16[kBlock], v16[kBlock], lost[kBlock];
  alignas(64) static uint8_t m8[kBlock], v8[kBlock];
  static uint8_t m_scale, v_scale;
  for (int i = 0; i < kBlock; ++i) {
    theta[i] = static_cast<float>(i * 37 % 256 - 128) / 64, grad[i] = static_cast<float>(i * 91 % 256 - 128) / 256;
    m[i] = grad[i] / 16, v[i] = m[i] * m[i] + 1e-9f, master[i] = theta[i];
    p16[i] = BF16::store(theta[i]), g16[i] = BF16::store(grad[i]);
    m16[i] = BF16::store(m[i]), v16[i] = BF16::store(v[i]);
  }
  Span span{}, halves{}, with_master{};
  span.p = p16, span.g = g16, span.m = m8, span.v = v8, span.kept = lost, span.n = kBlock;
  span.m_scale = &m_scale, span.v_scale = &v_scale;
  halves = span, halves.m = m16, halves.v = v16;
  with_master = span, with_master.kept = master;
  const Block b{span, 0, kBlock}, b16{halves, 0, kBlock}, b_master{with_master, 0, kBlock};
  Numbers n{};
  n.m_weight = .1, n.beta2 = .999, n.v_weight = .001, n.eps_sum = 1e-8, n.shrink = 1, n.factor = -1e-6;
  n.adapt = true, n.grad_factor = 1, n.passes = 1;
  const Constants<float> c = constants_of<float>(n);
  const Operands<float> wide{p16, grad, m16, v16, theta, m, v, nullptr}, half{p16, g16, m16, v16, theta, m, v, nullptr};
  Largest largest{};

  std::printf("%-64s ns\n", NAME(ISA));
  stage("update, all in float32", [&](uint32_t) { update<kAlgorithm1, F32, F32, F32, false>(wide, kBlock, c); });
  stage("update, and the largest moments",
        [&](uint32_t) { largest = update<kAlgorithm1, F32, F32, F32, true>(wide, kBlock, c); });
  stage("update, moments read in bfloat16",
        [&](uint32_t) { update<kAlgorithm1, F32, F32, BF16, false>(wide, kBlock, c); });
  stage("update, parameter and gradient in bfloat16, the largest moments",
        [&](uint32_t) { largest = update<kAlgorithm1, BF16, BF16, F32, true>(half, kBlock, c); });
  stage("first moment to codes", [&](uint32_t k) { write_m_codes(b, k, m, largest.m); });
  stage("second moment to codes", [&](uint32_t k) { write_v_codes(b, k, v, largest.v); });
  stage("first moment from codes", [&](uint32_t) { read_m_codes(b, m); });
  stage("second moment from codes", [&](uint32_t) { read_v_codes(b, v); });
  stage("a moment to bfloat16", [&](uint32_t k) { write_m_bf16(b16, k, m, 0); });
  stage("parameter to bfloat16, stochastic", [&](uint32_t k) { write_stochastic(b, k, theta); });
  stage("parameter from bfloat16, kahan", [&](uint32_t) { read_kahan<BF16>(b, theta); });
  stage("parameter to bfloat16, kahan", [&](uint32_t k) { write_kahan<BF16>(b, k, theta); });
  stage("parameter from bfloat16, master", [&](uint32_t) { read_master<BF16>(b_master, theta); });
  stage("parameter to bfloat16, master", [&](uint32_t k) { write_master<BF16>(b_master, k, theta); });

  constexpr int64_t kMany = 1 << 23;
  std::vector<float> p(kMany, 1), g(kMany, 1), first(kMany, 1), second(kMany, 1);
  const double seconds =
      least_seconds(1, [&](uint32_t) { add_to_each(p.data(), g.data(), first.data(), second.data(), kMany); });
  std::printf("%-64s %.3f, %.0f GB/s\n", "28 bytes an element of memory, as a float32 step reads and writes",
              seconds / kMany * 1e9, 28 * kMany / seconds / 1e9);
}
