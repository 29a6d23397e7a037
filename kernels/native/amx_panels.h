// Products of panels: bytes times the integers of x, summed by their scales block by block. The way of rows that are
// decoded or verified; a prompt's go amx_prompt.h's. A part of amx.cpp.
#pragma once
#include "amx_tiles.h"
#include "unpack.h"

namespace wb {
namespace {

// One panel, block by block.
template <int KIND, int LIMBS, int BLOCK>
struct Panel {
  const size_t block_bytes;  // of a block
  const WbWeight& w;
  const View& v;
  int panel, rows;  // `rows` of x in a tile
  const char* data;
  float* acc;

  Panel(const Job& j, const View& view, const WbWeight& weight, int first, float* sums)
      : block_bytes(static_cast<size_t>(BLOCK) * 2 * code_bits(weight)), w(weight), v(view), panel(first), rows(tile_rows(j)),
        data(static_cast<const char*>(weight.data) + panel_bytes(weight) * first), acc(sums) {}

  // Block b to a tile at `to`; returns where it is (packed bytes are one already).
  inline const char* unpack(int b, char* to, Scales& scale) const {
    const char* from = data + b * block_bytes;
    for (size_t line = 0; line < block_bytes; line += 64) {
      _mm_prefetch(from + kFar + line, _MM_HINT_T1);
      _mm_prefetch(from + kNear + line, _MM_HINT_T0);
    }
    scale = block_scale(w, scales_of(w, panel), b * BLOCK);
    if (KIND == WB_INT8) return from;
    if (KIND == WB_FIELDS) {
      spread<BLOCK>(w, from, to);
      return to;
    }
    for (size_t line = 0; line < block_bytes; line += 64) {
      const Nibbles n = split(from + line);
      _mm512_store_si512(to + 2 * line, n.low);
      _mm512_store_si512(to + 2 * line + 64, n.high);
    }
    return to;
  }

  // acc [rows][16] += the results of one row tile.
  inline void finish(const int32_t (*result)[kPanel * kPanel], int b, int tile, const Scales& scale) const {
    constexpr int kAll = kPanel / LIMBS;
    if (rows == kAll) add<kAll>(result, b, tile, scale, kAll);
    else add<1>(result, b, tile, scale, rows);
  }

  // `count` rows, a multiple of STEP.
  template <int STEP>
  inline void add(const int32_t (*result)[kPanel * kPanel], int b, int tile, const Scales& scale,
                  int count) const {
    const float* sums = v.sums(tile, b);
    const float* scales = sums + v.tile_rows;
    const int32_t* from = result[0];
    float* to = acc + static_cast<size_t>(tile) * rows * kPanel;
    const int low = (LIMBS - 1) * count * kPanel;
    for (int r = 0; r < count; r += STEP)
#pragma GCC unroll 16
      for (int i = 0; i < STEP; ++i) {
        const int o = (r + i) * kPanel;
        _mm512_store_ps(to + o, add_block<LIMBS>(_mm512_load_ps(to + o), _mm512_load_si512(from + o),
                                                 _mm512_load_si512(from + low + o), scale,
                                                 _mm512_set1_ps(sums[r + i]), _mm512_set1_ps(scales[r + i])));
      }
  }

