// The update, and the sum of squares, for one instruction set.
//
// Included once for each, with ISA the name of a namespace and of the table: nothing here may be shared between the
// copies (the linker would keep the newest instruction set's for everybody), so helpers are inlined by force and no
// standard templates are used. Loops are plain, for the compiler to vectorize; each does the same operations in the
// same order whatever the vector width, so results do not depend on it.

#include <cmath>

#include "kernels.h"

// Compilers that know these attributes and builtins: GCC and Clang. Others build the library without its kernels.
#define INLINE static inline __attribute__((always_inline))
#define RESTRICT __restrict__

namespace adamomentum {
namespace ISA {

INLINE uint32_t bits_of(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

INLINE float float_of(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

INLINE uint32_t select(bool yes, uint32_t a, uint32_t b) { return yes ? a : b; }

constexpr uint32_t kSign = 0x80000000u, kInfinity = 0x7F800000u;
constexpr uint32_t kByPosition = 0xD1B54A33u, kByStepM = 0xABC98389u, kByStepV = 0x8CB92BA7u;

// ---- how numbers are stored ----

struct F32 {
  using Stored = float;
  using Number = float;
  INLINE float load(float x) { return x; }
  INLINE float store(float x) { return x; }
};

struct F64 {
  using Stored = double;
  using Number = double;
  INLINE double load(double x) { return x; }
  INLINE double store(double x) { return x; }
};

struct BF16 {
  using Stored = uint16_t;
  using Number = float;
  INLINE float load(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }
  INLINE uint16_t store(float x) {  // to nearest, ties to even
    uint32_t u = bits_of(x);
    uint32_t rounded = (u + 0x7FFFu + ((u >> 16) & 1u)) >> 16;
    return static_cast<uint16_t>(select((u & ~kSign) > kInfinity, (u >> 16) | 0x40u, rounded));
  }
  INLINE uint16_t store_randomly(float x, uint32_t random) {  // random: 32 bits
    uint32_t u = bits_of(x);
    // An infinity stays one, and a NaN: those made by arithmetic have their mark in the upper half.
    return static_cast<uint16_t>((u + select((u & kInfinity) == kInfinity, 0, random >> 16)) >> 16);
  }
};

// No arithmetic on subnormal float32 numbers, which are flushed to zero while a kernel runs.
struct F16 {
  using Stored = uint16_t;
  using Number = float;
  INLINE float load(uint16_t h) {
    uint32_t magnitude = static_cast<uint32_t>(h & 0x7FFFu) << 13;
    uint32_t normal = magnitude + (112u << 23);
    uint32_t subnormal = bits_of(float_of(magnitude + (113u << 23)) - float_of(113u << 23));
    uint32_t special = magnitude + (224u << 23);
    uint32_t u = select(magnitude < (1u << 23), subnormal, select(magnitude >= (31u << 23), special, normal));
    return float_of(u | (static_cast<uint32_t>(h & 0x8000u) << 16));
  }
  INLINE uint16_t store(float x) {  // to nearest, ties to even
    uint32_t u = bits_of(x), magnitude = u & ~kSign;
    uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    uint32_t special = select(magnitude > kInfinity, 0x7E00u, 0x7C00u);
    uint32_t h = select(magnitude < (113u << 23), subnormal, select(magnitude >= (143u << 23), special, normal));
    return static_cast<uint16_t>(h | ((u >> 16) & 0x8000u));
  }
};

template <class A, class B> struct Wider {
  using Type = float;
};
template <> struct Wider<F64, F64> {
  using Type = double;
};

// ---- the update ----

// What a strip will need is asked for this many elements ahead. The processor's own prefetching follows four streams at
// once less well, and stops at each page: a tenth of the time on arrays larger than the caches.
constexpr int64_t kStrip = 64, kAhead = 512;

template <int64_t kLength = kStrip, class X> INLINE void prefetch(const X *x, int64_t begin, int64_t n) {
  if (begin + kAhead + kLength > n) return;
  const char *line = reinterpret_cast<const char *>(x + begin + kAhead);
  for (int64_t k = 0; k < static_cast<int64_t>(kLength * sizeof(X)); k += 64) __builtin_prefetch(line + k);
}

// The numbers of a step as the arithmetic takes them.
template <class T> struct Constants {
  T m_weight, beta2, v_weight, eps_sum, shrink, factor, grad_factor, l2, passes;
};

template <class T> INLINE Constants<T> constants_of(const Numbers &n) {
  Constants<T> c;
  c.m_weight = static_cast<T>(n.m_weight);
  c.beta2 = static_cast<T>(n.beta2);
  c.v_weight = static_cast<T>(n.v_weight);
  c.eps_sum = static_cast<T>(n.eps_sum);
  c.shrink = static_cast<T>(n.shrink);
  c.factor = static_cast<T>(n.factor);
  c.grad_factor = static_cast<T>(n.grad_factor);
  c.l2 = static_cast<T>(n.l2);
  c.passes = static_cast<T>(n.passes);
  return c;
}

// What is left of the update once it is known what the options are: nothing to decide in the first two, all of Algorithm
// 1 and of the drop-in for AdamW; what is rarer shares the third.
enum Form { kAlgorithm1, kLookahead, kGeneral };

// What the general form decides for each element.
struct Choices {
  bool l2, adapt, lookahead, nesterov;
};

INLINE Choices choices_of(const Numbers &n) { return {n.l2 != 0, n.adapt, n.lookahead, n.nesterov}; }

// One element: m and v become the new moments; returns the new parameter.
template <Form kForm, class T>
INLINE T new_theta(T theta, T g, T &m, T &v, T *v_max, const Constants<T> &c, const Choices &choices) {
  g = g * c.grad_factor;
  T ahead = kForm == kAlgorithm1 ? g : g * c.passes;
  if (kForm == kGeneral && choices.l2) {
    g = g + c.l2 * theta;
    ahead = ahead + c.l2 * theta;
  }
  m = m + c.m_weight * (g - m);
  const T n = kForm == kAlgorithm1 ? m : m + c.m_weight * (ahead - m);
  const T averaged = kForm == kLookahead || (kForm == kGeneral && choices.lookahead) ? n : m;
  v = v * c.beta2 + c.v_weight * averaged * averaged;
  T d = v + c.eps_sum;
  if (kForm == kGeneral && v_max) {
    d = *v_max > d ? *v_max : d;  // a NaN in d stays, as with torch.maximum
    *v_max = d;
  }
  T root = sizeof(T) == 4 ? static_cast<T>(sqrtf(static_cast<float>(d))) : static_cast<T>(sqrt(d));
  if (kForm == kGeneral && !choices.adapt) root = 1;
  return theta * c.shrink + c.factor * (kForm == kGeneral && choices.nesterov ? n : m) / root;
}

// Moments in float32 or float64.
template <class P, class S, Form kForm> INLINE void update_plain(const Span &s, const Numbers &numbers) {
  using T = typename Wider<P, S>::Type;
  const Constants<T> c = constants_of<T>(numbers);
  typename P::Stored *RESTRICT p = static_cast<typename P::Stored *>(s.p);
  const typename P::Stored *RESTRICT g = static_cast<const typename P::Stored *>(s.g);
  T *RESTRICT m = static_cast<T *>(s.m);
  T *RESTRICT v = static_cast<T *>(s.v);
  T *RESTRICT v_max = static_cast<T *>(s.v_max);
  const Choices choices = choices_of(numbers);
  if (kForm == kGeneral && v_max) {
    for (int64_t i = 0; i < s.n; ++i) {
      T mi = m[i], vi = v[i], largest = v_max[i];
      p[i] = P::store(new_theta<kForm, T>(P::load(p[i]), P::load(g[i]), mi, vi, &largest, c, choices));
      m[i] = mi, v[i] = vi, v_max[i] = largest;
    }
    return;
  }
  for (int64_t begin = 0; begin < s.n; begin += kStrip) {
    const int64_t end = s.n - begin < kStrip ? s.n : begin + kStrip;
    prefetch(p, begin, s.n), prefetch(g, begin, s.n), prefetch(m, begin, s.n), prefetch(v, begin, s.n);
    for (int64_t i = begin; i < end; ++i) {
      T mi = m[i], vi = v[i];
      p[i] = P::store(new_theta<kForm, T>(P::load(p[i]), P::load(g[i]), mi, vi, nullptr, c, choices));
      m[i] = mi, v[i] = vi;
    }
  }
}

// Moments in bfloat16, rounded stochastically.
template <class P, Form kForm> INLINE void update_bf16(const Span &s, const Numbers &numbers) {
  const Constants<float> c = constants_of<float>(numbers);
  typename P::Stored *RESTRICT p = static_cast<typename P::Stored *>(s.p);
  const typename P::Stored *RESTRICT g = static_cast<const typename P::Stored *>(s.g);
  uint16_t *RESTRICT m = static_cast<uint16_t *>(s.m);
  uint16_t *RESTRICT v = static_cast<uint16_t *>(s.v);
  const Choices choices = choices_of(numbers);
  const uint32_t start = s.position * kByPosition, in_m = numbers.step * kByStepM, in_v = numbers.step * kByStepV;
  for (int64_t begin = 0; begin < s.n; begin += kStrip) {
    const int64_t end = s.n - begin < kStrip ? s.n : begin + kStrip;
    prefetch(p, begin, s.n), prefetch(g, begin, s.n), prefetch(m, begin, s.n), prefetch(v, begin, s.n);
    for (int64_t i = begin; i < end; ++i) {
      float mi = BF16::load(m[i]), vi = BF16::load(v[i]);
      p[i] = P::store(new_theta<kForm, float>(P::load(p[i]), P::load(g[i]), mi, vi, nullptr, c, choices));
      uint32_t random = start + static_cast<uint32_t>(i) * kByPosition;
      m[i] = BF16::store_randomly(mi, random + in_m);
      v[i] = BF16::store_randomly(vi, random + in_v);
    }
  }
}

// Moments in 8-bit codes: see adamomentum/torch/precision.py for the format.
template <class P, Form kForm> INLINE void update_codes(const Span &s, const Numbers &numbers) {
  const Choices choices = choices_of(numbers);
  const uint32_t in_m = numbers.step * kByStepM, in_v = numbers.step * kByStepV;
  float mb[kBlock], vb[kBlock];
  for (int64_t begin = 0, block = 0; begin < s.n; begin += kBlock, ++block) {
    Constants<float> c = constants_of<float>(numbers);
    const int n = static_cast<int>(s.n - begin < kBlock ? s.n - begin : kBlock);
    prefetch<kBlock>(static_cast<const typename P::Stored *>(s.p), begin, s.n);
    prefetch<kBlock>(static_cast<const typename P::Stored *>(s.g), begin, s.n);
    prefetch<kBlock>(static_cast<const uint8_t *>(s.m), begin, s.n);
    prefetch<kBlock>(static_cast<const uint8_t *>(s.v), begin, s.n);
    typename P::Stored *RESTRICT p = static_cast<typename P::Stored *>(s.p) + begin;
    const typename P::Stored *RESTRICT g = static_cast<const typename P::Stored *>(s.g) + begin;
    uint8_t *RESTRICT m = static_cast<uint8_t *>(s.m) + begin;
    uint8_t *RESTRICT v = static_cast<uint8_t *>(s.v) + begin;

    uint32_t low_m = (s.m_scale[block] - 14u) << 23, low_v = (s.v_scale[block] - 31u) << 23;
    const float base = float_of(low_m);
    if (s.m_scale[block] == 255 || s.v_scale[block] == 255)
      c.grad_factor = NAN;  // spoiled: all that follows becomes NaN
    int32_t largest_m = 0, largest_v = 0;
    for (int i = 0; i < n; ++i) {
      uint32_t code = m[i], steps = (code & 0x7Fu) << 20;
      uint32_t linear = bits_of(float_of(low_m + steps) - base), above = low_m + steps - (1u << 23);
      float mi = float_of(select(steps < (1u << 23), linear, above) | ((code & 0x80u) << 24));
      float vi = float_of(low_v + (static_cast<uint32_t>(v[i]) << 20));
      p[i] = P::store(new_theta<kForm, float>(P::load(p[i]), P::load(g[i]), mi, vi, nullptr, c, choices));
      mb[i] = mi, vb[i] = vi;
      int32_t size_m = static_cast<int32_t>(bits_of(mi) & ~kSign), size_v = static_cast<int32_t>(bits_of(vi) & ~kSign);
      largest_m = size_m > largest_m ? size_m : largest_m;
      largest_v = size_v > largest_v ? size_v : largest_v;
    }

    // The exponents of the largest, so that rounding up stays within the codes.
    uint32_t exponent_m = (static_cast<uint32_t>(largest_m) + 0xFFFFFu) >> 23;
    uint32_t exponent_v = (static_cast<uint32_t>(largest_v) + 0xFFFFFu) >> 23;
    exponent_m = exponent_m < 16 ? 16 : exponent_m > 255 ? 255 : exponent_m;
    exponent_v = exponent_v < 32 ? 32 : exponent_v > 255 ? 255 : exponent_v;
    s.m_scale[block] = static_cast<uint8_t>(exponent_m);
    s.v_scale[block] = static_cast<uint8_t>(exponent_v);
    low_m = (exponent_m - 14u) << 23, low_v = (exponent_v - 31u) << 23;
    const float new_base = float_of(low_m);
    const uint32_t start = (s.position + static_cast<uint32_t>(begin)) * kByPosition;
    for (int i = 0; i < n; ++i) {
      uint32_t random = start + static_cast<uint32_t>(i) * kByPosition;
      uint32_t u = bits_of(mb[i]), magnitude = u & ~kSign;
      uint32_t linear = bits_of(float_of(magnitude) + new_base) - low_m, above = magnitude - low_m + (1u << 23);
      // Both are below 2^31, where a signed comparison is one instruction.
      uint32_t steps = select(static_cast<int32_t>(magnitude) < static_cast<int32_t>(low_m), linear, above);
      m[i] = static_cast<uint8_t>(((steps + ((random + in_m) >> 12)) >> 20) | ((u >> 24) & 0x80u));
      int32_t steps_v = static_cast<int32_t>((bits_of(vb[i]) & ~kSign) - low_v);
      steps_v = steps_v < 0 ? 0 : steps_v;
      v[i] = static_cast<uint8_t>((static_cast<uint32_t>(steps_v) + ((random + in_v) >> 12)) >> 20);
    }
  }
}

INLINE Form form_of(const Span &s, const Numbers &n) {
  if (s.v_max || n.l2 != 0 || !n.adapt || n.nesterov) return kGeneral;
  return n.lookahead ? kLookahead : kAlgorithm1;
}

template <class P, class S> void update(const Span &s, const Numbers &n) {
  const Form form = form_of(s, n);
  if (form == kAlgorithm1) update_plain<P, S, kAlgorithm1>(s, n);
  else if (form == kLookahead) update_plain<P, S, kLookahead>(s, n);
  else update_plain<P, S, kGeneral>(s, n);
}
template <class P> void update16(const Span &s, const Numbers &n) {
  const Form form = form_of(s, n);
  if (form == kAlgorithm1) update_bf16<P, kAlgorithm1>(s, n);
  else if (form == kLookahead) update_bf16<P, kLookahead>(s, n);
  else update_bf16<P, kGeneral>(s, n);
}
template <class P> void update8(const Span &s, const Numbers &n) {
  const Form form = form_of(s, n);
  if (form == kAlgorithm1) update_codes<P, kAlgorithm1>(s, n);
  else if (form == kLookahead) update_codes<P, kLookahead>(s, n);
  else update_codes<P, kGeneral>(s, n);
}

// ---- the sum of squares ----

template <class P> double square_sum(const void *data, int64_t n) {
  const typename P::Stored *RESTRICT g = static_cast<const typename P::Stored *>(data);
  constexpr int kLanes = 16;  // fixed, so that every vector width adds in the same order
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    prefetch<kLanes>(g, i, n);
    for (int k = 0; k < kLanes; ++k) {
      double x = static_cast<double>(P::load(g[i + k]));
      sums[k] += x * x;
    }
  }
  for (int k = 0; i < n; ++i, ++k) {
    double x = static_cast<double>(P::load(g[i]));
    sums[k] += x * x;
  }
  double total = 0;
  for (int k = 0; k < kLanes; ++k) total += sums[k];
  return total;
}

}  // namespace ISA

#define NAME_OF(x) #x
#define NAME(x) NAME_OF(x)
#define TABLE_OF(isa) kernels_##isa
#define TABLE(isa) TABLE_OF(isa)

extern const Kernels TABLE(ISA) = {
    NAME(ISA),
    {
        {ISA::update<ISA::F32, ISA::F32>, nullptr, ISA::update16<ISA::F32>, ISA::update8<ISA::F32>},
        {nullptr, ISA::update<ISA::F64, ISA::F64>, nullptr, nullptr},
        {ISA::update<ISA::F16, ISA::F32>, nullptr, ISA::update16<ISA::F16>, ISA::update8<ISA::F16>},
        {ISA::update<ISA::BF16, ISA::F32>, nullptr, ISA::update16<ISA::BF16>, ISA::update8<ISA::BF16>},
    },
    {ISA::square_sum<ISA::F32>, ISA::square_sum<ISA::F64>, ISA::square_sum<ISA::F16>, ISA::square_sum<ISA::BF16>},
};

}  // namespace adamomentum
