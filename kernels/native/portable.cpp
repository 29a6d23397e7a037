// Every other processor: weights become float32 vectors of 16 rows, multiplied by x in float32. Written with
// the compilers' own vector types and compiled three times (AVX-512, AVX2 with FMA, and whatever the
// target has: SSE2, NEON).
#include <cmath>
#include <cstdlib>

#include "parts.h"

#define WB_INLINE __attribute__((always_inline)) inline

namespace wb {
namespace {

typedef float V __attribute__((vector_size(64), aligned(4)));
typedef uint32_t U __attribute__((vector_size(64), aligned(4)));
typedef int32_t I __attribute__((vector_size(64), aligned(4)));
typedef uint16_t H __attribute__((vector_size(32), aligned(2)));
typedef uint8_t B __attribute__((vector_size(16), aligned(1)));

// Vectors go by reference: by value their calling convention depends on the instruction set.
WB_INLINE void load_bf16(const void* p, V& v) {
  H h;
  std::memcpy(&h, p, 32);
  const U u = __builtin_convertvector(h, U) << 16;
  std::memcpy(&v, &u, 64);
}

WB_INLINE void load_bytes(const void* p, V& v) {
  B b;
  std::memcpy(&b, p, 16);
  v = __builtin_convertvector(__builtin_convertvector(b, I), V);
}

// IEEE half precision: normal numbers by exponent, the others exactly by a product.
WB_INLINE void load_half(const void* p, V& v) {
  H h;
  std::memcpy(&h, p, 32);
  const U u = __builtin_convertvector(h, U);
  const U bits = (u & 0x7fffu) << 13;
  V f;
  std::memcpy(&f, &bits, 64);
  f *= 5.192296858534828e33f;  // 2^112: denormals come out exact too
  U out;
  std::memcpy(&out, &f, 64);
  out |= (u & 0x8000u) << 16;
  std::memcpy(&v, &out, 64);
}

// Prepared x: float32 [m, padded], rounded to 8 bits by block where the weight asks for it.
size_t bytes(const Job& j) { return sizeof(float) * static_cast<size_t>(j.m) * j.padded; }
int units(const Job& j) { return j.m; }

void prepare(const Job& j, int row) {
  const WbWeight& w = *j.products->weight;
  const uint16_t* x = j.x + static_cast<size_t>(row) * w.columns;
  float* out = reinterpret_cast<float*>(j.prepared) + static_cast<size_t>(row) * j.padded;
  for (int k = 0; k < j.padded; ++k) out[k] = k < w.columns ? float_of(x[k]) : 0.0f;
  if (w.kind == WB_BF16 || w.activations != WB_A8) return;
  const int block = block_of(w);
  for (int from = 0; from < j.padded; from += block) {
    float largest = 0.0f;
    for (int k = from; k < from + block; ++k) largest = std::fmax(largest, std::fabs(out[k]));
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f, scale = largest / 127.0f;
    for (int k = from; k < from + block; ++k) out[k] = std::nearbyint(out[k] * inverse) * scale;
  }
}

// Sixteen 8-bit floats: `mantissa` bits below the exponent, whose bias is 127 - `lift`; with a sign on top or
// without. No float32 on the way is a denormal: those take a hundred cycles.
WB_INLINE void load_float8(const I& code, int mantissa, int lift, bool sign, V& v) {
  const I size = sign ? code & 0x7f : code;
  const I small = (size - (1 << mantissa)) >> 31;  // -1 where the exponent is 0
  const I bits = (size << (23 - mantissa)) + (lift << 23) - (small << 23);
  const I one = small & ((lift + 1) << 23);
  V f, g;
  std::memcpy(&f, &bits, 64);
  std::memcpy(&g, &one, 64);
  f -= g;
  if (sign) {
    I u;
    std::memcpy(&u, &f, 64);
    u |= (code & 0x80) << 24;
    std::memcpy(&f, &u, 64);
  }
  v = f;
}

WB_INLINE void load_byte_scale(const WbWeight& w, const char* p, int k, V& s) {
  const bool twice = w.scale == WB_SCALE_DOUBLE;
  B b;
  std::memcpy(&b, twice ? p + 16 + k / w.group % 16 * 16 : p, 16);
  const I code = __builtin_convertvector(b, I);
  if (w.scale == WB_SCALE_E8M0) {
    const I bits = code << 23;
    std::memcpy(&s, &bits, 64);
  } else if (w.scale == WB_SCALE_UE5M3) {
    load_float8(code, 3, 112, false, s);
  } else {
    load_float8(code, 3, 120, twice, s);
  }
  if (!twice) return;
  float head[2];
  std::memcpy(head, p, 8);
  s = s * head[0] + head[1];
  for (int i = 0; i < 16; ++i) s[i] = s[i] > 0 ? s[i] : 0;
}

WB_INLINE void block_scale(const WbWeight& w, const char* panel, int k, float middle, V& s, V& o) {
  const char* p = block_scales(w, panel, k);
  V a, b;
  if (w.kind >= WB_FIELDS) {
    o = V{0};
    if (w.scale == WB_SCALE_PAIR) load_bf16(p + 32, o);
    if (w.scale == WB_SCALE_PAIR || w.scale == WB_SCALE_ROW || w.scale == WB_SCALE_BF16) load_bf16(p, s);
    else load_byte_scale(w, p, k, s);
    s *= w.unit;
    if (w.kind == WB_FIELDS) o -= s * w.middle;
  } else if (w.scale == WB_SCALE_PAIR) {
    load_bf16(p, s);
    load_bf16(p + 32, o);
    o -= s * middle;
  } else if (w.scale == WB_SCALE_K) {
    load_half(p, a);
    load_bytes(p + 64 + k % 256 / 32 * 16, b);
    s = a * b;
    load_half(p + 32, a);
    load_bytes(p + 192 + k % 256 / 32 * 16, b);
    o = -a * b;
  } else {
    if (w.scale == WB_SCALE_ROW) load_bf16(p, s);
    else load_half(p, s);
    o = -s * middle;
  }
}

constexpr size_t kAhead = 4096;  // bytes that are asked for before they are read

// Codes of fields as bytes, 64 for each four columns from column k on.
WB_INLINE void fields(const WbWeight& w, const char* data, int k, int block, uint8_t* to) {
  const int bits = w.bits;
  const uint8_t* from = reinterpret_cast<const uint8_t*>(data) + static_cast<size_t>(k / 32) * 64 * bits;
  const int first = k % 32 / 4, vectors = block / 4;
  std::memset(to, 0, static_cast<size_t>(vectors) * 64);
  for (int line = 0; line < vectors * bits / 8; ++line) __builtin_prefetch(from + line * 64 + kAhead);
  for (int f = 8, at = 0; f; f >>= 1) {
    if (!(bits & f)) continue;
    for (int v = 0; v < vectors; ++v) {
      const int i = first + v, vector = i % 8;
      const uint8_t* line = from + static_cast<size_t>(i / 8) * 64 * bits + (at + vector / (8 / f)) * 64;
      const int shift = vector % (8 / f) * f;
      for (int j = 0; j < 64; ++j)
        to[v * 64 + j] |= static_cast<uint8_t>((line[j] >> shift & ((1 << f) - 1)) << at);
    }
    at += f;
  }
  if (w.levels)
    for (int j = 0; j < vectors * 64; ++j) to[j] = w.levels[to[j]];
}

// A block of a panel as float32 [block][16].
WB_INLINE void dequantize(const WbWeight& w, const char* data, const char* scales, int k, int block,
                          float* to) {
  const bool nibbles = w.kind == WB_INT4;
  alignas(64) uint8_t bytes[1024];
  V s, o;
  block_scale(w, scales, k, nibbles ? 8.0f : 128.0f, s, o);
  const int each = nibbles ? 8 : 4, bits = nibbles ? 4 : 8;
  const char* from = data + static_cast<size_t>(k / each) * 64;
  if (w.kind == WB_FIELDS) {
    fields(w, data, k, block, bytes);
    from = reinterpret_cast<const char*>(bytes);
  }
  const uint32_t mask = (1u << bits) - 1;
  for (int c = 0; c < block / each; ++c) {
    __builtin_prefetch(from + c * 64 + kAhead);
    U u;
    std::memcpy(&u, from + c * 64, 64);
    for (int t = 0; t < each / 2; ++t)
      for (int p = 0; p < 2; ++p) {
        const I q = __builtin_convertvector((u >> (16 * p + bits * t)) & mask, I);
        V n = __builtin_convertvector(q, V);
        if (w.kind == WB_E4M3) load_float8(q, 3, 120, true, n);
        if (w.kind == WB_E5M2) load_float8(q, 2, 112, true, n);
        const V v = n * s + o;
        std::memcpy(to + (c * each + 2 * t + p) * kPanel, &v, 64);
      }
  }
}

WB_INLINE void panels_body(const Job& j, const WbProduct& product, int panel, int end) {
  const WbWeight& w = *product.weight;
  const int block = block_of(w);
  const float* x = reinterpret_cast<const float*>(j.prepared);
  float* acc = reinterpret_cast<float*>(scratch(1, sizeof(float) * kPanel * j.m));
  float* buffer = reinterpret_cast<float*>(scratch(2, sizeof(float) * kPanel * 64));
  for (; panel < end; ++panel) {
    const char* data = static_cast<const char*>(w.data) + panel_bytes(w) * panel;
    std::memset(acc, 0, sizeof(float) * kPanel * j.m);
    for (int k = 0; k < w.padded; k += block) {
      dequantize(w, data, scales_of(w, panel), k, block, buffer);
      for (int r = 0; r < j.m; ++r) {
        const float* row = x + static_cast<size_t>(r) * j.padded + k;
        V even = {0}, odd = {0}, a;
        for (int i = 0; i < block; i += 2) {
          std::memcpy(&a, buffer + i * kPanel, 64);
          even += a * row[i];
          std::memcpy(&a, buffer + (i + 1) * kPanel, 64);
          odd += a * row[i + 1];
        }
        std::memcpy(&a, acc + r * kPanel, 64);
        a += even + odd;
        std::memcpy(acc + r * kPanel, &a, 64);
      }
    }
    const int column = panel * kPanel, count = w.rows - column < kPanel ? w.rows - column : kPanel;
    for (int r = 0; r < j.m; ++r) put(product, j.first + r, column, count, acc + r * kPanel);
  }
}

WB_INLINE float dot(const uint16_t* w, const float* x, int n) {
  V sum[4] = {{0}, {0}, {0}, {0}}, a, b;
  int k = 0;
  for (; k + 64 <= n; k += 64)
    for (int i = 0; i < 4; ++i) {
      load_bf16(w + k + i * 16, a);
      std::memcpy(&b, x + k + i * 16, 64);
      sum[i] += a * b;
    }
  float rest = 0.0f;
  for (; k < n; ++k) rest += float_of(w[k]) * x[k];
  const V all = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  for (int i = 0; i < 16; ++i) rest += all[i];
  return rest;
}

WB_INLINE void wide_body(const Job& j, const WbProduct& product, int panel, int end) {
  const WbWeight& w = *product.weight;
  const float* x = reinterpret_cast<const float*>(j.prepared);
  const int last = end * kPanel < w.rows ? end * kPanel : w.rows;
  for (int n = panel * kPanel; n < last; ++n) {
    const uint16_t* row = static_cast<const uint16_t*>(w.data) + static_cast<size_t>(n) * w.columns;
    for (int r = 0; r < j.m; ++r) {
      const float y = dot(row, x + static_cast<size_t>(r) * j.padded, w.columns);
      put(product, j.first + r, n, 1, &y);
    }
  }
}

WB_INLINE void run_body(const Job& j, const WbProduct& p, int panel, int end) {
  if (p.weight->kind == WB_BF16) wide_body(j, p, panel, end);
  else panels_body(j, p, panel, end);
}

void run_plain(const Job& j, const WbProduct& p, int panel, int end) { run_body(j, p, panel, end); }
const Path kPlain = {"generic", bytes, units, prepare, run_plain, nullptr, false};

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))) void run_512(
    const Job& j, const WbProduct& p, int panel, int end) {
  run_body(j, p, panel, end);
}
__attribute__((target("avx2,fma"))) void run_256(const Job& j, const WbProduct& p, int panel,
                                                 int end) {
  run_body(j, p, panel, end);
}
const Path k512 = {"avx512", bytes, units, prepare, run_512, nullptr, false};
const Path k256 = {"avx2", bytes, units, prepare, run_256, nullptr, false};
#endif

}  // namespace

const Path* portable_path(const char* forced) {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool plain = forced && !std::strcmp(forced, "generic");
  const bool small = forced && !std::strcmp(forced, "avx2");
  if (!plain && !small && avx512) return &k512;
  if (!plain && avx2) return &k256;
#else
  (void)forced;
#endif
  return &kPlain;
}

}  // namespace wb
