// Loops by hand for AVX2, which has no instruction that narrows: compilers mask, pack and put in order again at each
// width on the way from 32 bits to 8, and back. Each does the first elements of the plain loop that follows where it is
// called in kernels.inl, to the bit, and returns how many; without AVX2, and with AVX-512, that is none.

#if defined(__AVX2__) && !defined(__AVX512F__)

INLINE __m256i all(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }

INLINE __m256i load_8(const float *x) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(x)); }

// The random bits of 8 elements from `random`, the first one's, on; those of the next 8 are kBy8 further.
constexpr uint32_t kBy8 = 8 * kByPosition;
INLINE __m256i random_8(uint32_t random) {
  const __m256i places = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_add_epi32(all(random), _mm256_mullo_epi32(places, all(kByPosition)));
}

// The low bytes of four times 8 words below 2^16, in the order that store_32 takes them in.
INLINE __m256i bytes_of(const __m256i *words) {
  const __m256i low = _mm256_set1_epi16(0xFF);
  return _mm256_packus_epi16(_mm256_and_si256(_mm256_packus_epi32(words[0], words[1]), low),
                             _mm256_and_si256(_mm256_packus_epi32(words[2], words[3]), low));
}

INLINE void store_32(uint8_t *to, __m256i bytes) {
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm256_permutevar8x32_epi32(bytes, order));
}

// Twice 8 words below 2^16.
INLINE void store_16(uint16_t *to, __m256i first, __m256i second) {
  const __m256i halves = _mm256_permute4x64_epi64(_mm256_packus_epi32(first, second), 0xD8);
  _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), halves);
}

INLINE int decode_m(const uint8_t *codes, int n, uint32_t low, float *x) {
  const __m256 base = _mm256_castsi256_ps(all(low));
  int i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i code = _mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(codes + i)));
    const __m256i steps = _mm256_and_si256(_mm256_slli_epi32(code, 20), all(0x7Fu << 20));
    const __m256 y = _mm256_castsi256_ps(_mm256_add_epi32(steps, all(low)));
    const __m256 linear = _mm256_sub_ps(y, base), above = _mm256_mul_ps(y, _mm256_set1_ps(0.5f));
    const __m256 sign = _mm256_castsi256_ps(_mm256_and_si256(code, all(kSign)));
    _mm256_storeu_ps(x + i, _mm256_or_ps(_mm256_min_ps(linear, above), sign));
  }
  return i;
}

// `low` is taken off the codes, as it has no bits below theirs. So it is in encode_v.
INLINE int encode_m(const float *x, int n, uint32_t low, uint32_t random, uint8_t *codes) {
  const __m256 base = _mm256_castsi256_ps(all(low));
  const __m256i lowest = _mm256_set1_epi8(static_cast<char>(low >> 20)),
                sign = _mm256_set1_epi8(static_cast<char>(0x80));
  __m256i bits = random_8(random);
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    __m256i words[4], u[4];
    for (int k = 0; k < 4; ++k) {
      u[k] = load_8(x + i + 8 * k);
      const __m256i magnitude = _mm256_andnot_si256(all(kSign), u[k]);
      const __m256i linear = _mm256_castps_si256(_mm256_add_ps(_mm256_castsi256_ps(magnitude), base));
      const __m256i larger = _mm256_max_epi32(linear, _mm256_add_epi32(magnitude, all(1u << 23)));
      const __m256i at_random = _mm256_srli_epi32(_mm256_add_epi32(bits, all(k * kBy8)), 12);
      words[k] = _mm256_srli_epi32(_mm256_add_epi32(larger, at_random), 20);
    }
    bits = _mm256_add_epi32(bits, all(4 * kBy8));
    // Narrowed to the nearest that fits, a number keeps its sign.
    const __m256i signs = _mm256_packs_epi16(_mm256_packs_epi32(u[0], u[1]), _mm256_packs_epi32(u[2], u[3]));
    const __m256i steps = _mm256_sub_epi8(bytes_of(words), lowest);
    store_32(codes + i, _mm256_or_si256(_mm256_andnot_si256(sign, steps), _mm256_and_si256(sign, signs)));
  }
  return i;
}

INLINE int encode_v(const float *x, int n, uint32_t low, uint32_t random, uint8_t *codes) {
  const __m256i lowest = _mm256_set1_epi8(static_cast<char>(low >> 20));
  __m256i bits = random_8(random);
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    __m256i words[4];
    for (int k = 0; k < 4; ++k) {
      const __m256i magnitude = _mm256_andnot_si256(all(kSign), load_8(x + i + 8 * k));
      const __m256i at_random = _mm256_srli_epi32(_mm256_add_epi32(bits, all(k * kBy8)), 12);
      words[k] = _mm256_srli_epi32(_mm256_add_epi32(_mm256_max_epi32(magnitude, all(low)), at_random), 20);
    }
    bits = _mm256_add_epi32(bits, all(4 * kBy8));
    store_32(codes + i, _mm256_sub_epi8(bytes_of(words), lowest));
  }
  return i;
}

