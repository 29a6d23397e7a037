// Products of panels: unpacked block by block, summed by their scales. A part of amx.cpp.
#pragma once
#include "parts.h"

namespace wb {
namespace {

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

}  // namespace
}  // namespace wb
