// Stored weights to bytes, and their scales. A part of amx.cpp and vnni.cpp.
#pragma once
#include "parts.h"

namespace wb {
namespace {

// Bytes that are asked for ahead of their use: into the second-level cache, where more requests wait than in
// the first, and from there.
constexpr size_t kFar = 4096, kNear = 512;

struct Nibbles {
  __m512i low, high;
};

// 64 bytes, 8 columns of 16 rows -> columns 0 4 1 5 and 2 6 3 7, bytes 0 .. 15, four to a row.
inline Nibbles split(const char* from) {
  const __m512i mask = _mm512_set1_epi8(15), w = _mm512_loadu_si512(from);
  return {_mm512_and_si512(w, mask), _mm512_and_si512(_mm512_srli_epi16(w, 4), mask)};
}

struct Scales {
  __m512 s, o;  // w = s code + o
};

inline __m512 load_half(const char* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Of the block that begins at column k. Codes begin at 0.
inline Scales block_scale(const WbWeight& w, const char* panel, int k) {
  const char* p = block_scales(w, panel, k);
  const __m512 middle = _mm512_set1_ps(w.kind == WB_INT8 ? 128.0f : 8.0f);
  if (w.scale == WB_SCALE_PAIR) {
    const __m512 s = load_bf16(reinterpret_cast<const uint16_t*>(p));
    return {s, _mm512_fnmadd_ps(s, middle, load_bf16(reinterpret_cast<const uint16_t*>(p + 32)))};
  }
  if (w.scale == WB_SCALE_K) {
    const int i = k % 256 / 32;
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 64 + i * 16));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 192 + i * 16));
    const __m512 s = _mm512_mul_ps(load_half(p), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(a)));
    const __m512 z = _mm512_mul_ps(load_half(p + 32), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b)));
    return {s, _mm512_sub_ps(_mm512_setzero_ps(), z)};
  }
  const __m512 s =
      w.scale == WB_SCALE_ROW ? load_bf16(reinterpret_cast<const uint16_t*>(p)) : load_half(p);
  return {s, _mm512_fnmadd_ps(s, middle, _mm512_setzero_ps())};
}

// acc += what one block adds to 16 results of a row: s (256 high + low) + o sum, in the row's scale.
template <int LIMBS>
inline __m512 add_block(__m512 acc, __m512i high, __m512i low, const Scales& g, __m512 sum,
                        __m512 scale) {
  const __m512i all = LIMBS == 2 ? _mm512_add_epi32(_mm512_slli_epi32(high, 8), low) : high;
  const __m512 a = _mm512_fmadd_ps(g.o, sum, acc);
  return _mm512_fmadd_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(all), g.s), scale, a);
}

}  // namespace
}  // namespace wb
