// The kernels for x86-64 processors with AVX-512 (F, BW, DQ, VL).
#define ISA avx512
#include "kernels.inl"
