// Products of sparse weights: a strip of columns is filled in beside the tiles that multiply it, so that the zeros
// exist in the first-level cache only. The same tiles in the same order as amx_wide.h: the same bits.
// A part of amx.cpp.
#pragma once
#include "amx_wide.h"

namespace wb {
namespace {

constexpr int kStrip = 8;  // tiles of 32 columns: 8 KiB a panel

// Where each row of up to two panels is.
struct Rows {
  const uint32_t* masks[2 * kPanel];
  const uint16_t* values[2 * kPanel];
};

// `tiles` tiles of `count` rows from word `word` on: [tile][16 rows][32 columns]; rows beyond are zero already.
void fill_strip(Rows& rows, int first, int count, int word, int tiles, char* to) {
  for (int r = 0; r < count; ++r) {
    const uint32_t* masks = rows.masks[first + r] + word;
    const uint16_t* values = rows.values[first + r];
    char* line = to + r * 64;
    for (int t = 0; t < tiles; ++t, line += 1024) {
      const uint32_t mask = masks[t];
      _mm512_store_si512(line, _mm512_maskz_expand_epi16(mask, _mm512_loadu_si512(values)));
      values += _mm_popcnt_u32(mask);
    }
    rows.values[first + r] = values;
  }
}

// Memory that the next panels will need, in equal shares: thirty-two rows at once are more streams than the
// processor's own prefetcher follows.
struct Ahead {
  const char *from, *end;
  size_t step;

  Ahead(const void* a, const void* b, int shares)
      : from(static_cast<const char*>(a)), end(static_cast<const char*>(b)),
        step(static_cast<size_t>(end - from) / shares + 64) {}
  void next() {
    const char* to = from + step < end ? from + step : end;
    for (; from < to; from += 64) _mm_prefetch(from, _MM_HINT_T1);
  }
};

template <int P, int M>
void sparse_block(const Job& j, const View& v, const WbWeight& w, const WbProduct& product, int panel) {
  alignas(64) char filled[P][kStrip * 1024];
  const int words = (w.columns + 31) / 32, row = panel * kPanel;
  const uint32_t* starts = static_cast<const uint32_t*>(w.scales);
  const uint32_t* masks = starts + w.rows + 1;
  int count[2] = {0, 0};
  Rows rows;
  for (int p = 0; p < P; ++p) {
    const int left = w.rows - row - p * kPanel;
    count[p] = left < kPanel ? left : kPanel;
    if (count[p] < kPanel) std::memset(filled[p], 0, sizeof filled[p]);
    for (int r = 0; r < count[p]; ++r) {
      const size_t n = static_cast<size_t>(row) + p * kPanel + r;
      rows.masks[p * kPanel + r] = masks + n * words;
      rows.values[p * kPanel + r] = static_cast<const uint16_t*>(w.data) + starts[n];
    }
  }
  const int after = row + P * kPanel < w.rows ? row + P * kPanel : w.rows;
  const int last = after + P * kPanel < w.rows ? after + P * kPanel : w.rows;
  const uint16_t* values = static_cast<const uint16_t*>(w.data);
  const int strips = (words + kStrip - 1) / kStrip;
  Ahead numbers(values + starts[after], values + starts[last], strips);
  Ahead bits(masks + static_cast<size_t>(after) * words, masks + static_cast<size_t>(last) * words, strips);
  _tile_zero(0);
  if (M == 2) _tile_zero(1);
  if (P == 2) _tile_zero(2);
  if (P == 2 && M == 2) _tile_zero(3);
  for (int word = 0; word < words; word += kStrip) {
    const int tiles = words - word < kStrip ? words - word : kStrip;
    numbers.next();
    bits.next();
    for (int p = 0; p < P; ++p) fill_strip(rows, p * kPanel, count[p], word, tiles, filled[p]);
    for (int t = 0; t < tiles; ++t) {
      WB_LOAD(4, filled[0] + t * 1024, 64);
      if (P == 2) WB_LOAD(5, filled[P - 1] + t * 1024, 64);
      const char* x = v.tiles + static_cast<size_t>(word + t) * 1024;
      WB_LOAD(6, x, 64);
      _tile_dpbf16ps(0, 4, 6);
      if (P == 2) _tile_dpbf16ps(2, 5, 6);
      if (M == 2) {
        WB_LOAD(7, x + v.row_tile, 64);
        _tile_dpbf16ps(1, 4, 7);
        if (P == 2) _tile_dpbf16ps(3, 5, 7);
      }
    }
  }
  alignas(64) float result[4][256];
  _tile_stored(0, result[0], 64);
  if (M == 2) _tile_stored(1, result[1], 64);
  if (P == 2) _tile_stored(2, result[2], 64);
  if (P == 2 && M == 2) _tile_stored(3, result[3], 64);
  for (int p = 0; p < P; ++p)
    for (int i = 0; i < M; ++i)
      put_wide(j, product, result[2 * p + i], i * kPanel, row + p * kPanel);
}

// Up to 32 rows of x; more are worth a whole panel filled in once (linear.cpp does that).
bool sparse(const Job& j, const WbWeight& w, const WbProduct& product, int panel, int end) {
  if (row_tiles(j) > 2) return false;
  const View v = view(j);
  TileConfig config;
  const int across = tile_rows(j) * 4;
  const bool more = row_tiles(j) > 1;
  for (int t = 0; t < 4; ++t) config.set(t, kPanel, across);
  for (int t = 4; t < 6; ++t) config.set(t, kPanel, 64);
  for (int t = 6; t < 8; ++t) config.set(t, kPanel, across);
  _tile_loadconfig(&config);
  for (; panel < end; panel += 2) {
    const bool two = panel + 1 < end;
    if (two && more) sparse_block<2, 2>(j, v, w, product, panel);
    else if (two) sparse_block<2, 1>(j, v, w, product, panel);
    else if (more) sparse_block<1, 2>(j, v, w, product, panel);
    else sparse_block<1, 1>(j, v, w, product, panel);
  }
  _tile_release();
  return true;
}

}  // namespace
}  // namespace wb
