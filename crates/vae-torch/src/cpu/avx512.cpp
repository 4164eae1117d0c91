// For AVX-512.
#include <immintrin.h>

#include "kernels.h"

#define LANES 16
#define WIDEST 4
#define REGISTERS 32

namespace {

typedef __m512 Vector;

inline float total(Vector values) { return _mm512_reduce_add_ps(values); }

} // namespace

#include "kernels.inc"

const vae::Kernels vae::avx512_kernels = {
    "AVX-512", BLOCK, gather, few, outer_units, outer, winograd_scratch, winograd, winograd_outer,
    norm_silu, norm_silu_backward, bernoulli, bernoulli_backward, gaussians, gaussians_of_points, gaussians_of_components};
