// The contract of the kernels: what one call updates, and the table of kernels of one instruction set.
#pragma once

#include <cstdint>

namespace adamomentum {

enum Param : uint8_t { kFloat32, kFloat64, kFloat16, kBFloat16, kParams };
// Moments: kCodes are bytes with an exponent a block, as adamomentum/torch/precision.py specifies them.
enum State : uint8_t { kState32, kState64, kStateBF16, kCodes };
// How the parameter's two moments are stored: any with any, but float64 with itself alone.
struct States {
  State m, v;
};

// How a parameter of half precision is rounded, as adamomentum/torch/rounding.py specifies it; wider ones are kNearest.
enum Rounding : uint8_t { kNearest, kStochastic, kKahan, kMaster, kRoundings };

constexpr int64_t kBlock = 256;

// The numbers of a step: the fields of Numbers in adamomentum/torch/rule.py, which module.cpp reads by these names, then
// what is the same for all parameters of a group.
struct Numbers {
  double m_weight;  // 1 - beta1
  double beta2;
  double v_weight;        // of m^2 or n^2
  double eps_sum;         // added to v under the root
  double shrink;          // decoupled decay
  double factor;          // of m or n over sqrt(v + eps_sum): negative
  bool adapt;             // false: no denominator
  double grad_factor;     // sign, clipping and loss scale
  double l2;              // coupled decay, 0 for none
  double passes;          // this times the gradient stands for the whole step's in the look-ahead momentum n
  double momentum_floor;  // the share of |m| that |n| counts as at least in v
  bool lookahead;         // v averages n^2, not m^2
  bool nesterov;          // the parameter moves by n, not by m
  uint32_t step;          // the step count t, for the random bits of rounding
};

// Consecutive elements of one parameter, in the order of memory.
struct Span {
  void *p;
  const void *g;
  void *m;
  void *v;
  void *v_max;       // null without amsgrad
  uint8_t *m_scale;  // exponents of the blocks, for kCodes, else null; the first of them begins with the span
  uint8_t *v_scale;
  void *kept;  // what kKahan and kMaster keep of the parameter, in its type and in float32; else null
  int64_t n;
  uint32_t position;  // of the first element in the whole parameter
};

struct Kernels {
  const char *isa;
  void (*update)(Param, States, Rounding, const Span &, const Numbers &);  // what is_supported() says yes to
  // Adds weight times the gradient to the first moment: the gradient number `pass` of a step that has more of them.
  void (*fold)(Param, State m, const Span &, double weight, uint32_t step, uint32_t pass);
  double (*square_sum[kParams])(const void *g, int64_t n);
};

extern const Kernels kernels_base;
// What of these was compiled: add_kernels in CMakeLists.txt.
#ifdef ADAMOMENTUM_AVX2
extern const Kernels kernels_avx2;
#endif
#ifdef ADAMOMENTUM_AVX512
extern const Kernels kernels_avx512;
#endif

// Of their own in each file that includes this, as nothing may be shared between instruction sets.
static constexpr int64_t size_of(Param p) { return p == kFloat64 ? 8 : p == kFloat32 ? 4 : 2; }
static constexpr int64_t size_of(State s) { return s == kState64 ? 8 : s == kState32 ? 4 : s == kStateBF16 ? 2 : 1; }

// float64 goes with float64 alone, and wider parameters than half precision are not rounded.
static constexpr bool is_supported(Param p, States s, Rounding r) {
  const bool half = p == kFloat16 || p == kBFloat16, wide = p == kFloat64;
  return wide == (s.m == kState64) && wide == (s.v == kState64) && (half || r == kNearest) &&
         !(p == kFloat16 && r == kStochastic);
}

// The kernels for this processor.
const Kernels &kernels();

}  // namespace adamomentum
