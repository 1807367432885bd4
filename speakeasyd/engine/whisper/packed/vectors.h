/* Vectors of floats and integers, for one instruction set at a time: AVX-512 with VNNI, or AVX2
 * with FMA and F16C. */
#ifndef VECTORS_H
#define VECTORS_H

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif
#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#define LANES 16
#else
#define LANES 8
#endif
#define ZERO_POINT 128 /* added to inputs of 8 bits: the instructions take them unsigned */

typedef float floats __attribute__((vector_size(LANES * 4)));
typedef float unaligned_floats __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef int32_t ints __attribute__((vector_size(LANES * 4)));
typedef uint16_t half;

INLINE floats broadcast(float value) { return value - (floats){0}; }
INLINE floats load(const float *from) { return *(const unaligned_floats *)from; }
INLINE void store(float *to, floats values) { *(unaligned_floats *)to = values; }
INLINE int round_up(int count, int multiple) {
    return (count + multiple - 1) / multiple * multiple;
}
INLINE int min_int(int a, int b) { return a < b ? a : b; }
INLINE int max_int(int a, int b) { return a > b ? a : b; }

/* Four inputs of 8 bits, or two of 16 bits. */
INLINE int32_t load_group(const uint8_t *inputs) {
    int32_t group;
    memcpy(&group, inputs, sizeof group);
    return group;
}

