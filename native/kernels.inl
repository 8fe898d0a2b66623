// The update, and the sum of squares, for one instruction set.
//
// Included once for each, with ISA the name of a namespace and of the table: nothing here may be shared between the
// copies (the linker would keep the newest instruction set's for everybody), so helpers are inlined by force and no
// standard templates are used. Loops are plain, for the compiler to vectorize; each does the same operations in the
// same order whatever the vector width, so results do not depend on it. Six have their first elements done by hand with
// AVX2, in avx2.inl.

#include <cmath>

#include "kernels.h"

#ifdef __AVX2__
#include <immintrin.h>
#endif

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

// As select, with what is the same for all elements as a mask of the numbers' width: a bool would keep compilers from
// vectorizing a loop over narrower ones.
INLINE float choose(uint32_t mask, float a, float b) { return float_of((bits_of(a) & mask) | (bits_of(b) & ~mask)); }
INLINE double choose(uint64_t mask, double a, double b) {
  uint64_t x, y;
  __builtin_memcpy(&x, &a, 8);
  __builtin_memcpy(&y, &b, 8);
  x = (x & mask) | (y & ~mask);
  __builtin_memcpy(&a, &x, 8);
  return a;
}

constexpr uint32_t kSign = 0x80000000u, kInfinity = 0x7F800000u;
constexpr uint32_t kByPosition = 0xD1B54A33u, kByStepM = 0xABC98389u, kByStepV = 0x8CB92BA7u, kByStepP = 0x9E3779B9u;
constexpr uint32_t kByStepFold = 0x6A09E667u, kByPassFold = 0x9E3779B9u;

#include "avx2.inl"

// ---- how numbers are stored ----

// kWide: as the update computes with them, and updated where they are.
struct F32 {
  using Stored = float;
  static constexpr bool kWide = true;
  INLINE float load(float x) { return x; }
};

struct F64 {
  using Stored = double;
  static constexpr bool kWide = true;
  INLINE double load(double x) { return x; }
};

