// Sixteen floats side by side, written once and compiled for each instruction set.
//
// WB_CLONES(name, parameters, arguments) makes `name` from an always-inlined `name_body`: a copy for
// AVX-512, one for AVX2 and a plain one, chosen when it is called.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace wb {

typedef float V16 __attribute__((vector_size(64), aligned(4)));
typedef int32_t I16 __attribute__((vector_size(64), aligned(4)));
typedef uint32_t U16 __attribute__((vector_size(64), aligned(4)));
typedef uint16_t H16 __attribute__((vector_size(32), aligned(2)));

#define WB_INLINE __attribute__((always_inline)) inline

#if defined(__x86_64__)
// 2: AVX-512, 1: AVX2 and FMA, 0: neither, or WORKBENCH_ISA asked for less.
inline int vector_level() {
  static const int level = [] {
    const char* forced = std::getenv("WORKBENCH_ISA");
    if (forced && !std::strcmp(forced, "generic")) return 0;
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (forced && !std::strcmp(forced, "avx2")) return avx2 ? 1 : 0;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") ? 2
           : avx2 ? 1 : 0;
  }();
  return level;
}
#define WB_CLONES(name, parameters, arguments)                                                    \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))) static void name##_512 parameters { \
    name##_body arguments;                                                                        \
  }                                                                                               \
  __attribute__((target("avx2,fma"))) static void name##_256 parameters { name##_body arguments; } \
  static void name##_plain parameters { name##_body arguments; }                                  \
  extern "C" void name parameters {                                                               \
    const int level = wb::vector_level();                                                         \
    if (level == 2) name##_512 arguments;                                                         \
    else if (level == 1) name##_256 arguments;                                                    \
    else name##_plain arguments;                                                                  \
  }
#else
inline int vector_level() { return 0; }
#define WB_CLONES(name, parameters, arguments) \
  extern "C" void name parameters { name##_body arguments; }
#endif

// Vectors go by reference: by value their calling convention depends on the instruction set.
WB_INLINE void load(const float* p, V16& v) { std::memcpy(&v, p, 64); }
WB_INLINE void store(float* p, const V16& v) { std::memcpy(p, &v, 64); }

WB_INLINE void load_bf16(const uint16_t* p, V16& v) {
  H16 h;
  std::memcpy(&h, p, 32);
  const U16 u = __builtin_convertvector(h, U16) << 16;
  std::memcpy(&v, &u, 64);
}

// Nearest even; not-a-number keeps a bit so that it stays one.
WB_INLINE void store_bf16(uint16_t* p, const V16& v) {
  U16 u;
  std::memcpy(&u, &v, 64);
  const U16 rounded = (u + 0x7fffu + ((u >> 16) & 1u)) >> 16;
  const U16 broken = (u >> 16) | 0x40u;
  const U16 nan = (U16)((u & 0x7fffffffu) > 0x7f800000u);
  const H16 h = __builtin_convertvector((rounded & ~nan) | (broken & nan), H16);
  std::memcpy(p, &h, 32);
}

// exp on any x, relative error below 3e-7: 2^n times a polynomial on |f| <= 1/2.
WB_INLINE void exponential(const V16& x, V16& y) {
  const V16 low = V16{} - 87.0f, high = V16{} + 88.0f;
  V16 t = x < low ? low : x;
  t = (t > high ? high : t) * 1.44269504f;
  const V16 magic = V16{} + 12582912.0f;  // 1.5 * 2^23: rounds to the nearest integer
  const V16 n = (t + magic) - magic, f = t - n;
  V16 p = f * 1.5403530e-4f + 1.3333558e-3f;
  p = p * f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 0.24022651f;
  p = p * f + 0.69314718f;
  p = p * f + 1.0f;
  const I16 power = (__builtin_convertvector(n, I16) + 127) << 23;
  V16 scale;
  std::memcpy(&scale, &power, 64);
  y = p * scale;
}

// The sixteen joined pairwise: one order, whoever asks.
WB_INLINE float sum(const V16& v) {
  float a[16];
  std::memcpy(a, &v, 64);
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) a[i] += a[i + half];
  return a[0];
}

WB_INLINE float from_bits16(uint16_t v) {
  const uint32_t u = static_cast<uint32_t>(v) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

WB_INLINE uint16_t to_bits16(float f) {
  V16 v = V16{} + f;
  uint16_t h[16];
  store_bf16(h, v);
  return h[0];
}

}  // namespace wb
