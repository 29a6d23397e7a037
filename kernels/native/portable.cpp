// Every other processor: weights become float32 vectors, multiplied by x in float32. Written with the compilers' own
// vector types and compiled three times: 16 lanes (AVX-512), 8 (AVX2 with FMA), 4 (whatever the target has: SSE2,
// NEON). Vectors are as wide as the processor's: wider ones live in memory.
#include <cmath>
#include <cstdlib>

#include "parts.h"

#define WB_INLINE __attribute__((always_inline)) inline

namespace wb {
namespace {

// Vectors of L lanes.
template <int L>
struct Of;
#define WB_VECTORS(L)                                                          \
  template <>                                                                  \
  struct Of<L> {                                                               \
    typedef float V __attribute__((vector_size(4 * L)));    \
    typedef uint32_t U __attribute__((vector_size(4 * L))); \
    typedef int32_t I __attribute__((vector_size(4 * L)));  \
    typedef uint16_t H __attribute__((vector_size(2 * L))); \
    typedef uint8_t B __attribute__((vector_size(L)));      \
  };
WB_VECTORS(4)
WB_VECTORS(8)
WB_VECTORS(16)
#define WB_NAMES(L)               \
  typedef typename Of<L>::V V;    \
  typedef typename Of<L>::U U;    \
  typedef typename Of<L>::I I;    \
  typedef typename Of<L>::H H;    \
  typedef typename Of<L>::B B;    \
  (void)sizeof(V), (void)sizeof(U), (void)sizeof(I), (void)sizeof(H), (void)sizeof(B)

// Vectors go by reference: by value their calling convention depends on the instruction set. (memcpy because a template
// argument loses its alignment.)
template <typename T>
WB_INLINE void load(const void* p, T& v) { __builtin_memcpy(&v, p, sizeof(T)); }
template <typename T>
WB_INLINE void store(void* p, const T& v) { __builtin_memcpy(p, &v, sizeof(T)); }

template <int L>
WB_INLINE void load_bf16(const void* p, typename Of<L>::V& v) {
  WB_NAMES(L);
  H h;
  load(p, h);
  v = (V)(__builtin_convertvector(h, U) << 16);
}

template <int L>
WB_INLINE void load_bytes(const void* p, typename Of<L>::V& v) {
  WB_NAMES(L);
  B b;
  load(p, b);
  v = __builtin_convertvector(__builtin_convertvector(b, I), V);
}

// IEEE half precision: normal numbers by exponent, the others exactly by a product.
template <int L>
WB_INLINE void load_half(const void* p, typename Of<L>::V& v) {
  WB_NAMES(L);
  H h;
  load(p, h);
  const U u = __builtin_convertvector(h, U);
  const V f = (V)((u & 0x7fffu) << 13) * 5.192296858534828e33f;  // 2^112: denormals come out exact too
  v = (V)((U)f | (u & 0x8000u) << 16);
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

// 8-bit floats: `mantissa` bits below the exponent, whose bias is 127 - `lift`; with a sign on top or without. No float32
// on the way is a denormal: those take a hundred cycles.
template <int L>
WB_INLINE void load_float8(const typename Of<L>::I& code, int mantissa, int lift, bool sign, typename Of<L>::V& v) {
  WB_NAMES(L);
  const I size = sign ? code & 0x7f : code;
  const I small = (size - (1 << mantissa)) >> 31;  // -1 where the exponent is 0
  const I bits = (size << (23 - mantissa)) + (lift << 23) - (small << 23);
  const I one = small & ((lift + 1) << 23);
  v = (V)bits - (V)one;
  if (sign) v = (V)((I)v | (code & 0x80) << 24);
}

// `part`: which L of the 16 rows of a panel.
template <int L>
WB_INLINE void load_byte_scale(const WbWeight& w, const char* p, int k, int part, typename Of<L>::V& s) {
  WB_NAMES(L);
  const bool twice = w.scale == WB_SCALE_DOUBLE;
  B b;
  load((twice ? p + 16 + k / w.group % 16 * 16 : p) + part * L, b);
  const I code = __builtin_convertvector(b, I);
  if (w.scale == WB_SCALE_E8M0) s = (V)(code << 23);
  else if (w.scale == WB_SCALE_UE5M3) load_float8<L>(code, 3, 112, false, s);
  else load_float8<L>(code, 3, 120, twice, s);
  if (!twice) return;
  float head[2];
  std::memcpy(head, p, 8);
  s = s * head[0] + head[1];
  s = s > V{} ? s : V{};
}

template <int L>
WB_INLINE void block_scale(const WbWeight& w, const char* panel, int k, float middle, int part,
                           typename Of<L>::V& s, typename Of<L>::V& o) {
  WB_NAMES(L);
  const char* p = block_scales(w, panel, k);
  const int two = part * L * 2;
  V a, b;
  if (w.kind >= WB_FIELDS) {
    o = V{};
    if (w.scale == WB_SCALE_PAIR) load_bf16<L>(p + 32 + two, o);
    if (w.scale == WB_SCALE_PAIR || w.scale == WB_SCALE_ROW || w.scale == WB_SCALE_BF16) load_bf16<L>(p + two, s);
    else load_byte_scale<L>(w, p, k, part, s);
    s *= w.unit;
    if (w.kind == WB_FIELDS) o -= s * w.middle;
  } else if (w.scale == WB_SCALE_PAIR) {
    load_bf16<L>(p + two, s);
    load_bf16<L>(p + 32 + two, o);
    o -= s * middle;
  } else if (w.scale == WB_SCALE_K) {
    load_half<L>(p + two, a);
    load_bytes<L>(p + 64 + k % 256 / 32 * 16 + part * L, b);
    s = a * b;
    load_half<L>(p + 32 + two, a);
    load_bytes<L>(p + 192 + k % 256 / 32 * 16 + part * L, b);
    o = -a * b;
  } else {
    if (w.scale == WB_SCALE_ROW) load_bf16<L>(p + two, s);
    else load_half<L>(p + two, s);
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
template <int L>
WB_INLINE void dequantize(const WbWeight& w, const char* data, const char* scales, int k, int block, float* to) {
  WB_NAMES(L);
  const bool nibbles = w.kind == WB_INT4;
  alignas(64) uint8_t bytes[1024];
  const int each = nibbles ? 8 : 4, bits = nibbles ? 4 : 8;
  const char* from = data + static_cast<size_t>(k / each) * 64;
  if (w.kind == WB_FIELDS) {
    fields(w, data, k, block, bytes);
    from = reinterpret_cast<const char*>(bytes);
  }
  for (int c = 0; c < block / each; ++c) __builtin_prefetch(from + c * 64 + kAhead);
  const uint32_t mask = (1u << bits) - 1;
  for (int part = 0; part < kPanel / L; ++part) {
    V s, o;
    block_scale<L>(w, scales, k, nibbles ? 8.0f : 128.0f, part, s, o);
    for (int c = 0; c < block / each; ++c) {
      U u;
      load(from + c * 64 + part * L * 4, u);
      for (int t = 0; t < each / 2; ++t)
        for (int p = 0; p < 2; ++p) {
          const I q = (I)((u >> (16 * p + bits * t)) & mask);
          V n = __builtin_convertvector(q, V);
          if (w.kind == WB_E4M3) load_float8<L>(q, 3, 120, true, n);
          if (w.kind == WB_E5M2) load_float8<L>(q, 2, 112, true, n);
          const V value = n * s + o;
          store(to + (c * each + 2 * t + p) * kPanel + part * L, value);
        }
    }
  }
}

// acc[r][L of 16] += R rows of x times a block, its even and odd columns apart.
template <int L, int R>
WB_INLINE void some_rows(const float* weights, const float* x, int padded, int block, float* acc) {
  WB_NAMES(L);
  V even[R], odd[R], a;
  for (int r = 0; r < R; ++r) even[r] = odd[r] = V{};
  for (int i = 0; i < block; i += 2) {
    load(weights + i * kPanel, a);
    for (int r = 0; r < R; ++r) even[r] += a * x[static_cast<size_t>(r) * padded + i];
    load(weights + (i + 1) * kPanel, a);
    for (int r = 0; r < R; ++r) odd[r] += a * x[static_cast<size_t>(r) * padded + i + 1];
  }
  for (int r = 0; r < R; ++r) {
    load(acc + r * kPanel, a);
    a += even[r] + odd[r];
    store(acc + r * kPanel, a);
  }
}

template <int L>
WB_INLINE void panels_body(const Job& j, const WbProduct& product, int panel, int end) {
  constexpr int kTogether = 4;
  const WbWeight& w = *product.weight;
  const int block = block_of(w);
  const float* x = reinterpret_cast<const float*>(j.prepared);
  float* acc = reinterpret_cast<float*>(scratch(1, sizeof(float) * kPanel * j.m));
  float* buffer = reinterpret_cast<float*>(scratch(2, sizeof(float) * kPanel * 64));
  for (; panel < end; ++panel) {
    const char* data = static_cast<const char*>(w.data) + panel_bytes(w) * panel;
    std::memset(acc, 0, sizeof(float) * kPanel * j.m);
    for (int k = 0; k < w.padded; k += block) {
      dequantize<L>(w, data, scales_of(w, panel), k, block, buffer);
      for (int part = 0; part < kPanel; part += L) {
        int r = 0;
        for (; r + kTogether <= j.m; r += kTogether)
          some_rows<L, kTogether>(buffer + part, x + static_cast<size_t>(r) * j.padded + k, j.padded, block,
                                  acc + r * kPanel + part);
        for (; r < j.m; ++r)
          some_rows<L, 1>(buffer + part, x + static_cast<size_t>(r) * j.padded + k, j.padded, block,
                          acc + r * kPanel + part);
      }
    }
    const int column = panel * kPanel, count = w.rows - column < kPanel ? w.rows - column : kPanel;
    for (int r = 0; r < j.m; ++r) put(product, j.first + r, column, count, acc + r * kPanel);
  }
}

// R rows of x, `pitch` apart, times one row of weights.
template <int L, int R>
WB_INLINE void dot(const uint16_t* w, const float* x, int pitch, int n, float* y) {
  WB_NAMES(L);
  constexpr int kSums = 4;
  V sum[R][kSums], a, b;
  for (int r = 0; r < R; ++r)
    for (int i = 0; i < kSums; ++i) sum[r][i] = V{};
  int k = 0;
  for (; k + kSums * L <= n; k += kSums * L)
    for (int i = 0; i < kSums; ++i) {
      load_bf16<L>(w + k + i * L, a);
      for (int r = 0; r < R; ++r) {
        load(x + static_cast<size_t>(r) * pitch + k + i * L, b);
        sum[r][i] += a * b;
      }
    }
  for (int i = 0; k < n; k += L, ++i) {  // the last columns, with zeros behind them
    uint16_t few[L] = {};
    std::memcpy(few, w + k, 2 * (n - k < L ? n - k : L));
    load_bf16<L>(few, a);
    for (int r = 0; r < R; ++r) {
      float own[L] = {};
      std::memcpy(own, x + static_cast<size_t>(r) * pitch + k, 4 * (n - k < L ? n - k : L));
      load(own, b);
      sum[r][i] += a * b;
    }
  }
  for (int r = 0; r < R; ++r) {
    const V all = (sum[r][0] + sum[r][1]) + (sum[r][2] + sum[r][3]);
    y[r] = 0.0f;
    for (int i = 0; i < L; ++i) y[r] += all[i];
  }
}

template <int L>
WB_INLINE void wide_body(const Job& j, const WbProduct& product, int panel, int end) {
  constexpr int kTogether = L == 16 ? 4 : 2;  // registers for their sums
  const WbWeight& w = *product.weight;
  const float* x = reinterpret_cast<const float*>(j.prepared);
  const int last = end * kPanel < w.rows ? end * kPanel : w.rows;
  float y[kTogether];
  // x outside, so that a few of its rows stay in the first-level cache for all rows of weights.
  for (int r = 0; r < j.m;) {
    const int count = r + kTogether <= j.m ? kTogether : 1;
    for (int n = panel * kPanel; n < last; ++n) {
      const uint16_t* row = static_cast<const uint16_t*>(w.data) + static_cast<size_t>(n) * w.columns;
      const float* from = x + static_cast<size_t>(r) * j.padded;
      if (count == kTogether) dot<L, kTogether>(row, from, j.padded, w.columns, y);
      else dot<L, 1>(row, from, j.padded, w.columns, y);
      for (int i = 0; i < count; ++i) put(product, j.first + r + i, n, 1, y + i);
    }
    r += count;
  }
}

template <int L>
WB_INLINE void run_body(const Job& j, const WbProduct& p, int panel, int end) {
  if (p.weight->kind == WB_BF16) wide_body<L>(j, p, panel, end);
  else panels_body<L>(j, p, panel, end);
}

void run_plain(const Job& j, const WbProduct& p, int panel, int end) { run_body<4>(j, p, panel, end); }
const Path kPlain = {"generic", bytes, units, prepare, run_plain, nullptr, false};

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))) void run_512(
    const Job& j, const WbProduct& p, int panel, int end) {
  run_body<16>(j, p, panel, end);
}
__attribute__((target("avx2,fma"))) void run_256(const Job& j, const WbProduct& p, int panel,
                                                 int end) {
  run_body<8>(j, p, panel, end);
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
