// The matrix unit (AMX), for one row as for five hundred: weights become tiles of bfloat16 integers, or
// stay bytes, in the first-level cache, and are multiplied by up to 16 rows of x at once. What the unit sums
// for one row does not depend on the other rows of its tile.
#include "parts.h"

#if defined(__x86_64__) && defined(__linux__)
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmath>

#define WB_TARGET \
  "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,amx-tile,amx-bf16,amx-int8,fma,f16c,avx2"
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target(WB_TARGET))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target( \
    "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16,amx-tile,amx-bf16,amx-int8,fma,f16c,avx2")
#endif

namespace wb {
namespace {

constexpr float kLift = 79228162514264337593543950336.0f;  // 2^96, see bytes_to_tiles
constexpr float kDrop = 65536.0f;                          // 2^112 / 2^96
constexpr size_t kAhead = 2048;  // bytes that are asked for ahead of their use

// The compilers' own macros do not say that a tile is read from memory.
#define WB_LOAD(tile, from, pitch)                          \
  asm volatile("tileloadd (%0,%1,1), %%tmm" #tile ::"r"(from), \
               "r"(static_cast<long>(pitch)) : "memory")

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};
  uint8_t rows[16] = {};
  void set(int tile, int r, int b) {
    rows[tile] = static_cast<uint8_t>(r);
    bytes[tile] = static_cast<uint16_t>(b);
  }
};

int height(const Job& j) { return j.m < kPanel ? j.m : kPanel; }
int row_tiles(const Job& j) { return (j.m + kPanel - 1) / kPanel; }
const WbWeight& kind_of(const Job& j) { return *j.products->weight; }

// Prepared x. bf16 weights: tiles [row tile][k / 32][16 pairs of k][16 rows][2]. Panels: tiles
// [row tile][tile of k][height][64 bytes], then float sums [block][rows], then (A8) scales [block][rows].
struct View {
  char* tiles;
  float* sums;
  float* scales;
  int rows, blocks, block, tile;  // `tile`: columns of one tile
  size_t tile_bytes, row_tile;    // `row_tile`: bytes of one row tile's tiles
};

View view(const Job& j) {
  const WbWeight& w = kind_of(j);
  View v = {j.prepared, nullptr, nullptr, row_tiles(j) * height(j), 0, 0, 32, 1024, 0};
  if (w.kind == WB_BF16) {
    v.row_tile = static_cast<size_t>(j.padded / 32) * 1024;
    return v;
  }
  v.block = block_of(w);
  v.blocks = j.padded / v.block;
  v.tile = w.activations == WB_A8 ? v.block : 32;
  v.tile_bytes = static_cast<size_t>(height(j)) * 64;
  v.row_tile = static_cast<size_t>(j.padded / v.tile) * v.tile_bytes;
  v.sums = reinterpret_cast<float*>(j.prepared + row_tiles(j) * v.row_tile);
  v.scales = v.sums + static_cast<size_t>(v.blocks) * v.rows;
  return v;
}

size_t bytes(const Job& j) {
  const View v = view(j);
  return row_tiles(j) * v.row_tile + 2 * sizeof(float) * static_cast<size_t>(v.blocks) * v.rows + 4096;
}

inline __m512 load_bf16(const uint16_t* p, __mmask16 mask = 0xffff) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, p)), 16));
}

inline __mmask16 below(int n) {
  return n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
}

void prepare_wide(const Job& j, const View& v, int tile) {
  const int columns = kind_of(j).columns;
  uint32_t* out = reinterpret_cast<uint32_t*>(v.tiles + tile * v.row_tile);
  for (int i = 0; i < kPanel; ++i) {
    const int row = tile * kPanel + i;
    const uint16_t* x = j.x + static_cast<size_t>(row) * columns;
    for (int k = 0; k < j.padded; k += 2) {
      const uint32_t low = row < j.m && k < columns ? x[k] : 0;
      const uint32_t high = row < j.m && k + 1 < columns ? x[k + 1] : 0;
      out[(k / 2) * 16 + i] = low | high << 16;
    }
  }
}

