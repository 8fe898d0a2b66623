// The kernels for x86-64 processors with AVX2.
#define ISA avx2
#include "kernels.inl"