INLINE int round_to_bf16_by_chance(const float *x, int n, uint32_t random, uint16_t *stored) {
  const __m256i infinity = all(kInfinity);
  __m256i bits = random_8(random);
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    __m256i words[2];
    for (int k = 0; k < 2; ++k) {
      const __m256i u = load_8(x + i + 8 * k);
      const __m256i special = _mm256_cmpeq_epi32(_mm256_and_si256(u, infinity), infinity);
      const __m256i at_random = _mm256_srli_epi32(_mm256_add_epi32(bits, all(k * kBy8)), 16);
      words[k] = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_andnot_si256(special, at_random)), 16);
    }
    bits = _mm256_add_epi32(bits, all(2 * kBy8));
    store_16(stored + i, words[0], words[1]);
  }
  return i;
}

// Without NaNs, for which it leaves off: rounding is half its instructions then.
INLINE int split_to_bf16(const float *x, int n, uint16_t *rounded, uint16_t *rest) {
  const __m256i one = all(1), half_less = all(0x7FFFu);
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const __m256 both[2] = {_mm256_loadu_ps(x + i), _mm256_loadu_ps(x + i + 8)};
    if (_mm256_movemask_ps(_mm256_cmp_ps(both[0], both[1], _CMP_UNORD_Q))) break;
    __m256i upper[2], upper_rest[2];
    for (int k = 0; k < 2; ++k) {
      const __m256i u = _mm256_castps_si256(both[k]), odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), one);
      upper[k] = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(u, half_less), odd), 16);
      const __m256 number = _mm256_castsi256_ps(_mm256_slli_epi32(upper[k], 16));
      const __m256i r = _mm256_castps_si256(_mm256_sub_ps(both[k], number));
      const __m256i odd_rest = _mm256_and_si256(_mm256_srli_epi32(r, 16), one);
      upper_rest[k] = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(r, half_less), odd_rest), 16);
    }
    store_16(rounded + i, upper[0], upper[1]);
    store_16(rest + i, upper_rest[0], upper_rest[1]);
  }
  return i;
}

// As BF16::rounds_to, of words that hold the upper halves of `number`.
INLINE __m256i rounds_to(__m256 x, __m256 number, __m256i halves) {
  const __m256i apart = _mm256_sub_epi32(_mm256_castps_si256(x), _mm256_castps_si256(number));
  const __m256i limit = _mm256_sub_epi32(all(0x8001u), _mm256_and_si256(halves, all(1)));
  return _mm256_cmpgt_epi32(limit, _mm256_abs_epi32(apart));
}

// The sum of the two nearly always rounds to the number, so that what to take else is looked for where it does not.
INLINE int recover_bf16(const uint16_t *numbers, const uint16_t *rest, int n, float *x) {
  int i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256i halves = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(numbers + i)));
    const __m256i lost_16 = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(rest + i)));
    const __m256 number = _mm256_castsi256_ps(_mm256_slli_epi32(halves, 16));
    const __m256 lost = _mm256_castsi256_ps(_mm256_slli_epi32(lost_16, 16)), whole = _mm256_add_ps(number, lost);
    const __m256 is_whole = _mm256_castsi256_ps(rounds_to(whole, number, halves));
    __m256 recovered = whole;
    if (_mm256_movemask_ps(is_whole) != 0xFF) {
      const __m256 inner = _mm256_add_ps(number, _mm256_mul_ps(lost, _mm256_set1_ps(1 - 0x1p-9f)));
      const __m256 is_inner = _mm256_castsi256_ps(rounds_to(inner, number, halves));
      recovered = _mm256_blendv_ps(_mm256_blendv_ps(number, inner, is_inner), whole, is_whole);
    }
    _mm256_storeu_ps(x + i, recovered);
  }
  return i;
}

#else

INLINE int recover_bf16(const uint16_t *, const uint16_t *, int, float *) { return 0; }
INLINE int split_to_bf16(const float *, int, uint16_t *, uint16_t *) { return 0; }
INLINE int decode_m(const uint8_t *, int, uint32_t, float *) { return 0; }
INLINE int encode_m(const float *, int, uint32_t, uint32_t, uint8_t *) { return 0; }
INLINE int encode_v(const float *, int, uint32_t, uint32_t, uint8_t *) { return 0; }
INLINE int round_to_bf16_by_chance(const float *, int, uint32_t, uint16_t *) { return 0; }

#endif