// One row's 16-bit tiles and sums by block. bfloat16 numbers of int8 weights carry 2^-112 (see
// bytes_to_tiles), which x makes up for.
void prepare_row16(const Job& j, const View& v, const uint16_t* x, int tile, int i, int row) {
  const WbWeight& w = kind_of(j);
  const __m512 lift = _mm512_set1_ps(w.kind == WB_INT8 ? kLift : 1.0f);
  for (int b = 0; b < v.blocks; ++b) {
    __m512 sum = _mm512_setzero_ps();
    for (int k = b * v.block; k < (b + 1) * v.block; k += 16) {
      const __m512 f = x ? load_bf16(x + k, below(w.columns - k)) : _mm512_setzero_ps();
      sum = _mm512_add_ps(sum, f);
      char* to = v.tiles + tile * v.row_tile + (k / 32) * v.tile_bytes + i * 64 + (k % 32) * 2;
      // A product with a power of two is a bfloat16 again: its upper half is exact.
      const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(f, lift));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to),
                          _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
    }
    v.sums[static_cast<size_t>(b) * v.rows + row] = _mm512_reduce_add_ps(sum);
  }
}

// One row's 8-bit tiles: round to nearest by block, in the order in which the packed bytes have columns.
void prepare_row8(const Job& j, const View& v, const uint16_t* x, int tile, int i, int row) {
  static const int order4[8] = {0, 4, 1, 5, 2, 6, 3, 7}, order8[8] = {0, 2, 1, 3, 4, 6, 5, 7};
  const WbWeight& w = kind_of(j);
  const int* order = w.kind == WB_INT4 ? order4 : order8;
  for (int b = 0; b < v.blocks; ++b) {
    alignas(64) int32_t q[64];
    __m512 f[4], most = _mm512_setzero_ps();
    const int parts = v.block / 16;
    for (int c = 0; c < parts; ++c) {
      const int k = b * v.block + c * 16;
      f[c] = x ? load_bf16(x + k, below(w.columns - k)) : _mm512_setzero_ps();
      most = _mm512_max_ps(most, _mm512_abs_ps(f[c]));
    }
    const float largest = _mm512_reduce_max_ps(most);
    const float inverse = largest > 0 ? 127.0f / largest : 0.0f;
    __m512i total = _mm512_setzero_si512();
    for (int c = 0; c < parts; ++c) {
      const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(f[c], _mm512_set1_ps(inverse)));
      total = _mm512_add_epi32(total, n);
      _mm512_store_si512(q + c * 16, n);
    }
    int8_t* to = reinterpret_cast<int8_t*>(v.tiles + tile * v.row_tile + b * v.tile_bytes + i * 64);
    for (int k = 0; k < v.block; ++k) to[k] = static_cast<int8_t>(q[(k & ~7) + order[k & 7]]);
    const float scale = largest / 127.0f;
    v.scales[static_cast<size_t>(b) * v.rows + row] = scale;
    v.sums[static_cast<size_t>(b) * v.rows + row] =
        scale * static_cast<float>(_mm512_reduce_add_epi32(total));
  }
}

int units(const Job& j) { return row_tiles(j); }

void prepare(const Job& j, int tile) {
  const View v = view(j);
  const WbWeight& w = kind_of(j);
  if (w.kind == WB_BF16) return prepare_wide(j, v, tile);
  for (int i = 0; i < height(j); ++i) {
    const int row = tile * kPanel + i;
    const uint16_t* x = row < j.m ? j.x + static_cast<size_t>(row) * w.columns : nullptr;
    if (w.activations == WB_A8) prepare_row8(j, v, x, tile, i, row);
    else prepare_row16(j, v, x, tile, i, row);
  }
}

// -- weights to tiles ------------------------------------------------------------------------------

