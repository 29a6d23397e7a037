// The matrix unit's tiles. A part of amx.cpp.
#pragma once
#include "rows.h"

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

void prepare(const Job& j, int tile) {
  if (kind_of(j).kind == WB_BF16) prepare_wide(j, view(j), tile);
  else prepare_tile(j, tile);
}

}  // namespace
}  // namespace wb
