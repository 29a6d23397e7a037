// One or two rows of x times panels, in vectors: no tile is filled for them. A part of amx.cpp and vnni.cpp.
#pragma once
#include "rows.h"
#include "unpack.h"

namespace wb {
namespace {

// y[r][16] = rows i .. i + M of row tile `tile` times one panel.
template <int KIND, int LIMBS, int BLOCK, int M>
void dots(const View& v, const WbWeight& w, int panel, int tile, int i, float* y) {
  constexpr int kLines = BLOCK * kPanel / (KIND == WB_INT4 ? 128 : 64);  // of 64 bytes in a block
  const size_t stored = static_cast<size_t>(BLOCK) * 2 * code_bits(w);  // bytes of a block
  alignas(64) char codes[KIND == WB_FIELDS ? BLOCK * kPanel : 64];
  const char* from = static_cast<const char*>(w.data) + panel_bytes(w) * panel;
  const char* scales = scales_of(w, panel);
  const char* x = v.tiles + tile * v.row_tile + i * 64;
  const int row = tile * (v.tile_bytes / LIMBS / 64) + i;
  __m512 acc[M];
  for (int r = 0; r < M; ++r) acc[r] = _mm512_setzero_ps();
  for (int b = 0; b < v.blocks; ++b, x += v.tile_bytes) {
    __m512i c[M][LIMBS][2] = {};
    if (KIND == WB_FIELDS) {
      for (size_t line = 0; line < stored; line += 64) {
        _mm_prefetch(from + line + kFar, _MM_HINT_T1);
        _mm_prefetch(from + line + kNear, _MM_HINT_T0);
      }
      spread<BLOCK>(w, from, codes);
      from += stored;
    }
#pragma GCC unroll 16
    for (int line = 0; line < kLines; ++line) {
      __m512i part[2];
      if (KIND != WB_FIELDS) {
        _mm_prefetch(from + kFar, _MM_HINT_T1);
        _mm_prefetch(from + kNear, _MM_HINT_T0);
      }
      if (KIND == WB_INT4) {
        const Nibbles n = split(from);
        part[0] = n.low, part[1] = n.high;
      } else {
        part[0] = _mm512_loadu_si512(KIND == WB_FIELDS ? codes + line * 64 : from);
      }
      if (KIND != WB_FIELDS) from += 64;
#pragma GCC unroll 2
      for (int r = 0; r < M; ++r)
#pragma GCC unroll 2
        for (int l = 0; l < LIMBS; ++l) {
          const char* at = x + r * 64 + l * (v.tile_bytes / 2);
#pragma GCC unroll 2
          for (int p = 0; p < (KIND == WB_INT4 ? 2 : 1); ++p) {
            const int four = KIND == WB_INT4 ? 2 * line + p : line;
            int32_t q;
            std::memcpy(&q, at + four * 4, 4);
            __m512i& sum = c[r][l][KIND == WB_INT4 ? p : line & 1];
            sum = _mm512_dpbusd_epi32(sum, part[p], _mm512_set1_epi32(q));
          }
        }
    }
    const Scales g = block_scale(w, scales, b * BLOCK);
    const size_t at = static_cast<size_t>(b) * v.rows + row;
    for (int r = 0; r < M; ++r) {
      const __m512i high = _mm512_add_epi32(c[r][0][0], c[r][0][1]);
      const __m512i low = _mm512_add_epi32(c[r][LIMBS - 1][0], c[r][LIMBS - 1][1]);
      acc[r] = add_block<LIMBS>(acc[r], high, low, g, _mm512_set1_ps(v.sums[at + r]),
                                _mm512_set1_ps(v.scales[at + r]));
    }
  }
  for (int r = 0; r < M; ++r) _mm512_storeu_ps(y + r * kPanel, acc[r]);
}

// All rows of x times panels [panel, end), two rows at a time.
template <int KIND, int LIMBS, int BLOCK>
void dot_panels(const Job& j, const WbProduct& product, int panel, int end) {
  const View v = view(j);
  const WbWeight& w = *product.weight;
  alignas(64) float y[2 * kPanel];
  for (; panel < end; ++panel) {
    const int column = panel * kPanel, count = w.rows - column < kPanel ? w.rows - column : kPanel;
    for (int tile = 0, row = 0; row < j.m; ++tile)
      for (int i = 0; i < tile_rows(j) && row < j.m;) {
        const int two = i + 1 < tile_rows(j) && row + 1 < j.m ? 2 : 1;
        if (two == 2) dots<KIND, LIMBS, BLOCK, 2>(v, w, panel, tile, i, y);
        else dots<KIND, LIMBS, BLOCK, 1>(v, w, panel, tile, i, y);
        for (int r = 0; r < two; ++r) put(product, j.first + row + r, column, count, y + r * kPanel);
        i += two, row += two;
      }
  }
}

template <int KIND>
void dot_products(const Job& j, const WbProduct& p, int panel, int end) {
  const bool one = p.weight->activations == WB_A8;
  if (block_of(*p.weight) == 64) {
    if (one) dot_panels<KIND, 1, 64>(j, p, panel, end);
    else dot_panels<KIND, 2, 64>(j, p, panel, end);
  } else if (KIND == WB_FIELDS && block_of(*p.weight) == 16) {
    if (one) dot_panels<WB_FIELDS, 1, 16>(j, p, panel, end);
    else dot_panels<WB_FIELDS, 2, 16>(j, p, panel, end);
  } else {
    if (one) dot_panels<KIND, 1, 32>(j, p, panel, end);
    else dot_panels<KIND, 2, 32>(j, p, panel, end);
  }
}

}  // namespace
}  // namespace wb
