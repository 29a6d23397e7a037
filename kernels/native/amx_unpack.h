// Stored weights to tiles, and their scales. A part of amx.cpp.
#pragma once
#include "parts.h"

namespace wb {
namespace {

// -- weights to tiles ------------------------------------------------------------------------------

// 64 bytes, 8 columns of 16 rows -> 4 tile rows of q - 8. The table has its 16 values twice, so the fifth
// bit of an index, which belongs to the next number, does not matter.
inline void nibbles_to_tiles(const char* from, uint16_t* to, int columns, __m512i table) {
  for (int c = 0; c < columns / 8; ++c) {
    const __m512i w = _mm512_loadu_si512(from + c * 64);
    uint16_t* out = to + c * 128;
    _mm512_store_si512(out, _mm512_permutexvar_epi16(w, table));
    _mm512_store_si512(out + 32, _mm512_permutexvar_epi16(_mm512_srli_epi16(w, 4), table));
    _mm512_store_si512(out + 64, _mm512_permutexvar_epi16(_mm512_srli_epi16(w, 8), table));
    _mm512_store_si512(out + 96, _mm512_permutexvar_epi16(_mm512_srli_epi16(w, 12), table));
  }
}

// 64 bytes, 4 columns -> 2 tile rows of q + 128. A float16's exponent and upper mantissa, three bits lower,
// are the bfloat16 of 2^-112 times its value.
inline void bytes_to_tiles(const char* from, uint16_t* to, int columns) {
  const __m512i low = _mm512_set1_epi16(0xff);
  for (int c = 0; c < columns / 4; ++c) {
    const __m512i w = _mm512_loadu_si512(from + c * 64);
    const __m512i a = _mm512_castph_si512(_mm512_cvtepu16_ph(_mm512_and_si512(w, low)));
    const __m512i b = _mm512_castph_si512(_mm512_cvtepu16_ph(_mm512_srli_epi16(w, 8)));
    _mm512_store_si512(to + c * 64, _mm512_srli_epi16(a, 3));
    _mm512_store_si512(to + c * 64 + 32, _mm512_srli_epi16(b, 3));
  }
}

// 64 bytes, 8 columns -> 2 tile rows of bytes 0 .. 15.
inline void nibbles_to_bytes(const char* from, char* to, int columns) {
  const __m512i low = _mm512_set1_epi8(15);
  for (int c = 0; c < columns / 8; ++c) {
    const __m512i w = _mm512_loadu_si512(from + c * 64);
    _mm512_store_si512(to + c * 128, _mm512_and_si512(w, low));
    _mm512_store_si512(to + c * 128 + 64, _mm512_and_si512(_mm512_srli_epi16(w, 4), low));
  }
}

struct Scales {
  __m512 s, o;  // w = s code + o
};

inline __m512 load_half(const char* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// `middle` is what the code of zero is after unpacking (8 or 128, 0 where the table took it off).
inline Scales block_scale(const WbWeight& w, const char* panel, int k, float middle) {
  const char* p = block_scales(w, panel, k);
  if (w.scale == WB_SCALE_PAIR) {
    const __m512 s = load_bf16(reinterpret_cast<const uint16_t*>(p));
    const __m512 z = load_bf16(reinterpret_cast<const uint16_t*>(p + 32));
    return {s, _mm512_fnmadd_ps(s, _mm512_set1_ps(middle), z)};
  }
  if (w.scale == WB_SCALE_K) {
    const int i = k % 256 / 32;
    const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 64 + i * 16));
    const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 192 + i * 16));
    const __m512 s = _mm512_mul_ps(load_half(p), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(a)));
    const __m512 z = _mm512_mul_ps(load_half(p + 32), _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(b)));
    // Here codes begin at 0, so what the table took off is added again.
    return {s, _mm512_fmsub_ps(s, _mm512_set1_ps(8.0f - middle), z)};
  }
  const __m512 s =
      w.scale == WB_SCALE_ROW ? load_bf16(reinterpret_cast<const uint16_t*>(p)) : load_half(p);
  return {s, _mm512_mul_ps(s, _mm512_set1_ps(-middle))};
}

}  // namespace
}  // namespace wb
