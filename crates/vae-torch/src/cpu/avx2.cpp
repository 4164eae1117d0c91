// For AVX2 and FMA.
#include <immintrin.h>

#include "kernels.h"

#define LANES 8
#define WIDEST 2
#define REGISTERS 16

namespace {

typedef __m256 Vector;

inline float total(Vector values) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

} // namespace

#include "kernels.inc"

const vae::Kernels vae::avx2_kernels = {
    "AVX2", BLOCK, gather, few, outer_units, outer, winograd_scratch, winograd, winograd_outer,
    norm_silu, norm_silu_backward, bernoulli, bernoulli_backward, gaussians, gaussians_of_points, gaussians_of_components};