struct BF16 {
  using Stored = uint16_t;
  static constexpr bool kWide = false;
  INLINE float load(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }
  INLINE uint32_t rounded_bits(float x) {  // to nearest, ties to even
    uint32_t u = bits_of(x);
    return select(x != x, u | 0x400000u, u + 0x7FFFu + ((u >> 16) & 1u));
  }
  INLINE uint16_t store(float x) { return static_cast<uint16_t>(rounded_bits(x) >> 16); }
  INLINE float rounded(float x) { return float_of(rounded_bits(x) & 0xFFFF0000u); }
  INLINE uint16_t store_rounded(float x) { return static_cast<uint16_t>(bits_of(x) >> 16); }
  INLINE int split_first(const float *x, int n, uint16_t *p, uint16_t *rest) { return split_to_bf16(x, n, p, rest); }
  INLINE int recover_first(const uint16_t *p, const uint16_t *rest, int n, float *x) {
    return recover_bf16(p, rest, n, x);
  }
  // Whether x rounds to `number`: they are half a spacing apart at most, and less where that would go to an even one.
  INLINE bool rounds_to(float x, float number) {
    const uint32_t u = bits_of(number);
    const int32_t apart = static_cast<int32_t>(bits_of(x) - u);
    return (apart < 0 ? -apart : apart) < static_cast<int32_t>(0x8001u - ((u >> 16) & 1u));
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
  INLINE float rounded(float x) {
    const uint32_t u = bits_of(x), magnitude = u & ~kSign;
    const uint32_t normal = (magnitude + 0xFFFu + ((magnitude >> 13) & 1u)) & ~0x1FFFu;
    const uint32_t large = select(normal >= (143u << 23), kInfinity, normal);
    const uint32_t small = bits_of((float_of(magnitude) + 0.5f) - 0.5f);  // spaced as float32 numbers from 1/2 to 1
    const uint32_t number = select(magnitude < (113u << 23), small, large);
    return float_of(select(magnitude > kInfinity, magnitude, number) | (u & kSign));
  }
  INLINE uint16_t store_rounded(float x) { return store(x); }
  INLINE int split_first(const float *, int, uint16_t *, uint16_t *) { return 0; }
  INLINE int recover_first(const uint16_t *, const uint16_t *, int, float *) { return 0; }
  INLINE bool rounds_to(float x, float number) { return rounded(x) == number; }
};

// ---- the update, of a block of at most kBlock elements at a time ----
//
// What a block's numbers are stored in is widened into buffers that stay in the nearest cache, all of it is updated
// there, and narrowed back; float32 and float64 numbers are updated where they are. So each way of storing a parameter
// or a moment stands here once, whatever it is combined with.

// What of a span a stage works on: n elements from `begin` on, the first of which is `position` in the parameter.
struct Block {
  const Span &span;
  int64_t begin;
  int n;
  uint32_t position() const { return span.position + static_cast<uint32_t>(begin); }
  template <class X> X *at(void *start) const { return static_cast<X *>(start) + begin; }
  const void *bytes(const void *start, int64_t size) const { return static_cast<const char *>(start) + begin * size; }
  template <class X> const X *at(const void *start) const { return static_cast<const X *>(start) + begin; }
};

// The random bits of the element `i` of a block are random_at(b, start) + i * kByPosition, with `start` made of the step.
INLINE uint32_t random_at(const Block &b, uint32_t start) { return b.position() * kByPosition + start; }

using Read = void (*)(const Block &, float *);
using Write = void (*)(const Block &, uint32_t start, const float *);
using WriteMoment = void (*)(const Block &, uint32_t start, const float *, int32_t largest);  // as bits, for codes

template <class P> INLINE void widen(const typename P::Stored *RESTRICT stored, int n, float *RESTRICT x) {
  for (int i = 0; i < n; ++i) x[i] = P::load(stored[i]);
}

INLINE void round_by_chance(uint16_t *RESTRICT stored, int n, uint32_t random, const float *RESTRICT x) {
  int i = round_to_bf16_by_chance(x, n, random, stored);
  random += static_cast<uint32_t>(i) * kByPosition;
  for (; i < n; ++i, random += kByPosition) stored[i] = BF16::store_randomly(x[i], random);
}

template <class P> void read_grad(const Block &b, float *x) { widen<P>(b.at<typename P::Stored>(b.span.g), b.n, x); }

// Parameters: the float32 number that one stands for, with what rounding has kept of it; and how that is stored.

template <class P> void read_param(const Block &b, float *x) { widen<P>(b.at<typename P::Stored>(b.span.p), b.n, x); }

template <class P> void write_nearest(const Block &b, uint32_t, const float *RESTRICT x) {
  typename P::Stored *RESTRICT p = b.at<typename P::Stored>(b.span.p);
  for (int i = 0; i < b.n; ++i) p[i] = P::store(x[i]);
}

void write_stochastic(const Block &b, uint32_t start, const float *x) {
  round_by_chance(b.at<uint16_t>(b.span.p), b.n, random_at(b, start), x);
}

template <class P> void read_kahan(const Block &b, float *RESTRICT x) {
  const typename P::Stored *RESTRICT p = b.at<typename P::Stored>(b.span.p);
  const typename P::Stored *RESTRICT kept = b.at<typename P::Stored>(b.span.kept);
  for (int i = P::recover_first(p, kept, b.n, x); i < b.n; ++i) {
    const float theta = P::load(p[i]), lost = P::load(kept[i]), whole = theta + lost;
    const float inner = theta + lost * (1 - 0x1p-9f);
    const float other = P::rounds_to(inner, theta) ? inner : theta;
    x[i] = P::rounds_to(whole, theta) ? whole : other;
  }
}

template <class P> void write_kahan(const Block &b, uint32_t, const float *RESTRICT x) {
  typename P::Stored *RESTRICT p = b.at<typename P::Stored>(b.span.p);
  typename P::Stored *RESTRICT kept = b.at<typename P::Stored>(b.span.kept);
  for (int i = P::split_first(x, b.n, p, kept); i < b.n; ++i) {
    const float stored = P::rounded(x[i]);
    kept[i] = P::store(x[i] - stored);
    p[i] = P::store_rounded(stored);
  }
}

template <class P> void read_master(const Block &b, float *RESTRICT x) {
  const typename P::Stored *RESTRICT p = b.at<typename P::Stored>(b.span.p);
  const float *RESTRICT kept = b.at<float>(b.span.kept);
  for (int i = 0; i < b.n; ++i) {
    const float theta = P::load(p[i]);
    x[i] = P::rounds_to(kept[i], theta) ? kept[i] : theta;
  }
}

template <class P> void write_master(const Block &b, uint32_t, const float *RESTRICT x) {
  typename P::Stored *RESTRICT p = b.at<typename P::Stored>(b.span.p);
  float *RESTRICT kept = b.at<float>(b.span.kept);
  for (int i = 0; i < b.n; ++i) {
    kept[i] = x[i];
    p[i] = P::store(x[i]);
  }
}

// Moments in bfloat16, rounded stochastically.

void read_m_bf16(const Block &b, float *x) { widen<BF16>(b.at<uint16_t>(b.span.m), b.n, x); }
void read_v_bf16(const Block &b, float *x) { widen<BF16>(b.at<uint16_t>(b.span.v), b.n, x); }
void write_m_bf16(const Block &b, uint32_t start, const float *x, int32_t) {
  round_by_chance(b.at<uint16_t>(b.span.m), b.n, random_at(b, start), x);
}
void write_v_bf16(const Block &b, uint32_t start, const float *x, int32_t) {
  round_by_chance(b.at<uint16_t>(b.span.v), b.n, random_at(b, start), x);
}

// Moments in 8-bit codes: see adamomentum/torch/precision.py for the format.

constexpr uint32_t kSpoiled = 255;

void read_m_codes(const Block &b, float *RESTRICT x) {
  const uint8_t *RESTRICT codes = b.at<uint8_t>(b.span.m);
  const uint32_t exponent = b.span.m_scale[b.begin / kBlock], low = (exponent - 14u) << 23;
  const float base = float_of(low);
  for (int i = decode_m(codes, b.n, low, x); i < b.n; ++i) {
    const uint32_t code = codes[i];
    // In the lowest binade y - base, above it y / 2: the smaller of the two, on both sides.
    const float y = float_of(low + ((code & 0x7Fu) << 20)), linear = y - base, above = y * 0.5f;
    x[i] = float_of(bits_of(linear < above ? linear : above) | ((code & 0x80u) << 24));
  }
  if (exponent == kSpoiled)
    for (int i = 0; i < b.n; ++i) x[i] = NAN;
}

void read_v_codes(const Block &b, float *RESTRICT x) {
  const uint8_t *RESTRICT codes = b.at<uint8_t>(b.span.v);
  const uint32_t exponent = b.span.v_scale[b.begin / kBlock], low = (exponent - 31u) << 23;
  for (int i = 0; i < b.n; ++i) x[i] = float_of(low + (static_cast<uint32_t>(codes[i]) << 20));
  if (exponent == kSpoiled)
    for (int i = 0; i < b.n; ++i) x[i] = NAN;
}

// The larger magnitude, as bits.
INLINE int32_t larger(int32_t so_far, float x) {
  const int32_t magnitude = static_cast<int32_t>(bits_of(x) & ~kSign);
  return magnitude > so_far ? magnitude : so_far;
}

// The exponent of the largest, so that rounding up stays within the codes.
INLINE uint32_t exponent_of(int32_t largest, uint32_t least) {
  const uint32_t exponent = (static_cast<uint32_t>(largest) + 0xFFFFFu) >> 23;
  return exponent < least ? least : exponent > kSpoiled ? kSpoiled : exponent;
}

void write_m_codes(const Block &b, uint32_t start, const float *RESTRICT x, int32_t largest) {
  uint8_t *RESTRICT codes = b.at<uint8_t>(b.span.m);
  const int n = b.n;  // a byte that is written could be part of the block, to a compiler
  const uint32_t exponent = exponent_of(largest, 16), low = (exponent - 14u) << 23;
  b.span.m_scale[b.begin / kBlock] = static_cast<uint8_t>(exponent);
  const float base = float_of(low);
  uint32_t random = random_at(b, start);
  int i = encode_m(x, n, low, random, codes);
  random += static_cast<uint32_t>(i) * kByPosition;
  for (; i < n; ++i, random += kByPosition) {
    const uint32_t u = bits_of(x[i]), magnitude = u & ~kSign;
    // The larger of the two on both sides of the lowest binade's end. Both are below 2^31.
    const int32_t linear = static_cast<int32_t>(bits_of(float_of(magnitude) + base));
    const int32_t above = static_cast<int32_t>(magnitude + (1u << 23));
    const uint32_t steps = static_cast<uint32_t>(linear > above ? linear : above) - low;
    codes[i] = static_cast<uint8_t>((((steps + (random >> 12)) << 4) | (u & kSign)) >> 24);
  }
}

void write_v_codes(const Block &b, uint32_t start, const float *RESTRICT x, int32_t largest) {
  uint8_t *RESTRICT codes = b.at<uint8_t>(b.span.v);
  const int n = b.n;
  const uint32_t exponent = exponent_of(largest, 32), low = (exponent - 31u) << 23;
  b.span.v_scale[b.begin / kBlock] = static_cast<uint8_t>(exponent);
  uint32_t random = random_at(b, start);
  int i = encode_v(x, n, low, random, codes);
  random += static_cast<uint32_t>(i) * kByPosition;
  for (; i < n; ++i, random += kByPosition) {
    const int32_t magnitude = static_cast<int32_t>(bits_of(x[i]) & ~kSign), least = static_cast<int32_t>(low);
    const uint32_t steps = static_cast<uint32_t>(magnitude > least ? magnitude : least) - low;
    codes[i] = static_cast<uint8_t>((steps + (random >> 12)) >> 20);
  }
}

// How a parameter and its moments are read into buffers and written back; null where that is not needed.
struct Stages {
  Read param, grad, m, v;
  Write to_param;
  WriteMoment to_m, to_v;
};

template <class P> INLINE void add_half(Stages *stages, Rounding rounding) {
  stages->grad = read_grad<P>;
  stages->param = rounding == kKahan ? read_kahan<P> : rounding == kMaster ? read_master<P> : read_param<P>;
  stages->to_param = rounding == kKahan ? write_kahan<P> : rounding == kMaster ? write_master<P> : write_nearest<P>;
}

INLINE Stages stages_of(Param param, States states, Rounding rounding) {
  Stages stages{};
  if (param == kFloat16) add_half<F16>(&stages, rounding);
  if (param == kBFloat16) add_half<BF16>(&stages, rounding);
  if (rounding == kStochastic) stages.to_param = write_stochastic;
  if (states.m == kStateBF16) stages.m = read_m_bf16, stages.to_m = write_m_bf16;
  if (states.m == kCodes) stages.m = read_m_codes, stages.to_m = write_m_codes;
  if (states.v == kStateBF16) stages.v = read_v_bf16, stages.to_v = write_v_bf16;
  if (states.v == kCodes) stages.v = read_v_codes, stages.to_v = write_v_codes;
  return stages;
}

uint32_t mask_of(float);
uint64_t mask_of(double);

// What the rule chooses by, as masks; and the numbers of a step as its arithmetic takes them.
template <class T> struct Constants {
  using Mask = decltype(mask_of(T{}));
  T m_weight, n_weight, beta2, v_weight, eps_sum, shrink, factor, grad_factor, l2, passes, momentum_floor;
  Mask has_l2, adapt, lookahead, nesterov;
};

template <class T> INLINE Constants<T> constants_of(const Numbers &n) {
  using Mask = typename Constants<T>::Mask;
  Constants<T> c;
  c.m_weight = static_cast<T>(n.m_weight);
  c.n_weight = static_cast<T>(n.m_weight * (2 - n.m_weight));  // 1 - beta1^2
  c.beta2 = static_cast<T>(n.beta2);
  c.v_weight = static_cast<T>(n.v_weight);
  c.eps_sum = static_cast<T>(n.eps_sum);
  c.shrink = static_cast<T>(n.shrink);
  c.factor = static_cast<T>(n.factor);
  c.grad_factor = static_cast<T>(n.grad_factor);
  c.l2 = static_cast<T>(n.l2);
  c.passes = static_cast<T>(n.passes);
  c.momentum_floor = static_cast<T>(n.momentum_floor);
  const Mask no = 0, yes = static_cast<Mask>(~no);
  c.has_l2 = n.l2 != 0 ? yes : no;
  c.adapt = n.adapt ? yes : no;
  c.lookahead = n.lookahead ? yes : no;
  c.nesterov = n.nesterov ? yes : no;
  return c;
}

INLINE float root_of(float x) { return sqrtf(x); }
INLINE double root_of(double x) { return sqrt(x); }
INLINE float absolute(float x) { return fabsf(x); }
INLINE double absolute(double x) { return fabs(x); }

// What is left of the rule once it is known what the options are: nothing to decide in the first three, all of Algorithm
// 1, of the drop-in for AdamW, and of that with Nesterov's update; what is rarer shares the fourth.
enum Form { kAlgorithm1, kLookahead, kNesterov, kGeneral };

INLINE Form form_of(const Span &s, const Numbers &n) {
  if (s.v_max || n.l2 != 0 || !n.adapt || n.momentum_floor != 0 || n.nesterov > n.lookahead) return kGeneral;
  return n.nesterov ? kNesterov : n.lookahead ? kLookahead : kAlgorithm1;
}

// What an update works on. Numbers in half precision are read from `*_in`; others are where they go.
template <class T> struct Operands {
  const void *theta_in, *grad, *m_in, *v_in;
  T *theta, *m, *v, *v_max;  // v_max is looked at in the general form alone
};

// The largest magnitudes that an update leaves, as bits: moments in codes need them before the first is written. They
// cost nothing beside the division and the root, which keep one unit of the processor busy and leave the others idle.
struct Largest {
  int32_t m, v;
};

// The rule, on n elements: P is how the parameter is read, G its gradient, S both of its moments. bfloat16 is widened
// here, in two instructions, beside the division and the root as well.
template <Form kForm, class P, class G, class S, bool kLargest, class T>
INLINE Largest update_operands(const typename P::Stored *RESTRICT theta_in, const typename G::Stored *RESTRICT grad,
                               const typename S::Stored *RESTRICT m_in, const typename S::Stored *RESTRICT v_in,
                               T *RESTRICT theta, T *RESTRICT m, T *RESTRICT v, T *RESTRICT v_max, int n,
                               const Constants<T> c) {
  Largest largest{0, 0};
  for (int i = 0; i < n; ++i) {
    const T parameter = P::kWide ? theta[i] : P::load(theta_in[i]), gradient = G::load(grad[i]);
    const T first = S::kWide ? m[i] : S::load(m_in[i]), second = S::kWide ? v[i] : S::load(v_in[i]);
    T g = gradient * c.grad_factor, ahead = g * c.passes;
    if (kForm == kGeneral) {
      g = choose(c.has_l2, g + c.l2 * parameter, g);
      ahead = choose(c.has_l2, ahead + c.l2 * parameter, ahead);
    }
    const T momentum = first + c.m_weight * (g - first);
    T averaged = momentum, direction = momentum;
    if (kForm == kLookahead || kForm == kNesterov) {
      // The look-ahead momentum out of that before: two operations, where out of the new one it is three, and a loop over
      // narrow numbers has no room beside the division and the root for more.
      averaged = first + c.n_weight * (g - first);
      if (kForm == kNesterov) direction = averaged;
    }
    if (kForm == kGeneral) {
      const T lookahead = momentum + c.m_weight * (ahead - momentum);
      averaged = choose(c.lookahead, lookahead, momentum);
      direction = choose(c.nesterov, lookahead, momentum);
      const T size = absolute(averaged), floor = c.momentum_floor * absolute(momentum);
      averaged = floor > size ? floor : size;  // a NaN stays: it is in both where it is in the momentum
    }
    const T square = second * c.beta2 + c.v_weight * averaged * averaged;
    T d = square + c.eps_sum;
    if (kForm == kGeneral) {
      d = v_max[i] > d ? v_max[i] : d;  // a NaN in d stays, as with torch.maximum
      v_max[i] = d;
    }
    T root = root_of(d);
    if (kForm == kGeneral) root = choose(c.adapt, root, T{1});
    m[i] = momentum, v[i] = square;
    if constexpr (kLargest) largest.m = larger(largest.m, momentum), largest.v = larger(largest.v, square);
    theta[i] = parameter * c.shrink + c.factor * direction / root;
  }
  return largest;
}

template <Form kForm, class P, class G, class S, bool kLargest, class T>
Largest update(const Operands<T> &o, int n, const Constants<T> &c) {
  using OfP = typename P::Stored;
  using OfG = typename G::Stored;
  using OfS = typename S::Stored;
  return update_operands<kForm, P, G, S, kLargest>(static_cast<const OfP *>(o.theta_in),
                                                   static_cast<const OfG *>(o.grad), static_cast<const OfS *>(o.m_in),
                                                   static_cast<const OfS *>(o.v_in), o.theta, o.m, o.v, o.v_max, n, c);
}

using Update = Largest (*)(const Operands<float> &, int n, const Constants<float> &);

INLINE bool has_codes(States s) { return s.m == kCodes || s.v == kCodes; }

// The update for a way of storing. What it reads by itself is taken out of the stages.
template <Form kForm, class P, class G> INLINE Update update_of(States states, Stages *stages) {
  if (states.m == kStateBF16 && states.v == kStateBF16) {
    stages->m = stages->v = nullptr;
    return update<kForm, P, G, BF16, false, float>;
  }
  return has_codes(states) ? update<kForm, P, G, F32, true, float> : update<kForm, P, G, F32, false, float>;
}

template <Form kForm> INLINE Update update_of(Param param, States states, Rounding rounding, Stages *stages) {
#ifdef __AVX512F__  // a stage of its own asks for them sooner: a tenth of the time, measured
  if (states.m == kState32 && states.v == kState32) return update_of<kForm, F32, F32>(states, stages);
#endif
  if (param != kBFloat16) return update_of<kForm, F32, F32>(states, stages);
  stages->grad = nullptr;
  if (rounding == kKahan || rounding == kMaster) return update_of<kForm, F32, BF16>(states, stages);
  stages->param = nullptr;
  return update_of<kForm, BF16, BF16>(states, stages);
}

INLINE Update update_of(Form form, Param param, States states, Rounding rounding, Stages *stages) {
  if (form == kAlgorithm1) return update_of<kAlgorithm1>(param, states, rounding, stages);
  if (form == kLookahead) return update_of<kLookahead>(param, states, rounding, stages);
  if (form == kNesterov) return update_of<kNesterov>(param, states, rounding, stages);
  return has_codes(states) ? update<kGeneral, F32, F32, F32, true, float>
                           : update<kGeneral, F32, F32, F32, false, float>;
}

// Without a v_max of its own, the general form takes the larger of each number and this.
template <class T> INLINE void fill_lowest(T *x) {
  for (int i = 0; i < kBlock; ++i) x[i] = -INFINITY;
}

// What comes next is asked for this many bytes ahead. The processor's own prefetching follows four streams at once less
// well, and stops at each page: a tenth of the time on arrays larger than the caches. As much is lost by asking for so
// many cache lines in a row that others wait: they are asked for between the stages, and by smaller blocks where there
// are none.
constexpr int64_t kAhead = 2048, kBlockInPlace = 64;

// Elements [begin, begin + length) of n are read now, each of so many bytes.
INLINE void prefetch(const void *start, int64_t size, int64_t begin, int64_t length, int64_t n) {
  if ((begin + length) * size + kAhead > n * size) return;  // a division would take as long as ten elements
  const char *next = static_cast<const char *>(start) + begin * size + kAhead;
  for (int64_t k = 0; k < length * size; k += 64) __builtin_prefetch(next + k);
}

void update_double(const Span &s, const Numbers &numbers) {
  using Update = Largest (*)(const Operands<double> &, int n, const Constants<double> &);
  const Constants<double> c = constants_of<double>(numbers);
  const Form form = form_of(s, numbers);
  const Update update_block = form == kAlgorithm1  ? update<kAlgorithm1, F64, F64, F64, false, double>
                              : form == kLookahead ? update<kLookahead, F64, F64, F64, false, double>
                              : form == kNesterov  ? update<kNesterov, F64, F64, F64, false, double>
                                                   : update<kGeneral, F64, F64, F64, false, double>;
  double lowest[kBlock];
  for (int64_t begin = 0; begin < s.n; begin += kBlock) {
    const Block b{s, begin, static_cast<int>(s.n - begin < kBlock ? s.n - begin : kBlock)};
    double *v_max = s.v_max ? b.at<double>(s.v_max) : lowest;
    Operands<double> o{};
    o.grad = b.at<double>(s.g);
    o.theta = b.at<double>(s.p), o.m = b.at<double>(s.m), o.v = b.at<double>(s.v), o.v_max = v_max;
    if (!s.v_max && form == kGeneral) fill_lowest(lowest);
    update_block(o, b.n, c);
  }
}

void update_float(Param param, States states, Rounding rounding, const Span &s, const Numbers &numbers) {
  const Constants<float> c = constants_of<float>(numbers);
  const Form form = form_of(s, numbers);
  Stages stages = stages_of(param, states, rounding);
  const Update update_block = update_of(form, param, states, rounding, &stages);
  const int64_t of_param = size_of(param), of_kept = rounding == kMaster ? 4 : of_param;
  const int64_t of_m = size_of(states.m), of_v = size_of(states.v);
  alignas(64) float theta_buffer[kBlock], g_buffer[kBlock], m_buffer[kBlock], v_buffer[kBlock], lowest[kBlock];
  const int64_t size = stages.to_param || stages.to_m || stages.to_v ? kBlock : kBlockInPlace;
  for (int64_t begin = 0; begin < s.n; begin += size) {
    const Block b{s, begin, static_cast<int>(s.n - begin < size ? s.n - begin : size)};
    prefetch(s.p, of_param, begin, size, s.n);
    if (stages.param) stages.param(b, theta_buffer);
    if (stages.grad) stages.grad(b, g_buffer);
    prefetch(s.g, of_param, begin, size, s.n);
    if (stages.m) stages.m(b, m_buffer);
    if (stages.v) stages.v(b, v_buffer);
    Operands<float> o;
    o.grad = stages.grad ? g_buffer : b.bytes(s.g, of_param);
    o.theta_in = b.bytes(s.p, of_param), o.m_in = b.bytes(s.m, of_m), o.v_in = b.bytes(s.v, of_v);
    o.theta = stages.to_param ? theta_buffer : b.at<float>(s.p);
    o.m = stages.to_m ? m_buffer : b.at<float>(s.m), o.v = stages.to_v ? v_buffer : b.at<float>(s.v);
    o.v_max = s.v_max ? b.at<float>(s.v_max) : lowest;
    if (!s.v_max && form == kGeneral) fill_lowest(lowest);
    prefetch(s.m, of_m, begin, size, s.n);
    const Largest largest = update_block(o, b.n, c);
    prefetch(s.v, of_v, begin, size, s.n);
    if (stages.to_param) stages.to_param(b, numbers.step * kByStepP, o.theta);
    if (s.kept) prefetch(s.kept, of_kept, begin, size, s.n);
    if (stages.to_m) stages.to_m(b, numbers.step * kByStepM, o.m, largest.m);
    if (stages.to_v) stages.to_v(b, numbers.step * kByStepV, o.v, largest.v);
  }
}

void update_span(Param param, States states, Rounding rounding, const Span &s, const Numbers &n) {
  param == kFloat64 ? update_double(s, n) : update_float(param, states, rounding, s, n);
}

// ---- the first moment alone, of a step that has more gradients ----

INLINE int32_t largest_of(const float *RESTRICT x, int n) {
  int32_t largest = 0;
  for (int i = 0; i < n; ++i) largest = larger(largest, x[i]);
  return largest;
}

template <class T> void add_weighted(T *RESTRICT m, const T *RESTRICT g, int n, T weight) {
  for (int i = 0; i < n; ++i) m[i] += weight * g[i];
}

void fold_span(Param param, State state, const Span &s, double weight, uint32_t step, uint32_t pass) {
  const Stages stages = stages_of(param, {state, kState32}, kNearest);
  const int64_t of_g = size_of(param), of_m = size_of(state);
  alignas(64) float g_buffer[kBlock], m_buffer[kBlock];
  for (int64_t begin = 0; begin < s.n; begin += kBlock) {
    const Block b{s, begin, static_cast<int>(s.n - begin < kBlock ? s.n - begin : kBlock)};
    prefetch(s.g, of_g, begin, kBlock, s.n), prefetch(s.m, of_m, begin, kBlock, s.n);
    if (param == kFloat64) {
      add_weighted(b.at<double>(s.m), b.at<double>(s.g), b.n, weight);
      continue;
    }
    if (stages.grad) stages.grad(b, g_buffer);
    if (stages.m) stages.m(b, m_buffer);
    float *m = stages.m ? m_buffer : b.at<float>(s.m);
    add_weighted(m, stages.grad ? g_buffer : b.at<float>(s.g), b.n, static_cast<float>(weight));
    const int32_t largest = state == kCodes ? largest_of(m, b.n) : 0;
    if (stages.m) stages.to_m(b, step * kByStepFold + pass * kByPassFold, m, largest);
  }
}

// ---- the sum of squares ----

template <class P> double square_sum(const void *data, int64_t n) {
  const typename P::Stored *RESTRICT g = static_cast<const typename P::Stored *>(data);
  constexpr int kLanes = 16;  // fixed, so that every vector width adds in the same order
  double sums[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    prefetch(g, sizeof(*g), i, kLanes, n);
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
    ISA::update_span,
    ISA::fold_span,
    {ISA::square_sum<ISA::F32>, ISA::square_sum<ISA::F64>, ISA::square_sum<ISA::F16>, ISA::square_sum<ISA::BF16>},
};

}  // namespace adamomentum