// 64 bytes, 8 columns of 16 rows -> 4 tile rows of q - 8. The table has its 16 values twice, so the fifth
// bit of an index, which belongs to the next number, does not matter.
inline void nibbles_to_tiles(const char* from, uint16_t* to, int columns, __m512i table) {
  for (int c = 0; c < columns / 8; ++c) {
    const __m512i w = _mm512_loadu_si512(from + c * 64);
    uint16_t* out = to + c * 128;
    _mm512_store_si512(out, _mm512_permutexvar_epi16(w, table));
    _mm512_store_si512(out + 32, _mm512_permutexvar_epi16(_mm512_srli_epi16(w, 4), table));
    _mm512_store_si512(out + 64, _mm512_permutexvar_epi16(_mm512_srli_epi16(w, 8), table));
    _mm512_store_si512(out + 96, _mm512_permutexvar_epi16(_mm512_srli_epi16(w, 12), table));
  }
}

// 64 bytes, 4 columns -> 2 tile rows of q + 128. A float16's exponent and upper mantissa, three bits lower,
// are the bfloat16 of 2^-112 times its value.
inline void bytes_to_tiles(const char* from, uint16_t* to, int columns) {
  const __m512i low = _mm512_set1_epi16(0xff);
  for (int c = 0; c < columns / 4; ++c) {
    const __m512i w = _mm512_loadu_si512(from + c * 64);
    const __m512i a = _mm512_castph_si512(_mm512_cvtepu16_ph(_mm512_and_si512(w, low)));
    const __m512i b = _mm512_castph_si512(_mm512_cvtepu16_ph(_mm512_srli_epi16(w, 8)));
    _mm512_store_si512(to + c * 64, _mm512_srli_epi16(a, 3));
    _mm512_store_si512(to + c * 64 + 32, _mm512_srli_epi16(b, 3));
  }
}

// 64 bytes, 8 columns -> 2 tile rows of bytes 0 .. 15.
inline void nibbles_to_bytes(const char* from, char* to, int columns) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int c = 0; c < columns / 8; ++c) {
    const __m512i w = _mm512_loadu_si512(from + c * 64);
    _mm512_store_si512(to + c * 128, _mm512_and_si512(w, low));
    _mm512_store_si512(to + c * 128 + 64, _mm512_and_si512(_mm512_srli_epi16(w, 4), low));
  }
}

struct Scales {
  __m512 s, o;  // w = s code + o
};

inline __m512 load_half(const char* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// `middle` is what the code of zero is after unpacking (8 or 128, 0 where the table took it off).
inline Scales block_scale(const WbWeight& w, const char* panel, int k, float middle) {
  const char* p = block_scales(w, panel, k);
  if (w.scale == WB_SCALE_PAIR) {
    const __m512 s = load_bf16(reinterpret_cast<const uint16_t*>(p));
    const __m512 z = load_bf16(reinterpret_cast<const uint16_t*>(p + 32));
    return {s, _mm512_fnmadd_ps(s, _mm512_set1_ps(middle), z)};
  }
  if (w.scale == WB_SCALE_K) {
    const int i = k % 256 / 32;
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 64 + i * 16));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 192 + i * 16));
    const __m512 s = _mm512_mul_ps(load_half(p), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(a)));
    const __m512 z = _mm512_mul_ps(load_half(p + 32), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b)));
    // Here codes begin at 0, so what the table took off is added again.
    return {s, _mm512_fmsub_ps(s, _mm512_set1_ps(8.0f - middle), z)};
  }
  const __m512 s =
      w.scale == WB_SCALE_ROW ? load_bf16(reinterpret_cast<const uint16_t*>(p)) : load_half(p);
  return {s, _mm512_mul_ps(s, _mm512_set1_ps(-middle))};
}

// acc [rows][16] += s C + o sum, for one tile of results.
template <int KIND, int ACT>
inline void gather(const float* tile, float* acc, const Scales& g, const float* sums,
                   const float* scales, int rows) {
  for (int r = 0; r < rows; ++r) {
    __m512 a = _mm512_fmadd_ps(g.o, _mm512_set1_ps(sums[r]), _mm512_load_ps(acc + r * 16));
    if (ACT == WB_A8) {
      const __m512 c = _mm512_cvtepi32_ps(_mm512_load_si512(tile + r * 16));
      a = _mm512_fmadd_ps(_mm512_mul_ps(c, g.s), _mm512_set1_ps(scales[r]), a);
    } else {
      a = _mm512_fmadd_ps(_mm512_load_ps(tile + r * 16), g.s, a);
    }
    _mm512_store_ps(acc + r * 16, a);
  }
}

