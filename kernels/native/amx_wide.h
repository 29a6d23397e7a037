// Products of row-major bfloat16 weights, read as tiles where they lie. A part of amx.cpp.
#pragma once
#include "amx_tiles.h"

namespace wb {
namespace {

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
  const int across = tile_rows(j) * 4, tiles = row_tiles(j);
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

}  // namespace
}  // namespace wb