  const char* x(int tile, int b) const { return v.tiles + tile * v.row_tile + b * v.tile_bytes; }
};

// One block times one or two row tiles. C, D: results; x in tiles 4 and 5, weights in 6.
#define WB_STEP(C, D)                                      \
  WB_LOAD(6, at[b & 3], 64);                               \
  _tile_zero(C);                                           \
  WB_LOAD(4, all.x(0, b), 64);                             \
  _tile_dpbsud(C, 4, 6);                                   \
  if (T == 2) {                                            \
    _tile_zero(D);                                         \
    WB_LOAD(5, all.x(1, b), 64);                           \
    _tile_dpbsud(D, 5, 6);                                 \
  }                                                        \
  _tile_stored(C, result[b & 3][0], 64);                   \
  if (T == 2) _tile_stored(D, result[b & 3][T - 1], 64)

// One or two row tiles, one panel. Unpacking runs ahead of the products and their sums behind, because a tile
// cannot be loaded from stores that are still on their way.
template <int KIND, int LIMBS, int BLOCK, int T>
void few(const Job& j, const View& v, const WbWeight& w, int panel, float* acc) {
  constexpr int kLead = 3, kBehind = 2;
  const Panel<KIND, LIMBS, BLOCK> all(j, v, w, panel, acc);
  alignas(64) char buffer[4][1024];
  alignas(64) int32_t result[4][T][kPanel * kPanel];
  const char* at[4];
  Scales scale[8];
  for (int b = -kLead; b < v.blocks + kBehind; ++b) {
    const int next = b + kLead, last = b - kBehind;
    if (next < v.blocks) at[next & 3] = all.unpack(next, buffer[next & 3], scale[next & 7]);
    if (b >= 0 && b < v.blocks) {
      if (b & 1) {
        WB_STEP(0, 1);
      } else {
        WB_STEP(2, 3);
      }
    }
    if (last >= 0)
      for (int t = 0; t < T; ++t) all.finish(&result[last & 3][t], last, t, scale[last & 7]);
  }
}

// Block b of a row tile times P panels, and the results of the block before it to memory: in C (panel 0) and D (1).
#define WB_MULTIPLY(C, D, X, W)                       \
  WB_LOAD(X, x + b * v.tile_bytes, 64);               \
  WB_LOAD(W, tiles + b * P * kBytes, 64);             \
  _tile_zero(C);                                      \
  _tile_dpbsud(C, X, W);                              \
  if (P == 2) {                                       \
    WB_LOAD(W, tiles + (b * P + 1) * kBytes, 64);     \
    _tile_zero(D);                                    \
    _tile_dpbsud(D, X, W);                            \
  }
#define WB_KEEP(C, D, B)                              \
  _tile_stored(C, result[B][0], 64);                  \
  if (P == 2) _tile_stored(D, result[B][P - 1], 64)

// More rows. Columns come in spans: the weights of a span, unpacked, and its results stay in the first-level cache, and
// the x of a span in the second for all panels. First all products of a span, then all sums: while the matrix unit
// works, vectors multiply at half their speed.
template <int KIND, int LIMBS, int BLOCK, int P>
struct Many {
  static constexpr int kRows = kPanel / LIMBS, kBytes = BLOCK * kPanel, kSpan = 8;  // kSpan: blocks
  const View v;
  const WbWeight& w;
  alignas(4096) char tiles[kSpan * P * kBytes];
  alignas(4096) int32_t result[kSpan][P][kPanel * kPanel];
  alignas(64) float scale[kSpan][P][2][kPanel];  // of weights, and what is added to them

  Many(const Job& j, const WbWeight& weight) : v(view(j)), w(weight) {}

  void unpack(int panel, int first, int count) {
    const size_t block_bytes = static_cast<size_t>(BLOCK) * 2 * code_bits(w);
    for (int p = 0; p < P; ++p) {
      const char* scales = scales_of(w, panel + p);
      const char* from = static_cast<const char*>(w.data) + panel_bytes(w) * (panel + p) + block_bytes * first;
      for (int b = 0; b < count; ++b, from += block_bytes) {
        char* to = tiles + (b * P + p) * kBytes;
        const Scales s = block_scale(w, scales, (first + b) * BLOCK);
        _mm512_store_ps(scale[b][p][0], s.s);
        _mm512_store_ps(scale[b][p][1], s.o);
        if (KIND == WB_INT8) {
#pragma GCC unroll 16
          for (int line = 0; line < kBytes; line += 64) _mm512_store_si512(to + line, _mm512_loadu_si512(from + line));
        } else if (KIND == WB_FIELDS) {
          spread<BLOCK>(w, from, to);
        } else {
#pragma GCC unroll 8
          for (int line = 0; line < kBytes / 2; line += 64) {
            const Nibbles n = split(from + line);
            _mm512_store_si512(to + 2 * line, n.low);
            _mm512_store_si512(to + 2 * line + 64, n.high);
          }
        }
      }
    }
  }

  void multiply(const char* x, int count) {
    for (int b = 0; b <= count; ++b) {
      if (b & 1) {
        if (b < count) { WB_MULTIPLY(2, 3, 6, 7); }
        WB_KEEP(0, 1, b - 1);
      } else {
        if (b < count) { WB_MULTIPLY(0, 1, 4, 5); }
        if (b) { WB_KEEP(2, 3, b - 1); }
      }
    }
  }

