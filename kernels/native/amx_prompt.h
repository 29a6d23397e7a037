// Rows of a prompt times stored weights of few bits: the weights become bfloat16 tiles in this thread's cache, and the
// matrix unit sums the rest. A part of amx.cpp.
//
// x counts in full, weights are rounded to bfloat16 once; a row's bits do not depend on the rows that come with it,
// but they are not those of the same row as a token that is decoded.
#pragma once
#include "amx_tiles.h"
#include "float8.h"
#include "unpack.h"

namespace wb {
namespace {

// Columns that are expanded in a row: two panels of them (16 KiB) stay in the first-level cache beside the x that
// streams by.
constexpr int kDeep = 256;

// bfloat16 pairs of two columns of 16 rows of W, to nearest.
inline void store_pair(char* to, __m512 first, __m512 second) {
  const __m512i half = _mm512_set1_epi32(0x8000);
  const __m512i a = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(first), half), 16);
  const __m512i b = _mm512_add_epi32(_mm512_castps_si512(second), half);
  // a | (b & 0xffff0000)
  _mm512_store_si512(to, _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi32(0xffff0000), 0xf8));
}

// Code in bits AT .. AT + 3 of every lane, as 128 + code.
template <int AT>
inline __m512 nibble(__m512i u) {
  const __m512i mask = _mm512_set1_epi32(0xf0000), base = _mm512_set1_epi32(0x43000000);
  const __m512i moved = AT < 16 ? _mm512_slli_epi32(u, AT < 16 ? 16 - AT : 0) : _mm512_srli_epi32(u, AT > 16 ? AT - 16 : 0);
  return _mm512_castsi512_ps(_mm512_ternarylogic_epi32(moved, mask, base, 0xea));  // (moved & mask) | base
}

template <int AT>
inline __m512 byte(__m512i u) {
  const __m512i moved = AT ? _mm512_srli_epi32(u, AT) : u;
  return _mm512_cvtepi32_ps(AT == 24 ? moved : _mm512_and_si512(moved, _mm512_set1_epi32(255)));
}

// BLOCK columns of a panel -> BLOCK / 2 rows of tiles, 64 bytes each: pairs of columns.
template <int KIND, int BLOCK>
inline void expand(const WbWeight& w, const char* from, const char* scales, int k, char* to) {
  if (KIND == WB_E4M3 || KIND == WB_E5M2) {
    const char* p = block_scales(w, scales, k);
    const __m512 stored = w.scale == WB_SCALE_ROW || w.scale == WB_SCALE_BF16 ? load_bf16(reinterpret_cast<const uint16_t*>(p))
                                                                              : byte_scale(w, p, k);
    const __m512 scale = _mm512_mul_ps(stored, _mm512_set1_ps(w.unit * (KIND == WB_E4M3 ? 256.0f : 1.0f)));
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
    for (int c = 0; c < BLOCK; c += 4, from += 64, to += 128) {
      const __m512i line = _mm512_loadu_si512(from);
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m512i code = halves<KIND>(h ? _mm512_srli_epi16(line, 8) : line);
        const __m512 low = lower(code), high = upper(code);
        store_pair(to + 64 * h, _mm512_mul_ps(_mm512_permutex2var_ps(low, even, high), scale),
                   _mm512_mul_ps(_mm512_permutex2var_ps(low, odd, high), scale));
      }
    }
    return;
  }
  const Scales g = block_scale(w, scales, k);
  if (KIND == WB_INT4) {
    const __m512 o = _mm512_fnmadd_ps(g.s, _mm512_set1_ps(128.0f), g.o);
    const auto value = [&](__m512 code) { return _mm512_fmadd_ps(code, g.s, o); };
#pragma GCC unroll 4
    for (int c = 0; c < BLOCK; c += 8, from += 64, to += 256) {
      const __m512i u = _mm512_loadu_si512(from);
      store_pair(to, value(nibble<0>(u)), value(nibble<16>(u)));
      store_pair(to + 64, value(nibble<4>(u)), value(nibble<20>(u)));
      store_pair(to + 128, value(nibble<8>(u)), value(nibble<24>(u)));
      store_pair(to + 192, value(nibble<12>(u)), value(nibble<28>(u)));
    }
    return;
  }
  alignas(64) char bytes[KIND == WB_FIELDS ? (BLOCK < 32 ? 32 : BLOCK) * kPanel : 64];
  if (KIND == WB_FIELDS) {
    spread<BLOCK>(w, from, bytes);
    from = bytes;
  }
  const auto value = [&](__m512 code) { return _mm512_fmadd_ps(code, g.s, g.o); };
#pragma GCC unroll 4
  for (int c = 0; c < BLOCK; c += 4, from += 64, to += 128) {
    const __m512i u = _mm512_loadu_si512(from);
    store_pair(to, value(byte<0>(u)), value(byte<16>(u)));
    store_pair(to + 64, value(byte<8>(u)), value(byte<24>(u)));
  }
}

