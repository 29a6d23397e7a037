// Rows of x as the matrix unit wants them. A part of amx.cpp, compiled for its target only.
#pragma once
#include "parts.h"

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

}  // namespace
}  // namespace wb
