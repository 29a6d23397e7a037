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

// `count` vectors of WB_FIELDS, f bits wide at bit `at` of the codes, from vector `first` of their lines on.
template <int F, int AT, int COUNT>
inline void field(const char* from, __m512i* to) {
  constexpr int kEach = 8 / F;
  const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << F) - 1) << AT));
#pragma GCC unroll 8
  for (int v = 0; v < COUNT; ++v) {
    const __m512i line = _mm512_loadu_si512(from + v / kEach * 64);
    const int right = v % kEach * F - AT;
    const __m512i moved = right > 0   ? _mm512_srli_epi16(line, right > 0 ? right : 0)
                          : right < 0 ? _mm512_slli_epi16(line, right < 0 ? -right : 0)
                                      : line;
    // to | (moved & mask)
    to[v] = AT ? _mm512_ternarylogic_epi64(to[v], moved, mask, 0xf8) : _mm512_and_si512(moved, mask);
  }
}

template <int BITS>
inline void thirty_two(const char* from, __m512i* to) {
  constexpr int kFour = BITS & 4, kTwo = BITS & 2;
  if (BITS & 4) field<4, 0, 8>(from, to);
  if (BITS & 2) field<2, kFour, 8>(from + kFour * 64, to);
  if (BITS & 1) field<1, kFour + kTwo, 8>(from + (kFour + kTwo) * 64, to);
}

// BLOCK columns of fields as bytes, in the order of WB_INT8: BLOCK / 4 lines at `to`.
template <int BLOCK>
inline void spread(const WbWeight& w, const char* from, char* to) {
  __m512i codes[8];
  for (int half = 0; half < (BLOCK + 31) / 32; ++half, from += 64 * w.bits, to += 512) {
    switch (w.bits) {
      case 1: thirty_two<1>(from, codes); break;
      case 2: thirty_two<2>(from, codes); break;
      case 3: thirty_two<3>(from, codes); break;
      case 4: field<4, 0, BLOCK == 16 ? 4 : 8>(from, codes); break;
      case 5: thirty_two<5>(from, codes); break;
      case 6: thirty_two<6>(from, codes); break;
      case 7: thirty_two<7>(from, codes); break;
      default: std::memcpy(codes, from, 512);
    }
    if (w.levels) {
      const __m512i levels =
          _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(w.levels)));
#pragma GCC unroll 8
      for (int v = 0; v < (BLOCK == 16 ? 4 : 8); ++v) codes[v] = _mm512_shuffle_epi8(levels, codes[v]);
    }
#pragma GCC unroll 8
    for (int v = 0; v < (BLOCK == 16 ? 4 : 8); ++v) _mm512_store_si512(to + v * 64, codes[v]);
  }
}

// Sixteen positive 8-bit floats with 3 bits below the exponent, whose bias is 127 - `lift`; no denormals on
// the way.
inline __m512 float8(__m512i size, int lift) {
  const __mmask16 small = _mm512_cmplt_epi32_mask(size, _mm512_set1_epi32(8));
  const __m512i bits = _mm512_add_epi32(_mm512_slli_epi32(size, 20), _mm512_set1_epi32(lift << 23));
  const __m512i one = _mm512_set1_epi32((lift + 1) << 23);
  const __m512 f = _mm512_castsi512_ps(_mm512_mask_add_epi32(bits, small, bits, _mm512_set1_epi32(1 << 23)));
  return _mm512_mask_sub_ps(f, small, f, _mm512_castsi512_ps(one));
}

// Sixteen scales of one byte. `p`: as block_scales() has it.
inline __m512 byte_scale(const WbWeight& w, const char* p, int k) {
  const bool twice = w.scale == WB_SCALE_DOUBLE;
  const char* at = twice ? p + 16 + k / w.group % 16 * 16 : p;
  const __m512i code = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)));
  if (w.scale == WB_SCALE_E8M0) return _mm512_castsi512_ps(_mm512_slli_epi32(code, 23));
  if (w.scale == WB_SCALE_UE5M3) return float8(code, 112);
  const __m512 e4m3 = float8(_mm512_and_si512(code, _mm512_set1_epi32(127)), 120);
  if (!twice) return e4m3;
  float head[2];
  std::memcpy(head, p, 8);
  const __m512i sign = _mm512_slli_epi32(_mm512_and_si512(code, _mm512_set1_epi32(128)), 24);
  const __m512 value = _mm512_castsi512_ps(_mm512_or_si512(_mm512_castps_si512(e4m3), sign));
  return _mm512_max_ps(_mm512_fmadd_ps(value, _mm512_set1_ps(head[0]), _mm512_set1_ps(head[1])),
                       _mm512_setzero_ps());
}

// Of fields: w = s number + o.
inline Scales field_scale(const WbWeight& w, const char* p, int k) {
  __m512 s, z = _mm512_setzero_ps();
  if (w.scale == WB_SCALE_PAIR) z = load_bf16(reinterpret_cast<const uint16_t*>(p + 32));
  if (w.scale == WB_SCALE_PAIR || w.scale == WB_SCALE_ROW || w.scale == WB_SCALE_BF16)
    s = load_bf16(reinterpret_cast<const uint16_t*>(p));
  else
    s = byte_scale(w, p, k);
  s = _mm512_mul_ps(s, _mm512_set1_ps(w.unit));
  return {s, _mm512_fnmadd_ps(s, _mm512_set1_ps(w.middle), z)};
}

// Of the block that begins at column k. Codes begin at 0.
inline Scales block_scale(const WbWeight& w, const char* panel, int k) {
  const char* p = block_scales(w, panel, k);
  if (w.kind == WB_FIELDS) return field_scale(w, p, k);
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