// Columns k .. k + count of a panel. `ahead`: bytes to what is expanded after the next products.
template <int KIND, int BLOCK>
void expand_panel(const WbWeight& w, int panel, int k, int count, ptrdiff_t ahead, char* to) {
  const size_t block_bytes = static_cast<size_t>(BLOCK) * 2 * code_bits(w);
  const char* from = static_cast<const char*>(w.data) + panel_bytes(w) * panel + k / BLOCK * block_bytes;
  const char* scales = scales_of(w, panel);
  for (int c = 0; c < count; c += BLOCK, from += block_bytes) {
    for (size_t line = 0; line < block_bytes; line += 64) _mm_prefetch(from + ahead + line, _MM_HINT_T1);
    expand<KIND, BLOCK>(w, from, scales, k + c, to + c * 32);
  }
}

// One or two row tiles times one or two panels: sums [panel][row tile][16][16] += `steps` tiles of each.
template <int P, int M>
inline void prompt_step(const char* weights, const char* x, size_t next, int steps, float* sums, size_t apart, bool first) {
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
  for (int s = 0; s < steps; ++s, weights += 1024, x += 1024) {
    WB_LOAD(4, x, 64);
    WB_LOAD(6, weights, 64);
    _tile_dpbf16ps(0, 4, 6);
    if (P == 2) {
      WB_LOAD(7, weights + kDeep * 32, 64);
      _tile_dpbf16ps(2, 4, 7);
    }
    if (M == 2) {
      WB_LOAD(5, x + next, 64);
      _tile_dpbf16ps(1, 5, 6);
      if (P == 2) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, sums, 64);
  if (M == 2) _tile_stored(1, sums + 256, 64);
  if (P == 2) _tile_stored(2, sums + apart, 64);
  if (P == 2 && M == 2) _tile_stored(3, sums + apart + 256, 64);
}

template <int KIND, int BLOCK, int P>
void prompt_panels(const Job& j, const View& v, const WbWeight& w, int panel, int k, ptrdiff_t ahead, float* sums) {
  alignas(64) char weights[P * kDeep * 32];
  const int count = j.padded - k < kDeep ? j.padded - k : kDeep, tiles = row_tiles(j);
  for (int p = 0; p < P; ++p) expand_panel<KIND, BLOCK>(w, panel + p, k, count, ahead, weights + p * kDeep * 32);
  const size_t apart = static_cast<size_t>(tiles) * 256;
  const char* x = v.tiles + static_cast<size_t>(k / 32) * 1024;
  for (int t = 0; t < tiles; t += 2) {
    float* to = sums + static_cast<size_t>(t) * 256;
    if (t + 1 < tiles) prompt_step<P, 2>(weights, x + t * v.row_tile, v.row_tile, count / 32, to, apart, k == 0);
    else prompt_step<P, 1>(weights, x + t * v.row_tile, v.row_tile, count / 32, to, apart, k == 0);
  }
}

template <int KIND, int BLOCK>
void prompt_rows(const Job& j, const WbProduct& product, int panel, int end) {
  const WbWeight& w = *product.weight;
  const View v = view(j);
  TileConfig config;
  for (int t = 0; t < 8; ++t) config.set(t, kPanel, 64);
  _tile_loadconfig(&config);
  const int tiles = row_tiles(j);
  const size_t apart = static_cast<size_t>(tiles) * 256;
  float* sums = reinterpret_cast<float*>(scratch(1, static_cast<size_t>(end - panel) * apart * 4));
  const ptrdiff_t one = static_cast<ptrdiff_t>(panel_bytes(w)), deep = kDeep * 2 * code_bits(w);
  for (int k = 0; k < j.padded; k += kDeep)
    for (int p = panel; p < end; p += 2) {
      const ptrdiff_t ahead = p + 2 < end ? 2 * one : (panel - p) * one + deep;
      float* to = sums + (p - panel) * apart;
      if (p + 1 < end) prompt_panels<KIND, BLOCK, 2>(j, v, w, p, k, ahead, to);
      else prompt_panels<KIND, BLOCK, 1>(j, v, w, p, k, ahead, to);
    }
  _tile_release();
  for (int r = 0; r < j.m; ++r)
    for (int p = panel; p < end; ++p)
      put16(product, j.first + r, p * kPanel, w.rows - p * kPanel, _mm512_load_ps(sums + (p - panel) * apart + r * kPanel));
}

template <int KIND>
void prompt_kind(const Job& j, const WbProduct& product, int panel, int end) {
  const int block = block_of(*product.weight);
  if (block == 64) prompt_rows<KIND, 64>(j, product, panel, end);
  else if (block == 32) prompt_rows<KIND, 32>(j, product, panel, end);
  else prompt_rows<KIND, 16>(j, product, panel, end);
}

void prompt(const Job& j, const WbProduct& product, int panel, int end) {
  switch (product.weight->kind) {
    case WB_INT4: return prompt_kind<WB_INT4>(j, product, panel, end);
    case WB_INT8: return prompt_kind<WB_INT8>(j, product, panel, end);
    case WB_FIELDS: return prompt_kind<WB_FIELDS>(j, product, panel, end);
    case WB_E4M3: return prompt_kind<WB_E4M3>(j, product, panel, end);
    default: return prompt_kind<WB_E5M2>(j, product, panel, end);
  }
}

}  // namespace
}  // namespace wb