// What the kernels below share: one or two neighbouring panels, block by block.
template <int KIND, int ACT, int BLOCK, int P>
struct Panels {
  static constexpr size_t kBytes = BLOCK * kPanel / (KIND == WB_INT4 ? 2 : 1);  // of a block
  static constexpr float kMiddle = KIND == WB_INT8 ? 128.0f : ACT == WB_A16 ? 0.0f : 8.0f;
  const WbWeight& w;
  const View& v;
  int panel, rows;
  size_t stride;
  const char* data;
  float* acc;
  __m512i table;

  Panels(const Job& j, const View& view, const WbWeight& weight, int first, float* sums)
      : w(weight), v(view), panel(first), rows(height(j)), stride(panel_bytes(weight)),
        data(static_cast<const char*>(weight.data) + stride * first), acc(sums) {
    alignas(64) uint16_t q[32];
    for (int i = 0; i < 32; ++i) q[i] = bf16_of(static_cast<float>(i % 16 - 8));
    table = _mm512_load_si512(q);
  }

  // Block b of panel p to tiles at `to`; returns where they are (packed bytes may be tiles already).
  inline const char* unpack(int b, int p, uint16_t* to, Scales& scale) const {
    const size_t at = b * kBytes;
    const char* from = data + p * stride;
    // The end of one panel asks for the beginning of the one that is read next.
    const size_t ahead = at + kAhead < stride ? at + kAhead : at + kAhead + (P - 1) * stride;
    for (size_t line = 0; line < kBytes; line += 64) _mm_prefetch(from + ahead + line, _MM_HINT_T0);
    scale = block_scale(w, scales_of(w, panel + p), b * BLOCK, kMiddle);
    if (KIND == WB_INT8 && ACT == WB_A16) scale.s = _mm512_mul_ps(scale.s, _mm512_set1_ps(kDrop));
    if (KIND == WB_INT8 && ACT == WB_A8) return from + at;
    if (KIND == WB_INT8) bytes_to_tiles(from + at, to, BLOCK);
    else if (ACT == WB_A16) nibbles_to_tiles(from + at, to, BLOCK, table);
    else nibbles_to_bytes(from + at, reinterpret_cast<char*>(to), BLOCK);
    return reinterpret_cast<const char*>(to);
  }

  inline void finish(const float* result, int p, int b, int tile, const Scales& scale) const {
    const size_t at = static_cast<size_t>(b) * v.rows + tile * rows;
    gather<KIND, ACT>(result, acc + (static_cast<size_t>(p) * v.rows + tile * rows) * kPanel, scale,
                      v.sums + at, v.scales + at, rows);
  }

  const char* x(int tile, int b) const {
    return v.tiles + tile * v.row_tile + static_cast<size_t>(b) * BLOCK / v.tile * v.tile_bytes;
  }
};

// One block times one row tile. C: results; x in tiles 4 and 5, weights in 6 and 7.
#define WB_STEP(C)                         \
  _tile_zero(C);                           \
  WB_LOAD(4, x, 64);                       \
  WB_LOAD(6, at[b & 3], 64);               \
  if (ACT == WB_A8) _tile_dpbsud(C, 4, 6); \
  else _tile_dpbf16ps(C, 4, 6);            \
  if (kTwo) {                              \
    WB_LOAD(5, x + v.tile_bytes, 64);      \
    WB_LOAD(7, at[b & 3] + 1024, 64);      \
    _tile_dpbf16ps(C, 5, 7);               \
  }                                        \
  _tile_stored(C, result[b & 3], 64)

