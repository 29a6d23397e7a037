// 8-bit floats times rows of x in float32 vectors. A part of amx.cpp and vnni.cpp.
//
// A code is the upper byte of a float16 (E5M2), or becomes one by a shift (E4M3, 2^-8 of its value), denormals
// included, so the processor's own conversion decodes it. Sixteen lanes are eight rows of W times two columns;
// their pairs are summed at the end of a block. A row of x takes the same steps in any company.
#pragma once
#include "rows.h"
#include "unpack.h"

namespace wb {
namespace {

// 32 codes in the low bytes of 16-bit lanes -> float16.
template <int KIND>
inline __m512i halves(__m512i code) {
  if (KIND == WB_E5M2) return _mm512_slli_epi16(code, 8);
  const __m512i size = _mm512_slli_epi16(_mm512_and_si512(code, _mm512_set1_epi16(0x7f)), 7);
  // size | (code << 8 & 0x8000)
  return _mm512_ternarylogic_epi64(size, _mm512_slli_epi16(code, 8),
                                   _mm512_set1_epi16(static_cast<short>(0x8000)), 0xf8);
}

inline __m512 lower(__m512i h) { return _mm512_cvtph_ps(_mm512_castsi512_si256(h)); }
inline __m512 upper(__m512i h) { return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(h, 1)); }

// Two neighbouring numbers of x in every pair of lanes.
inline __m512 pair(const float* x) {
  double both;
  std::memcpy(&both, x, 8);
  return _mm512_castpd_ps(_mm512_set1_pd(both));
}

// y[r][16] = rows `row` .. `row` + M of x (float32 [m][padded]) times one panel.
template <int KIND, int M>
void float8_dots(const Job& j, const WbWeight& w, int panel, int row, float* y) {
  const int block = block_of(w);
  const char* from = static_cast<const char*>(w.data) + panel_bytes(w) * panel;
  const char* scales = scales_of(w, panel);
  const float* x = reinterpret_cast<const float*>(j.prepared) + static_cast<size_t>(row) * j.padded;
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
  const float lift = KIND == WB_E4M3 ? 256.0f : 1.0f;
  __m512 all[M];
  for (int r = 0; r < M; ++r) all[r] = _mm512_setzero_ps();
  for (int k = 0; k < w.padded; k += block) {
    __m512 sum[M][4];  // columns 0 1 and 2 3 of every four; rows 0 .. 7 and 8 .. 15
    for (int r = 0; r < M; ++r)
      for (int i = 0; i < 4; ++i) sum[r][i] = _mm512_setzero_ps();
    for (int c = 0; c < block; c += 4, from += 64) {
      _mm_prefetch(from + kFar, _MM_HINT_T1);
      _mm_prefetch(from + kNear, _MM_HINT_T0);
      const __m512i line = _mm512_loadu_si512(from);
      const __m512i first = halves<KIND>(line), second = halves<KIND>(_mm512_srli_epi16(line, 8));
      const __m512 w0 = lower(first), w1 = upper(first), w2 = lower(second), w3 = upper(second);
#pragma GCC unroll 4
      for (int r = 0; r < M; ++r) {
        const float* at = x + static_cast<size_t>(r) * j.padded + k + c;
        const __m512 a = pair(at), b = pair(at + 2);
        sum[r][0] = _mm512_fmadd_ps(w0, a, sum[r][0]);
        sum[r][1] = _mm512_fmadd_ps(w1, a, sum[r][1]);
        sum[r][2] = _mm512_fmadd_ps(w2, b, sum[r][2]);
        sum[r][3] = _mm512_fmadd_ps(w3, b, sum[r][3]);
      }
    }
    const char* p = block_scales(w, scales, k);
    const __m512 stored = w.scale == WB_SCALE_ROW || w.scale == WB_SCALE_BF16
                              ? load_bf16(reinterpret_cast<const uint16_t*>(p))
                              : byte_scale(w, p, k);
    const __m512 scale = _mm512_mul_ps(stored, _mm512_set1_ps(w.unit * lift));
    for (int r = 0; r < M; ++r) {
      const __m512 low = _mm512_add_ps(sum[r][0], sum[r][2]), high = _mm512_add_ps(sum[r][1], sum[r][3]);
      const __m512 both = _mm512_add_ps(_mm512_permutex2var_ps(low, even, high),
                                        _mm512_permutex2var_ps(low, odd, high));
      all[r] = _mm512_fmadd_ps(both, scale, all[r]);
    }
  }
  for (int r = 0; r < M; ++r) _mm512_storeu_ps(y + r * kPanel, all[r]);
}

template <int KIND>
void float8_panels(const Job& j, const WbProduct& product, int panel, int end) {
  const WbWeight& w = *product.weight;
  alignas(64) float y[4 * kPanel];
  for (; panel < end; ++panel) {
    const int column = panel * kPanel, count = w.rows - column < kPanel ? w.rows - column : kPanel;
    for (int row = 0; row < j.m;) {
      const int left = j.m - row, some = left >= 4 ? 4 : left >= 2 ? 2 : 1;
      if (some == 4) float8_dots<KIND, 4>(j, w, panel, row, y);
      else if (some == 2) float8_dots<KIND, 2>(j, w, panel, row, y);
      else float8_dots<KIND, 1>(j, w, panel, row, y);
      for (int r = 0; r < some; ++r) put(product, j.first + row + r, column, count, y + r * kPanel);
      row += some;
    }
  }
}

// Panels [panel, end) of a product; x is prepared as the portable path does.
void float8_products(const Job& j, const WbProduct& p, int panel, int end) {
  if (p.weight->kind == WB_E4M3) float8_panels<WB_E4M3>(j, p, panel, end);
  else float8_panels<WB_E5M2>(j, p, panel, end);
}

}  // namespace
}  // namespace wb