#if LANES == 16
/* Adds to each lane the product of four inputs of 8 bits with the four weights of its output. */
INLINE ints add_dot_products_8(ints sums, const uint8_t *inputs, const int8_t *weights) {
    return (ints)_mm512_dpbusd_epi32((__m512i)sums, _mm512_set1_epi32(load_group(inputs)),
                                     _mm512_loadu_si512(weights));
}
/* The same for two inputs of 16 bits. */
INLINE ints add_dot_products_16(ints sums, const uint8_t *inputs, const int8_t *weights) {
    return (ints)_mm512_dpwssd_epi32((__m512i)sums, _mm512_set1_epi32(load_group(inputs)),
                                     _mm512_loadu_si512(weights));
}
INLINE ints load_ints(const int32_t *from) { return (ints)_mm512_loadu_si512(from); }
/* The sum of the weights whose products are added before they are 32 bits wide: of one. */
INLINE floats sum_group(floats weights) { return weights; }
INLINE floats load_bytes(const int8_t *from) {
    return (floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from)));
}
INLINE floats load_halves(const half *from) {
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from));
}
INLINE void store_halves(half *to, floats values) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtps_ph((__m512)values, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void store_bytes(void *to, ints values) {
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)values));
}
INLINE void store_shorts(void *to, ints values) {
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16((__m512i)values));
}
INLINE floats max_floats(floats a, floats b) { return (floats)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE floats min_floats(floats a, floats b) { return (floats)_mm512_min_ps((__m512)a, (__m512)b); }
INLINE ints round_floats(floats values) { return (ints)_mm512_cvtps_epi32((__m512)values); }
INLINE float reduce_max(floats values) { return _mm512_reduce_max_ps((__m512)values); }
INLINE float reduce_add(floats values) { return _mm512_reduce_add_ps((__m512)values); }
INLINE int is_any_above(floats values, float limit) {
    return _mm512_cmp_ps_mask((__m512)values, _mm512_set1_ps(limit), _CMP_GT_OQ) != 0;
}
#else
/* Two products are added in 16 bits: of inputs up to 255, and of weights of which those of one sign
 * add up to PEAK_8 at most, after rounding to 128; 255 * 128 < 2^15. */
INLINE ints add_dot_products_8(ints sums, const uint8_t *inputs, const int8_t *weights) {
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(load_group(inputs)),
                                               _mm256_loadu_si256((const __m256i *)weights));
    return sums + (ints)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
INLINE ints add_dot_products_16(ints sums, const uint8_t *inputs, const int8_t *weights) {
    return sums
           + (ints)_mm256_madd_epi16(_mm256_set1_epi32(load_group(inputs)),
                                     _mm256_loadu_si256((const __m256i *)weights));
}
INLINE ints load_ints(const int32_t *from) {
    return (ints)_mm256_loadu_si256((const __m256i *)from);
}
INLINE floats sum_group(floats weights) { /* of two neighbours */
    return weights + (floats)_mm256_permute_ps((__m256)weights, 0xB1);
}
INLINE floats load_bytes(const int8_t *from) {
    return (floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}
INLINE floats load_halves(const half *from) {
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from));
}
INLINE void store_halves(half *to, floats values) {
    _mm_storeu_si128((__m128i *)to, _mm256_cvtps_ph((__m256)values, _MM_FROUND_TO_NEAREST_INT));
}
INLINE __m128i narrow_ints(ints values) {
    const __m256i all = (__m256i)values;
    return _mm_packs_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
}
/* The lowest 8 bits of each. */
INLINE void store_bytes(void *to, ints values) {
    const __m128i shorts = narrow_ints(values & 0xff);
    _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(shorts, shorts));
}
INLINE void store_shorts(void *to, ints values) {
    _mm_storeu_si128((__m128i *)to, narrow_ints(values));
}
INLINE floats max_floats(floats a, floats b) { return (floats)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE floats min_floats(floats a, floats b) { return (floats)_mm256_min_ps((__m256)a, (__m256)b); }
INLINE ints round_floats(floats values) { return (ints)_mm256_cvtps_epi32((__m256)values); }
INLINE float reduce_max(floats values) {
    float max = values[0];
    for (int lane = 1; lane < LANES; lane++) max = values[lane] > max ? values[lane] : max;
    return max;
}
INLINE float reduce_add(floats values) {
    __m128 sums = _mm_add_ps(_mm256_castps256_ps128((__m256)values),
                             _mm256_extractf128_ps((__m256)values, 1));
    sums = _mm_add_ps(sums, _mm_movehl_ps(sums, sums));
    return _mm_cvtss_f32(_mm_add_ss(sums, _mm_movehdup_ps(sums)));
}
INLINE int is_any_above(floats values, float limit) {
    __m256 above = _mm256_cmp_ps((__m256)values, _mm256_set1_ps(limit), _CMP_GT_OQ);
    return _mm256_movemask_ps(above) != 0;
}
#endif

/* e^x for x from -87 to 88; for less, about 1e-38. Relative error below 2e-7: a polynomial of
 * degree 6 after reduction to half of ln 2. */
INLINE floats exponential(floats x) {
    x = max_floats(x, broadcast(-87.0f));
    const ints exponent = round_floats(x * 1.44269504f);
    const floats n = __builtin_convertvector(exponent, floats);
    const floats r = x - n * 0.693359375f + n * 2.12194440e-4f; /* ln 2 in two parts */
    floats p = broadcast(1.0f / 720);
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    const ints power = (exponent + 127) << 23;
    return p * (floats)power;
}

/* The GELU activation x * P(X < x), with X of the standard normal distribution. The error is below
 * 1.2e-5 for x from -10 to 10, and below 1.2e-6 * |x| outside. From -5 to 5, the probability comes
 * from a polynomial in x * x, fitted so that the largest error is least (Chebyshev, degree 10);
 * outside, it is that at -5 or 5. */
INLINE floats compute_gelu(floats x) {
    static const float coefficients[] = {0.004577459768f,  -0.012584474869f, 0.014009834267f,
                                         -0.016613448039f, 0.031108515337f,  -0.048454336822f,
                                         0.063487701118f,  -0.080633953214f, 0.102975793183f,
                                         -0.140601232648f, 0.282728612423f};
    const floats z = min_floats(max_floats(x, broadcast(-5.0f)), broadcast(5.0f));
    const floats t = z * z * (2.0f / 25) - 1.0f;
    floats p = broadcast(coefficients[0]);
    for (int i = 1; i < 11; i++) p = p * t + coefficients[i];
    const floats half_x = 0.5f * x;
    return half_x + half_x * z * p;
}

#endif
