// Products of row-major bfloat16 weights, read as tiles where they lie. A part of amx.cpp.
#pragma once
#include "amx_tiles.h"

namespace wb {
namespace {

// -- bfloat16 weights as they are ------------------------------------------------------------------

// The results of one tile [16 rows of W][16 rows of x].
void put_wide(const Job& j, const WbProduct& product, const float* tile, int row, int column) {
  const int rows = product.weight->rows - column < kPanel ? product.weight->rows - column : kPanel;
  __m512i m[16];
#pragma GCC unroll 16
  for (int n = 0; n < kPanel; ++n) m[n] = _mm512_load_si512(tile + n * kPanel);
  transpose(m);
#pragma GCC unroll 16
  for (int r = 0; r < kPanel; ++r)
    if (row + r < j.m) put16(product, j.first + row + r, column, rows, _mm512_castsi512_ps(m[r]));
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

// Columns that are multiplied in a row: two panels of them (16 KiB) stay in the first-level cache beside the x that
// streams by. Columns that are gathered together: whole pages of most matrices, and with 256 rows of x (1 MiB) not
// more than the second-level cache holds.
constexpr int kWideBlock = 256, kWideSpan = 2048;

// `steps` times 32 columns of P panels as tiles [step][panel], one after the other: rows that lie a matrix row apart
// would fight for the same cache sets. Eight lines of a row at a time, so that few pages are open. Prefetching the next
// panels between products was slower: it holds the buffers that x needs.
template <int P>
void gather_wide(const WbWeight& w, int row, int k, int steps, char* to) {
  constexpr int kTogether = 8;
  const int whole = row + P * kPanel > w.rows ? 0 : (w.columns - k) / 32 < steps ? (w.columns - k) / 32 : steps;
  const size_t pitch = static_cast<size_t>(w.columns) * 2;
  const char* data = static_cast<const char*>(w.data) + row * pitch + static_cast<size_t>(k) * 2;
  for (int s = 0; s < whole; s += kTogether) {
    const int count = whole - s < kTogether ? whole - s : kTogether;
    for (int r = 0; r < P * kPanel; ++r) {
      const char* from = data + r * pitch + s * 64;
      char* tile = to + s * P * 1024 + r * 64;
      for (int i = 0; i < count; ++i) _mm512_store_si512(tile + i * P * 1024, _mm512_loadu_si512(from + i * 64));
    }
  }
  for (int s = whole; s < steps; ++s)
    for (int p = 0; p < P; ++p)
      edge(w, row + p * kPanel, k + s * 32, reinterpret_cast<uint16_t*>(to + (s * P + p) * 1024));
}

// One or two row tiles times one or two panels: sums [panel][16 rows of W][16 rows of x] += `steps` tiles of each.
template <int P, int M>
inline void wide_step(const char* weights, const char* x, size_t next, int steps, float* sums, size_t apart, bool first) {
  if (first) {
    _tile_zero(0);
    if (M == 2) _tile_zero(1);
    if (P == 2) _tile_zero(2);
    if (P == 2 && M == 2) _tile_zero(3);
  } else {
    WB_LOAD(0, sums, 64);
    if (M == 2) WB_LOAD(1, sums + 256, 64);
    if (P == 2) WB_LOAD(2, sums + apart, 64);
    if (P == 2 && M == 2) WB_LOAD(3, sums + apart + 256, 64);
  }
  for (int s = 0; s < steps; ++s, weights += P * 1024, x += 1024) {
    WB_LOAD(4, weights, 64);
    WB_LOAD(6, x, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (P == 2) {
      WB_LOAD(5, weights + 1024, 64);
      _tile_dpbf16ps(2, 5, 6);
    }
    if (M == 2) {
      WB_LOAD(7, x + next, 64);
      _tile_dpbf16ps(1, 4, 7);
      if (P == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 64);
  if (M == 2) _tile_stored(1, sums + 256, 64);
  if (P == 2) _tile_stored(2, sums + apart, 64);
  if (P == 2 && M == 2) _tile_stored(3, sums + apart + 256, 64);
}

template <int P>
void wide_pair(const Job& j, const View& v, const WbWeight& w, int panel, int k, float* sums) {
  const int all = (j.padded - k < kWideSpan ? j.padded - k : kWideSpan) / 32, tiles = row_tiles(j);
  char* weights = scratch(2, static_cast<size_t>(kWideSpan / 32) * 2 * 1024);
  gather_wide<P>(w, panel * kPanel, k, all, weights);
  const size_t apart = static_cast<size_t>(tiles) * 256;
  for (int done = 0; done < all; done += kWideBlock / 32) {
    const int steps = all - done < kWideBlock / 32 ? all - done : kWideBlock / 32;
    const char* from = weights + static_cast<size_t>(done) * P * 1024;
    const char* x = v.tiles + static_cast<size_t>(k / 32 + done) * 1024;
    for (int t = 0; t < tiles; t += 2) {
      float* to = sums + static_cast<size_t>(t) * 256;
      const bool first = k + done == 0;
      if (t + 1 < tiles) wide_step<P, 2>(from, x + t * v.row_tile, v.row_tile, steps, to, apart, first);
      else wide_step<P, 1>(from, x + t * v.row_tile, v.row_tile, steps, to, apart, first);
    }
  }
}

// Many rows: columns in blocks, so that a block of x comes from the second-level cache for all panels. Sums rest in
// memory meanwhile; a float32 that rests there keeps its bits.
void wide_many(const Job& j, const WbProduct& product, int panel, int end) {
  const WbWeight& w = *product.weight;
  const View v = view(j);
  const int tiles = row_tiles(j);
  const size_t apart = static_cast<size_t>(tiles) * 256;
  float* sums = reinterpret_cast<float*>(scratch(1, static_cast<size_t>(end - panel) * apart * 4));
  for (int k = 0; k < j.padded; k += kWideSpan)
    for (int p = panel; p < end; p += 2) {
      float* to = sums + (p - panel) * apart;
      if (p + 1 < end) wide_pair<2>(j, v, w, p, k, to);
      else wide_pair<1>(j, v, w, p, k, to);
    }
  for (int t = 0; t < tiles; ++t)
    for (int p = panel; p < end; ++p)
      put_wide(j, product, sums + (p - panel) * apart + t * 256, t * kPanel, p * kPanel);
}

void wide(const Job& j, const WbProduct& product, int panel, int end) {
  const View v = view(j);
  TileConfig config;
  const int across = tile_rows(j) * 4, tiles = row_tiles(j);
  for (int t = 0; t < 4; ++t) config.set(t, kPanel, across);
  for (int t = 4; t < 6; ++t) config.set(t, kPanel, 64);
  for (int t = 6; t < 8; ++t) config.set(t, kPanel, across);
  _tile_loadconfig(&config);
  if (tiles > 2) {
    wide_many(j, product, panel, end);
    return _tile_release();
  }
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