// Up to 16 rows of x, one panel. Unpacking runs ahead of the products and their sums behind, because a tile
// cannot be loaded from stores that are still on their way. The buffers of neighbouring blocks are not
// 4096 bytes apart: the processor compares the last 12 bits of addresses first.
template <int KIND, int ACT, int BLOCK>
void few(const Job& j, const View& v, const WbWeight& w, int panel, float* acc) {
  constexpr bool kTwo = ACT == WB_A16 && BLOCK == 64;
  constexpr int kLead = 3, kBehind = 2;
  const Panels<KIND, ACT, BLOCK, 1> all(j, v, w, panel, acc);
  alignas(4096) uint16_t buffer[4][kTwo ? 1024 : 512];
  alignas(64) float result[4][kPanel * kPanel];
  const char* at[4];
  Scales scale[8];
  for (int b = -kLead; b < v.blocks; ++b) {
    const int next = b + kLead;
    if (next < v.blocks) at[next & 3] = all.unpack(next, 0, buffer[next & 3], scale[next & 7]);
    if (b < 0) continue;
    const char* x = all.x(0, b);
    switch (b & 3) {
      case 0: WB_STEP(0); break;
      case 1: WB_STEP(1); break;
      case 2: WB_STEP(2); break;
      default: WB_STEP(3);
    }
    if (b >= kBehind)
      all.finish(result[(b - kBehind) & 3], 0, b - kBehind, 0, scale[(b - kBehind) & 7]);
  }
  for (int b = v.blocks < kBehind ? 0 : v.blocks - kBehind; b < v.blocks; ++b)
    all.finish(result[b & 3], 0, b, 0, scale[b & 7]);
}

// More rows: every block of weights stays in tiles 4 .. 7 for all row tiles. Same sums in the same order.
template <int KIND, int ACT, int BLOCK, int P>
void many(const Job& j, const View& v, const WbWeight& w, int panel, float* acc) {
  constexpr bool kTwo = ACT == WB_A16 && BLOCK == 64;
  const Panels<KIND, ACT, BLOCK, P> all(j, v, w, panel, acc);
  alignas(64) uint16_t buffer[2][P][BLOCK * kPanel];
  alignas(64) float result[2][P][kPanel * kPanel];
  const char* at[2][P];
  Scales scale[2][P];
  const int tiles = row_tiles(j);
  for (int p = 0; p < P; ++p) at[0][p] = all.unpack(0, p, buffer[0][p], scale[0][p]);
  for (int b = 0; b < v.blocks; ++b) {
    const int now = b & 1;
    WB_LOAD(4, at[now][0], 64);
    if (kTwo) WB_LOAD(5, at[now][0] + 1024, 64);
    if (P == 2) WB_LOAD(6, at[now][P - 1], 64);
    if (P == 2 && kTwo) WB_LOAD(7, at[now][P - 1] + 1024, 64);
    for (int t = 0; t < tiles; ++t) {
      const char* x = all.x(t, b);
      _tile_zero(0);
      if (P == 2) _tile_zero(1);
      WB_LOAD(2, x, 64);
      if (ACT == WB_A8) {
        _tile_dpbsud(0, 2, 4);
        if (P == 2) _tile_dpbsud(1, 2, 6);
      } else {
        _tile_dpbf16ps(0, 2, 4);
        if (P == 2) _tile_dpbf16ps(1, 2, 6);
        if (kTwo) {
          WB_LOAD(3, x + v.tile_bytes, 64);
          _tile_dpbf16ps(0, 3, 5);
          if (P == 2) _tile_dpbf16ps(1, 3, 7);
        }
      }
      _tile_stored(0, result[t & 1][0], 64);
      if (P == 2) _tile_stored(1, result[t & 1][P - 1], 64);
      if (t > 0)
        for (int p = 0; p < P; ++p) all.finish(result[(t - 1) & 1][p], p, b, t - 1, scale[now][p]);
    }
    if (b + 1 < v.blocks)
      for (int p = 0; p < P; ++p)
        at[1 - now][p] = all.unpack(b + 1, p, buffer[1 - now][p], scale[1 - now][p]);
    for (int p = 0; p < P; ++p) all.finish(result[(tiles - 1) & 1][p], p, b, tiles - 1, scale[now][p]);
  }
}

