// Products of panels: bytes times the integers of x, summed by their scales block by block. The way of rows that are
// decoded or verified; a prompt's go amx_prompt.h's. A part of amx.cpp.
#pragma once
#include "amx_tiles.h"
#include "unpack.h"

namespace wb {
namespace {

// What the kernels below share: one or two neighbouring panels, block by block.
template <int KIND, int LIMBS, int BLOCK, int P>
struct Panels {
  const size_t block_bytes;  // of a block
  const WbWeight& w;
  const View& v;
  int panel, rows;  // `rows` of x in a tile
  size_t stride;
  const char* data;
  float* acc;

  Panels(const Job& j, const View& view, const WbWeight& weight, int first, float* sums)
      : block_bytes(static_cast<size_t>(BLOCK) * 2 * code_bits(weight)), w(weight), v(view), panel(first), rows(tile_rows(j)), stride(panel_bytes(weight)),
        data(static_cast<const char*>(weight.data) + stride * first), acc(sums) {}

  // Block b of panel p to a tile at `to`; returns where it is (packed bytes are one already).
  inline const char* unpack(int b, int p, char* to, Scales& scale) const {
    const size_t at = b * block_bytes;
    const char* from = data + p * stride;
    // The end of one panel asks for the beginning of the one that is read next.
    const size_t far = at + kFar < stride ? at + kFar : at + kFar + (P - 1) * stride;
    const size_t near = at + kNear < stride ? at + kNear : at + kNear + (P - 1) * stride;
    for (size_t line = 0; line < block_bytes; line += 64) {
      _mm_prefetch(from + far + line, _MM_HINT_T1);
      _mm_prefetch(from + near + line, _MM_HINT_T0);
    }
    scale = block_scale(w, scales_of(w, panel + p), b * BLOCK);
    if (KIND == WB_INT8) return from + at;
    if (KIND == WB_FIELDS) {
      spread<BLOCK>(w, from + at, to);
      return to;
    }
    for (size_t line = 0; line < block_bytes; line += 64) {
      const Nibbles n = split(from + at + line);
      _mm512_store_si512(to + 2 * line, n.low);
      _mm512_store_si512(to + 2 * line + 64, n.high);
    }
    return to;
  }

  // acc [rows][16] += the results of one row tile, for all P panels.
  inline void finish(const int32_t (*result)[kPanel * kPanel], int b, int tile, const Scales* scale) const {
    constexpr int kAll = kPanel / LIMBS;
    if (rows == kAll) add<kAll>(result, b, tile, scale, kAll);
    else add<1>(result, b, tile, scale, rows);
  }

