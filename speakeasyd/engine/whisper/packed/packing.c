/* What is called when a model is loaded. */
#include "layers.h"

#ifdef __AMX_INT8__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_REQ_XCOMP_PERM 0x1023 /* from Linux's asm/prctl.h */
#define XFEATURE_XTILEDATA 18
#define AMX_TILE (1u << 24) /* compilers have different names for these bits of CPUID */
#define AMX_INT8 (1u << 25)
#endif

/* Packs weights [count][linear->inputs]: int8 with a factor for each row [count], or float16 or
 * float32, which are rounded. The outputs after `count` are 0. */
EXPORT void pack_weights(const Linear *linear, const void *weights, int type, const float *factors,
                         int count) {
    const size_t size = (size_t)linear->outputs * linear->inputs * linear->bytes;
    memset(linear->weights, 0, size);
    memset(linear->scales, 0, linear->outputs * sizeof *linear->scales);
    memset(linear->weight_sums, 0, linear->outputs * sizeof *linear->weight_sums);
    for (int row = 0; row < count; row++)
        pack_output(linear, row, weights, type, (size_t)row * linear->inputs,
                    type == INT8 ? factors[row] : 1);
}

/* The checksum of the source that this library was compiled from. */
EXPORT uint32_t get_source_checksum(void) { return SOURCE_CHECKSUM; }

/* Whether this process may use the registers of AMX, if the library does. Linux allows it on
 * request, to all threads. */
static inline int may_use_tiles(void) {
#ifdef __AMX_INT8__
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & AMX_TILE) && (d & AMX_INT8)
           && !syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
#else
    return 1;
#endif
}

/* Whether this processor has the instructions. Every one with AVX2 and FMA has F16C. */
EXPORT int is_supported(void) {
    __builtin_cpu_init();
#if LANES == 16
    return __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
           && may_use_tiles();
#else
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
}