template <int KIND, int ACT, int BLOCK>
void panels(const Job& j, const WbProduct& product, int panel, int end) {
  const WbWeight& w = *product.weight;
  const View v = view(j);
  const int k_rows = ACT == WB_A8 ? BLOCK / 4 : 16;
  TileConfig config;
  for (int t = 0; t < 4; ++t) config.set(t, height(j), 64);
  for (int t = 4; t < 8; ++t) config.set(t, k_rows, 64);
  // Where x lies: tiles 4 and 5 for up to 16 rows, 2 and 3 for more.
  const int wide = ACT == WB_A8 ? BLOCK : 64, own = row_tiles(j) == 1 ? 4 : 2;
  config.set(own, height(j), wide);
  config.set(own + 1, height(j), wide);
  _tile_loadconfig(&config);
  float* acc = reinterpret_cast<float*>(scratch(1, static_cast<size_t>(v.rows) * 2 * kPanel * 4));
  const bool one = row_tiles(j) == 1;
  for (int two = 1; panel < end; panel += two) {
    two = !one && panel + 1 < end ? 2 : 1;
    std::memset(acc, 0, static_cast<size_t>(v.rows) * two * kPanel * 4);
    if (one) few<KIND, ACT, BLOCK>(j, v, w, panel, acc);
    else if (two == 2) many<KIND, ACT, BLOCK, 2>(j, v, w, panel, acc);
    else many<KIND, ACT, BLOCK, 1>(j, v, w, panel, acc);
    for (int p = 0; p < two; ++p)
      for (int r = 0; r < j.m; ++r) {
        const int column = (panel + p) * kPanel;
        put(product, j.first + r, column, w.rows - column < kPanel ? w.rows - column : kPanel,
            acc + (static_cast<size_t>(p) * v.rows + r) * kPanel);
      }
  }
  _tile_release();
}

// -- bfloat16 weights as they are ------------------------------------------------------------------

// `count` results of one tile [16 rows of W][16 rows of x].
void put_wide(const Job& j, const WbProduct& product, const float* tile, int row, int column) {
  const int rows = product.weight->rows - column < kPanel ? product.weight->rows - column : kPanel;
  alignas(64) float line[kPanel];
  for (int r = 0; r < kPanel && row + r < j.m; ++r) {
    for (int n = 0; n < rows; ++n) line[n] = tile[n * kPanel + r];
    put(product, j.first + row + r, column, rows, line);
  }
}

// 16 rows x 32 columns at the matrix's edge, with zeros outside.
void edge(const WbWeight& w, int row, int k, uint16_t* to) {
  std::memset(to, 0, 1024);
  const int columns = w.columns - k < 32 ? w.columns - k : 32;
  for (int n = 0; n < kPanel && row + n < w.rows; ++n)
    std::memcpy(to + n * 32, static_cast<const uint16_t*>(w.data) +
                static_cast<size_t>(row + n) * w.columns + k, columns * 2);
}

