// Rows of x as integers, for the paths that multiply in integers. A part of amx.cpp and vnni.cpp.
//
// A block of columns shares one scale. With 8-bit activations that is its largest number over 127. With 16-bit
// activations it is a power of two: numbers within 1/128 of the block's largest are exact (a bfloat16 has 8
// bits), smaller ones are off by at most 2^-15 of it; each is 256 high + low, and both are rows of their own.
// Sums of integers are exact, so every path, tile and order gives the same bits.
#pragma once
#include <limits>

#include "parts.h"

namespace wb {
namespace {

const WbWeight& kind_of(const Job& j) { return *j.products->weight; }
int limbs_of(const WbWeight& w) { return w.kind != WB_BF16 && w.activations == WB_A16 ? 2 : 1; }
// Whether x stays bfloat16 and weights become it.
bool widened(const Job& j) { return j.prompt && kind_of(j).kind != WB_BF16; }
// Rows of x in a tile of 16 rows, when there are many, and here.
int most_rows(const Job& j) { return widened(j) ? kPanel : kPanel / limbs_of(kind_of(j)); }
int tile_rows(const Job& j) { return j.m < most_rows(j) && !widened(j) ? j.m : most_rows(j); }
int row_tiles(const Job& j) { return (j.m + most_rows(j) - 1) / most_rows(j); }

// Prepared x. bf16 weights: tiles [row tile][k / 32][16 pairs of k][16 rows][2]. Rows of a prompt: tiles
// [row tile][k / 32][16 rows][32]. Panels: tiles
// [row tile][block][limb, high first][tile_rows][64 bytes], then int32 sums [block][rows], then float scales
// [block][rows].
struct View {
  char* tiles;
  float* sums;  // of a block's numbers
  float* scales;
  int rows, blocks, block;
  size_t tile_bytes, row_tile;  // of one block, of one row tile
};

View view(const Job& j) {
  const WbWeight& w = kind_of(j);
  View v = {j.prepared, nullptr, nullptr, row_tiles(j) * tile_rows(j), 0, 0, 1024, 0};
  if (w.kind == WB_BF16 || widened(j)) {
    v.row_tile = static_cast<size_t>(j.padded / 32) * 1024;
    return v;
  }
  v.block = block_of(w);
  v.blocks = j.padded / v.block;
  v.tile_bytes = static_cast<size_t>(tile_rows(j) * limbs_of(w)) * 64;
  v.row_tile = v.blocks * v.tile_bytes;
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

// put() in vectors.
__attribute__((always_inline)) inline void put16(const WbProduct& p, int row, int column, int count, __m512 v) {
  const __mmask16 mask = count >= kPanel ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
  const size_t at = static_cast<size_t>(row) * p.weight->rows + column;
  if (p.bias) v = _mm512_add_ps(v, _mm512_maskz_loadu_ps(mask, p.bias + column));
  if (!p.y_bf16) return _mm512_mask_storeu_ps(static_cast<float*>(p.y) + at, mask, v);
  const __m512i u = _mm512_castps_si512(v), high = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
  const __m512i near = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i all = _mm512_mask_or_epi32(near, nan, high, _mm512_set1_epi32(0x40));
  _mm256_mask_storeu_epi16(static_cast<uint16_t*>(p.y) + at, mask, _mm512_cvtepi32_epi16(all));
}

inline __mmask16 below(int n) {
  return n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<__mmask16>((1u << n) - 1);
}

// 16384 over the power of two above `most`, and its inverse.
inline void binary_scale(float most, float& inverse, float& scale) {
  uint32_t u;
  std::memcpy(&u, &most, 4);
  int exponent = static_cast<int>(u >> 23) + 1;  // of the power of two above, biased
  exponent = exponent < 15 ? 15 : exponent > 253 ? 253 : exponent;  // smaller numbers become zero
  const uint32_t up = static_cast<uint32_t>(254 - exponent + 14) << 23;
  const uint32_t down = static_cast<uint32_t>(exponent - 14) << 23;
  std::memcpy(&inverse, &up, 4);
  std::memcpy(&scale, &down, 4);
}

// One row's tiles, scales and sums, in the order in which the packed bytes have columns.
void prepare_row(const Job& j, const View& v, const uint16_t* x, int tile, int i, int row) {
  const WbWeight& w = kind_of(j);
  const bool two = limbs_of(w) == 2;
  // Within eight columns: 0 4 1 5 2 6 3 7 for nibbles, 0 2 1 3 4 6 5 7 for bytes.
  const __m512i order = _mm512_broadcast_i32x4(
      w.kind == WB_INT4 ? _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15)
                        : _mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15));
  const int parts = v.block / 16;
  char* to = v.tiles + tile * v.row_tile + i * 64;
  for (int b = 0; b < v.blocks; ++b, to += v.tile_bytes) {
    __m512 f[4], most = _mm512_setzero_ps();
    __mmask16 odd = 0;
    for (int c = 0; c < parts; ++c) {
      const int k = b * v.block + c * 16;
      f[c] = x ? load_bf16(x + k, below(w.columns - k)) : _mm512_setzero_ps();
      most = _mm512_max_ps(most, _mm512_abs_ps(f[c]));
      odd |= _mm512_fpclass_ps_mask(f[c], 0x99);  // not a number, infinite
    }
    const float largest = odd ? 0.0f : _mm512_reduce_max_ps(most);
    float inverse = largest > 0 ? 127.0f / largest : 0.0f, scale = largest / 127.0f;
    if (two) binary_scale(largest, inverse, scale);
    if (odd) scale = std::numeric_limits<float>::quiet_NaN();
    __m512i total = _mm512_setzero_si512(), high = total, low = total;
    for (int c = 0; c < parts; ++c) {
      const __m512i n = _mm512_cvtps_epi32(_mm512_mul_ps(f[c], _mm512_set1_ps(inverse)));
      total = _mm512_add_epi32(total, n);
      const __m512i h = two ? _mm512_srai_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(128)), 8) : n;
      const __m128i h8 = _mm512_cvtepi32_epi8(h), l8 = _mm512_cvtepi32_epi8(n);
      switch (c) {  // an immediate is asked for
        case 0: high = _mm512_inserti32x4(high, h8, 0); low = _mm512_inserti32x4(low, l8, 0); break;
        case 1: high = _mm512_inserti32x4(high, h8, 1); low = _mm512_inserti32x4(low, l8, 1); break;
        case 2: high = _mm512_inserti32x4(high, h8, 2); low = _mm512_inserti32x4(low, l8, 2); break;
        default: high = _mm512_inserti32x4(high, h8, 3); low = _mm512_inserti32x4(low, l8, 3);
      }
    }
    _mm512_storeu_si512(to, _mm512_shuffle_epi8(high, order));
    if (two) _mm512_storeu_si512(to + v.tile_bytes / 2, _mm512_shuffle_epi8(low, order));
    v.scales[static_cast<size_t>(b) * v.rows + row] = scale;
    v.sums[static_cast<size_t>(b) * v.rows + row] =
        scale * static_cast<float>(_mm512_reduce_add_epi32(total));
  }
}

// All rows of one row tile of panels.
void prepare_tile(const Job& j, int tile) {
  const View v = view(j);
  for (int i = 0; i < tile_rows(j); ++i) {
    const int row = tile * tile_rows(j) + i;
    prepare_row(j, v, row < j.m ? j.x + static_cast<size_t>(row) * kind_of(j).columns : nullptr, tile, i,
                row);
  }
}

}  // namespace
}  // namespace wb
