// The matrix unit's tiles. A part of amx.cpp.
#pragma once
#include "rows.h"
#include "transpose.h"

namespace wb {
namespace {

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

// Sixteen rows of x as tiles [columns / 32][16 pairs of columns][16 rows].
void prepare_wide(const Job& j, const View& v, int tile) {
  const int columns = kind_of(j).columns;
  char* out = v.tiles + tile * v.row_tile;
  for (int k = 0; k < j.padded; k += 32, out += 1024) {
    const int left = columns - k;
    const __mmask32 mask = left >= 32 ? ~0u : (1u << left) - 1;
    __m512i m[16];
#pragma GCC unroll 16
    for (int i = 0; i < kPanel; ++i) {
      const int row = tile * kPanel + i;
      m[i] = row < j.m ? _mm512_maskz_loadu_epi16(mask, j.x + static_cast<size_t>(row) * columns + k)
                       : _mm512_setzero_si512();
    }
    transpose(m);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(out + i * 64, m[i]);
  }
}

// Sixteen rows of x as tiles [columns / 32][16 rows][32].
void prepare_prompt(const Job& j, const View& v, int tile) {
  const int columns = kind_of(j).columns;
  char* out = v.tiles + tile * v.row_tile;
  for (int i = 0; i < kPanel; ++i) {
    const int row = tile * kPanel + i;
    const uint16_t* x = j.x + static_cast<size_t>(row) * columns;
    for (int k = 0; k < j.padded; k += 32) {
      const int left = row < j.m ? columns - k : 0;
      const __mmask32 mask = left >= 32 ? ~0u : left > 0 ? (1u << left) - 1 : 0;
      _mm512_store_si512(out + k / 32 * 1024 + i * 64, _mm512_maskz_loadu_epi16(mask, x + k));
    }
  }
}

void prepare(const Job& j, int tile) {
  if (widened(j)) prepare_prompt(j, view(j), tile);
  else if (kind_of(j).kind == WB_BF16) prepare_wide(j, view(j), tile);
  else prepare_tile(j, tile);
}

}  // namespace
}  // namespace wb