// Tiles: 0 .. 3 results (panel, row tile), 4, 5 weights, 6, 7 x.
template <int P, int M>
void wide_block(const Job& j, const View& v, const WbProduct& product, int panel, int tile) {
  const WbWeight& w = *product.weight;
  const int row = panel * kPanel;
  const size_t pitch = static_cast<size_t>(w.columns) * 2;
  const char* data = static_cast<const char*>(w.data) + row * pitch;
  alignas(64) uint16_t spare[2][512];
  const int whole = row + P * kPanel <= w.rows ? w.columns / 32 * 32 : 0;
  _tile_zero(0);
  if (M == 2) _tile_zero(1);
  if (P == 2) _tile_zero(2);
  if (P == 2 && M == 2) _tile_zero(3);
  for (int k = 0; k < j.padded; k += 32) {
    if (k < whole) {
      if (tile == 0 && k % 64 == 0)
        for (int n = 0; n < P * kPanel; ++n) {
          _mm_prefetch(data + n * pitch + k * 2 + 512, _MM_HINT_T1);
          _mm_prefetch(data + n * pitch + k * 2 + 576, _MM_HINT_T1);
        }
      WB_LOAD(4, data + k * 2, pitch);
      if (P == 2) WB_LOAD(5, data + kPanel * pitch + k * 2, pitch);
    } else {
      edge(w, row, k, spare[0]);
      WB_LOAD(4, spare[0], 64);
      if (P == 2) {
        edge(w, row + kPanel, k, spare[1]);
        WB_LOAD(5, spare[1], 64);
      }
    }
    const char* x = v.tiles + tile * v.row_tile + static_cast<size_t>(k / 32) * 1024;
    WB_LOAD(6, x, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (P == 2) _tile_dpbf16ps(2, 5, 6);
    if (M == 2) {
      WB_LOAD(7, x + v.row_tile, 64);
      _tile_dpbf16ps(1, 4, 7);
      if (P == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  alignas(64) float result[4][256];
  _tile_stored(0, result[0], 64);
  if (M == 2) _tile_stored(1, result[1], 64);
  if (P == 2) _tile_stored(2, result[2], 64);
  if (P == 2 && M == 2) _tile_stored(3, result[3], 64);
  for (int p = 0; p < P; ++p)
    for (int i = 0; i < M; ++i)
      put_wide(j, product, result[2 * p + i], (tile + i) * kPanel, row + p * kPanel);
}

void wide(const Job& j, const WbProduct& product, int panel, int end) {
  const View v = view(j);
  TileConfig config;
  const int across = height(j) * 4, tiles = row_tiles(j);
  for (int t = 0; t < 4; ++t) config.set(t, kPanel, across);
  for (int t = 4; t < 6; ++t) config.set(t, kPanel, 64);
  for (int t = 6; t < 8; ++t) config.set(t, kPanel, across);
  _tile_loadconfig(&config);
  for (; panel < end; panel += 2) {
    const bool two = panel + 1 < end;
    for (int t = 0; t < tiles; t += 2) {
      const bool more = t + 1 < tiles;
      if (two && more) wide_block<2, 2>(j, v, product, panel, t);
      else if (two) wide_block<2, 1>(j, v, product, panel, t);
      else if (more) wide_block<1, 2>(j, v, product, panel, t);
      else wide_block<1, 1>(j, v, product, panel, t);
    }
  }
  _tile_release();
}

template <int KIND>
void by_block(const Job& j, const WbProduct& p, int panel, int end) {
  const bool eight = p.weight->activations == WB_A8;
  if (block_of(*p.weight) == 64) {
    if (eight) panels<KIND, WB_A8, 64>(j, p, panel, end);
    else panels<KIND, WB_A16, 64>(j, p, panel, end);
  } else {
    if (eight) panels<KIND, WB_A8, 32>(j, p, panel, end);
    else panels<KIND, WB_A16, 32>(j, p, panel, end);
  }
}

void run(const Job& j, const WbProduct& p, int panel, int end) {
  if (p.weight->kind == WB_BF16) wide(j, p, panel, end);
  else if (p.weight->kind == WB_INT4) by_block<WB_INT4>(j, p, panel, end);
  else by_block<WB_INT8>(j, p, panel, end);
}

}  // namespace
}  // namespace wb

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace wb {

// The system saves the tiles of a thread only when the process asked for it (arch_prctl, Linux 5.16).
const Path* amx_path() {
  unsigned a = 7, b = 0, c = 0, d = 0;
  asm volatile("cpuid" : "+a"(a), "=b"(b), "+c"(c), "=d"(d));
  const bool unit = (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1) && (d >> 23 & 1);
  if (!unit || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
    return nullptr;
  constexpr long kAsk = 0x1023, kTiles = 18;
  if (syscall(SYS_arch_prctl, kAsk, kTiles) != 0) return nullptr;
  static const Path path = {"amx", bytes, units, prepare, run};
  return &path;
}

}  // namespace wb

#else
namespace wb {
const Path* amx_path() { return nullptr; }
}
#endif