  // to [16 / LIMBS rows][16] += the results of panels p .. p + Q.
  template <int Q>
  void add(int p, int count, const float* sums, float* to, size_t apart, bool fresh) const {
    __m512 acc[Q][kRows];
#pragma GCC unroll 2
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r)
        acc[q][r] = fresh ? _mm512_setzero_ps() : _mm512_load_ps(to + q * apart + r * kPanel);
    for (int b = 0; b < count; ++b, sums += 2 * kRows) {
      const Scales one = {_mm512_load_ps(scale[b][p][0]), _mm512_load_ps(scale[b][p][1])};
      const Scales two = {_mm512_load_ps(scale[b][p + Q - 1][0]), _mm512_load_ps(scale[b][p + Q - 1][1])};
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) {
        const __m512 sum = _mm512_set1_ps(sums[r]), own = _mm512_set1_ps(sums[kRows + r]);
        const int32_t* from = result[b][p] + r * kPanel;
        constexpr int kLow = (LIMBS - 1) * kRows * kPanel;
        acc[0][r] = add_block<LIMBS>(acc[0][r], _mm512_load_si512(from), _mm512_load_si512(from + kLow), one, sum, own);
        if (Q == 2) {
          from += kPanel * kPanel;
          acc[Q - 1][r] = add_block<LIMBS>(acc[Q - 1][r], _mm512_load_si512(from), _mm512_load_si512(from + kLow), two, sum, own);
        }
      }
    }
#pragma GCC unroll 2
    for (int q = 0; q < Q; ++q)
#pragma GCC unroll 16
      for (int r = 0; r < kRows; ++r) _mm512_store_ps(to + q * apart + r * kPanel, acc[q][r]);
  }

  // to [P][all rows][16] += row tile t times blocks first .. first + count.
  void row_tile(int t, int first, int count, float* to) {
    multiply(v.tiles + t * v.row_tile + first * v.tile_bytes, count);
    const size_t apart = static_cast<size_t>(v.rows) * kPanel;
    const float* sums = v.sums(t, first);
    to += static_cast<size_t>(t) * kRows * kPanel;
    if (LIMBS == 2) return add<P>(0, count, sums, to, apart, first == 0);
    for (int p = 0; p < P; ++p) add<1>(p, count, sums, to + p * apart, apart, first == 0);
  }

  void run(const Job& j, const WbProduct& product, int panel, int end) {
    TileConfig config;
    for (int t = 0; t < 4; ++t) config.set(t, kPanel, 64);
    for (int t = 4; t < 8; ++t) {
      if (t & 1) config.set(t, BLOCK / 4, 64);
      else config.set(t, kPanel, BLOCK);
    }
    _tile_loadconfig(&config);
    const size_t apart = static_cast<size_t>(v.rows) * kPanel;
    float* sums = reinterpret_cast<float*>(scratch(1, static_cast<size_t>(end - panel) * apart * 4));
    const int tall = row_tiles(j);
    for (int first = 0; first < v.blocks; first += kSpan) {
      const int count = v.blocks - first < kSpan ? v.blocks - first : kSpan;
      for (int p = panel; p < end; p += P) {
        unpack(p, first, count);
        for (int t = 0; t < tall; ++t) row_tile(t, first, count, sums + (p - panel) * apart);
      }
    }
    _tile_release();
    for (int r = 0; r < j.m; ++r)
      for (int p = panel; p < end; ++p) {
        const int column = p * kPanel;
        put16(product, j.first + r, column, w.rows - column, _mm512_load_ps(sums + (p - panel) * apart + r * kPanel));
      }
  }
};

template <int KIND, int LIMBS, int BLOCK>
void panels(const Job& j, const WbProduct& product, int panel, int end) {
  const WbWeight& w = *product.weight;
  if (row_tiles(j) > 2) {
    const int even = (end - panel) / 2 * 2;
    if (even) Many<KIND, LIMBS, BLOCK, 2>(j, w).run(j, product, panel, panel + even);
    if (panel + even < end) Many<KIND, LIMBS, BLOCK, 1>(j, w).run(j, product, panel + even, end);
    return;
  }
  const View v = view(j);
  TileConfig config;
  const int height = tile_rows(j) * LIMBS;
  for (int t = 0; t < 4; ++t) config.set(t, height, 64);
  for (int t = 4; t < 8; ++t) config.set(t, BLOCK / 4, 64);
  config.set(5, height, BLOCK);
  config.set(4, height, BLOCK);
  _tile_loadconfig(&config);
  float* acc = reinterpret_cast<float*>(scratch(1, static_cast<size_t>(v.rows) * kPanel * 4));
  for (; panel < end; ++panel) {
    std::memset(acc, 0, static_cast<size_t>(v.rows) * kPanel * 4);
    if (row_tiles(j) == 1) few<KIND, LIMBS, BLOCK, 1>(j, v, w, panel, acc);
    else few<KIND, LIMBS, BLOCK, 2>(j, v, w, panel, acc);
    for (int r = 0; r < j.m; ++r)
      put16(product, j.first + r, panel * kPanel, w.rows - panel * kPanel, _mm512_load_ps(acc + r * kPanel));
  }
  _tile_release();
}

}  // namespace
}  // namespace wb