  // `count` rows, a multiple of STEP.
  template <int STEP>
  inline void add(const int32_t (*result)[kPanel * kPanel], int b, int tile, const Scales* scale,
                  int count) const {
    const size_t row = static_cast<size_t>(tile) * rows, at = static_cast<size_t>(b) * v.rows + row;
    const float* sums = v.sums + at;
    const float* scales = v.scales + at;
    const int32_t* from = result[0];
    float* to = acc + row * kPanel;
    const size_t next = static_cast<size_t>(v.rows) * kPanel;
    const int low = (LIMBS - 1) * count * kPanel;
    const Scales first = scale[0], second = scale[P - 1];
    for (int r = 0; r < count; r += STEP)
#pragma GCC unroll 16
      for (int i = 0; i < STEP; ++i) {
        const int o = (r + i) * kPanel;
        const __m512 sum = _mm512_set1_ps(sums[r + i]), own = _mm512_set1_ps(scales[r + i]);
        _mm512_store_ps(to + o, add_block<LIMBS>(_mm512_load_ps(to + o), _mm512_load_si512(from + o),
                                                 _mm512_load_si512(from + low + o), first, sum, own));
        if (P == 2)
          _mm512_store_ps(to + next + o,
                          add_block<LIMBS>(_mm512_load_ps(to + next + o),
                                           _mm512_load_si512(from + kPanel * kPanel + o),
                                           _mm512_load_si512(from + kPanel * kPanel + low + o), second, sum,
                                           own));
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
  const Panels<KIND, LIMBS, BLOCK, 1> all(j, v, w, panel, acc);
  alignas(64) char buffer[4][1024];
  alignas(64) int32_t result[4][T][kPanel * kPanel];
  const char* at[4];
  Scales scale[8];
  for (int b = -kLead; b < v.blocks + kBehind; ++b) {
    const int next = b + kLead, last = b - kBehind;
    if (next < v.blocks) at[next & 3] = all.unpack(next, 0, buffer[next & 3], scale[next & 7]);
    if (b >= 0 && b < v.blocks) {
      if (b & 1) {
        WB_STEP(0, 1);
      } else {
        WB_STEP(2, 3);
      }
    }
    if (last >= 0)
      for (int t = 0; t < T; ++t) all.finish(&result[last & 3][t], last, t, &scale[last & 7]);
  }
}

// Row tile t times the block: results C (panel 0) and D (1); x in tile 5, weights in 4 and 6.
#define WB_MULTIPLY(C, D)          \
  WB_LOAD(5, all.x(t, b), 64);     \
  _tile_zero(C);                   \
  _tile_dpbsud(C, 5, 4);           \
  if (P == 2) {                    \
    _tile_zero(D);                 \
    _tile_dpbsud(D, 5, 6);         \
  }
#define WB_KEEP(C, D)                           \
  _tile_stored(C, result[(t - 1) & 3][0], 64);  \
  if (P == 2) _tile_stored(D, result[(t - 1) & 3][P - 1], 64)

// More rows: every block of weights stays in tiles 4 and 6 for all row tiles; results leave their tiles one row
// tile later and are added up two later. Same sums in the same order.
template <int KIND, int LIMBS, int BLOCK, int P>
void many(const Job& j, const View& v, const WbWeight& w, int panel, float* acc) {
  constexpr int kBehind = 3;
  const Panels<KIND, LIMBS, BLOCK, P> all(j, v, w, panel, acc);
  alignas(64) char buffer[2][P][1024];
  alignas(64) int32_t result[4][P][kPanel * kPanel];
  const char* at[2][P];
  Scales scale[2][P];
  const int tiles = row_tiles(j);
  for (int p = 0; p < P; ++p) at[0][p] = all.unpack(0, p, buffer[0][p], scale[0][p]);
  for (int b = 0; b < v.blocks; ++b) {
    const int now = b & 1;
    WB_LOAD(4, at[now][0], 64);
    if (P == 2) WB_LOAD(6, at[now][P - 1], 64);
    if (b + 1 < v.blocks)
      for (int p = 0; p < P; ++p)
        at[1 - now][p] = all.unpack(b + 1, p, buffer[1 - now][p], scale[1 - now][p]);
    for (int t = 0; t < tiles + kBehind; ++t) {
      if (t & 1) {
        if (t < tiles) { WB_MULTIPLY(0, 1); }
        if (t <= tiles) { WB_KEEP(2, 3); }
      } else {
        if (t < tiles) { WB_MULTIPLY(2, 3); }
        if (t > 0 && t <= tiles) { WB_KEEP(0, 1); }
      }
      const int done = t - kBehind;
      if (done >= 0) all.finish(result[done & 3], b, done, scale[now]);
    }
  }
}

template <int KIND, int LIMBS, int BLOCK>
void panels(const Job& j, const WbProduct& product, int panel, int end) {
  const WbWeight& w = *product.weight;
  const View v = view(j);
  TileConfig config;
  const int height = tile_rows(j) * LIMBS;
  for (int t = 0; t < 4; ++t) config.set(t, height, 64);
  for (int t = 4; t < 8; ++t) config.set(t, BLOCK / 4, 64);
  config.set(5, height, BLOCK);  // x; a few rows have it in tile 4, too
  if (row_tiles(j) <= 2) config.set(4, height, BLOCK);
  _tile_loadconfig(&config);
  float* acc = reinterpret_cast<float*>(scratch(1, static_cast<size_t>(v.rows) * 2 * kPanel * 4));
  const bool one = row_tiles(j) <= 2;
  for (int two = 1; panel < end; panel += two) {
    two = !one && panel + 1 < end ? 2 : 1;
    std::memset(acc, 0, static_cast<size_t>(v.rows) * two * kPanel * 4);
    if (row_tiles(j) == 1) few<KIND, LIMBS, BLOCK, 1>(j, v, w, panel, acc);
    else if (one) few<KIND, LIMBS, BLOCK, 2>(j, v, w, panel, acc);
    else if (two == 2) many<KIND, LIMBS, BLOCK, 2>(j, v, w, panel, acc);
    else many<KIND, LIMBS, BLOCK, 1>(j, v, w, panel, acc);
    for (int p = 0; p < two; ++p)
      for (int r = 0; r < j.m; ++r) {
        const int column = (panel + p) * kPanel;
        put16(product, j.first + r, column, w.rows - column,
              _mm512_load_ps(acc + (static_cast<size_t>(p) * v.rows + r) * kPanel));
      }
  }
  _tile_release();
}

}  // namespace
}  // namespace wb
