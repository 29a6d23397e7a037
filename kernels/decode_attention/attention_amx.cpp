// Attention of one piece of the context on the matrix unit (AMX bfloat16).
//
// Scores are computed transposed, Sᵀ = K Qᵀ: a tile of keys is read as it lies in the cache, and in
// the result a lane is a query row, so the softmax needs no sums across lanes. Then P V with the values
// interleaved by pairs of columns. The unit sums in one order for every row, and a hidden column adds
// an exact zero, so a row's bits do not depend on its company.
#include "attention_parts.h"

#if defined(__x86_64__)
// The intrinsics' own undefined registers, reported by g++ 12 where they are inlined.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#include <limits>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f")
#endif
#include "../native/transpose.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#define WB_AMX \
  __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16,fma,avx2")))

namespace wb {
namespace {

struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

WB_AMX void configure() {
  alignas(64) TileConfig config = {};
  config.palette = 1;
  for (int i = 0; i < 8; ++i) {
    config.row_bytes[i] = 64;
    config.rows[i] = 16;
  }
  _tile_loadconfig(&config);
}

// 2^x for x <= 0: 2^n times a polynomial of degree 5 on |f| <= 1/2; relative error below 3e-6, and the result is rounded
// to bfloat16. n is added to the exponent, where the low bits of a number near 1.5 2^23 are it.
WB_AMX inline __m512i power_bits(__m512 x) {
  const __m512 magic = _mm512_set1_ps(12582912.0f);
  x = _mm512_max_ps(x, _mm512_set1_ps(-125.0f));
  const __m512 t = _mm512_add_ps(x, magic);
  const __m512 f = _mm512_sub_ps(x, _mm512_sub_ps(t, magic));
  __m512 y = _mm512_set1_ps(1.3333558e-3f);
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(9.6181291e-3f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(5.5504109e-2f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.24022651f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.69314718f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0f));
  return _mm512_add_epi32(_mm512_castps_si512(y), _mm512_slli_epi32(_mm512_castps_si512(t), 23));
}

// Sixteen query rows from `r` on as tiles [width / 32][16 pairs][16 rows].
WB_AMX void pack_queries(const Piece& p, int r, uint16_t* out) {
  for (int k = 0; k < p.source.width; k += 32) {
    __m512i m[16];
    for (int i = 0; i < 16; ++i) {
      if (r + i >= p.rows) {
        m[i] = _mm512_setzero_si512();
        continue;
      }
      const float* q = p.query + p.offsets[r + i] + k;
      m[i] = (__m512i)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(q + 16), _mm512_loadu_ps(q));
    }
    transpose(m);
    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(out + k * 16 + i * 32, m[i]);
  }
}

WB_AMX inline void widen_int8(const int8_t* from, int width, uint16_t* to) {
  for (int d = 0; d < width; d += 16) {
    const __m512i whole = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)(from + d)));
    _mm256_storeu_si256((__m256i*)(to + d), (__m256i)_mm512_cvtneps_pbh(_mm512_cvtepi32_ps(whole)));
  }
}

// Pointers to bfloat16 rows of 16 positions each that lie together; what does not is copied.
struct Rows {
  const uint16_t* block[kPiece / 16];
};

WB_AMX void gather(const Piece& p, bool keys, uint16_t* copies, Rows* rows) {
  const Source& s = p.source;
  const int width = s.width, plain = s.path ? s.base : p.end;
  for (int j = p.start; j < p.end; j += 16) {
    uint16_t* to = copies + static_cast<int64_t>(j - p.start) * width;
    const bool together = s.item == WB_ITEM_BF16 && j + 16 <= p.end && j + 16 <= plain;
    rows->block[(j - p.start) / 16] =
        together ? reinterpret_cast<const uint16_t*>(keys ? s.key(j) : s.value(j)) : to;
    if (together) continue;
    for (int i = 0; i < 16; ++i, to += width) {
      if (j + i >= p.end) {
        std::memset(to, 0, 2 * width);
        continue;
      }
      const char* from = keys ? s.key(j + i) : s.value(j + i);
      if (s.item == WB_ITEM_BF16) std::memcpy(to, from, 2 * width);
      else widen_int8(reinterpret_cast<const int8_t*>(from), width, to);
    }
  }
}

// Scores [positions, 16 rows] float32 of the packed queries.
WB_AMX void scores_of(const Rows& keys, int blocks, int width, const uint16_t* queries, float* out) {
  const int tiles = width / 32, stride = width * 2;
  if (tiles == 2) {  // the usual width: two blocks side by side, because a product waits for the one before it
    _tile_loadd(6, queries, 64);
    _tile_loadd(7, queries + 512, 64);
    for (int b = 0; b < blocks; b += 2) {  // always even
      const uint16_t *k = keys.block[b], *next = keys.block[b + 1];
      _tile_zero(0);
      _tile_loadd(2, k, stride);
      _tile_dpbf16ps(0, 2, 6);
      _tile_zero(1);
      _tile_loadd(3, next, stride);
      _tile_dpbf16ps(1, 3, 6);
      _tile_loadd(4, k + 32, stride);
      _tile_dpbf16ps(0, 4, 7);
      _tile_loadd(5, next + 32, stride);
      _tile_dpbf16ps(1, 5, 7);
      _tile_stored(0, out + b * 256, 64);
      _tile_stored(1, out + b * 256 + 256, 64);
    }
    return;
  }
  if (tiles > 0) _tile_loadd(4, queries, 64);
  if (tiles > 1) _tile_loadd(5, queries + 512, 64);
  if (tiles > 2) _tile_loadd(6, queries + 1024, 64);
  for (int b = 0; b < blocks; ++b) {
    const uint16_t* k = keys.block[b];
    _tile_zero(0);
    _tile_loadd(1, k, stride);
    _tile_dpbf16ps(0, 1, 4);
    if (tiles > 1) {
      _tile_loadd(2, k + 32, stride);
      _tile_dpbf16ps(0, 2, 5);
    }
    if (tiles > 2) {
      _tile_loadd(3, k + 64, stride);
      _tile_dpbf16ps(0, 3, 6);
    }
    for (int t = 3; t < tiles; ++t) {
      _tile_loadd(1, k + 32 * t, stride);
      _tile_loadd(7, queries + 512 * t, 64);
      _tile_dpbf16ps(0, 1, 7);
    }
    _tile_stored(0, out + b * 256, 64);
  }
}

struct Factors {
  float key[kPiece], value[kPiece];
};

WB_AMX void factors_of(const Piece& p, int padded, Factors* f) {
  const Source& s = p.source;
  for (int j = 0; j < padded; ++j) {
    const bool real = s.key_scales && p.start + j < p.end;
    const int64_t column = real ? s.column(p.start + j) : 0;
    f->key[j] = p.scaling * 1.44269504f * (real ? from_bf16(s.key_scales[column]) : 1.0f);
    f->value[j] = real ? from_bf16(s.value_scales[column]) : 1.0f;
  }
}

// Softmax of 16 rows: scores [padded, 16] -> weights as tiles [padded / 32][16 rows][32 positions]. ALL: every row sees
// every position. PLAIN: the cache has no scales. Exponents are of two until the end.
template <bool ALL, bool PLAIN>
WB_AMX void weigh_rows(const Piece& p, int r, int padded, const Factors& f, float* scores, uint16_t* out) {
  alignas(64) int32_t limit[16];
  for (int i = 0; i < 16; ++i) limit[i] = r + i < p.rows ? p.limits[r + i] : 0;
  const __m512i limits = _mm512_load_si512(limit);
  const __m512 least = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 best = least, second = least, total = _mm512_setzero_ps(), other = total;
  const __m512 factor = _mm512_set1_ps(f.key[0]);
  for (int j = 0; j < padded; j += 2) {
    __m512 s[2];
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      s[h] = _mm512_mul_ps(_mm512_load_ps(scores + (j + h) * 16), PLAIN ? factor : _mm512_set1_ps(f.key[j + h]));
      if (!ALL) {
        const int at = p.start + j + h;
        __mmask16 seen = _mm512_cmpgt_epi32_mask(limits, _mm512_set1_epi32(at));
        if (at < p.first) seen = 0;
        s[h] = _mm512_mask_blend_ps(seen, least, s[h]);
      }
      _mm512_store_ps(scores + (j + h) * 16, s[h]);
    }
    best = _mm512_max_ps(best, s[0]);
    second = _mm512_max_ps(second, s[1]);
  }
  best = _mm512_max_ps(best, second);
  // Rows that see nothing here: any finite stand-in keeps the differences at -inf.
  const __m512 from = _mm512_max_ps(best, _mm512_set1_ps(-3e38f));
  const __m512i half = _mm512_set1_epi32(0x8000), high = _mm512_set1_epi32(static_cast<int>(0xffff0000));
  for (int block = 0; block < padded; block += 32) {
    __m512i m[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      __m512 pair[2];
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const int j = block + 2 * i + h;
        const __m512 s = _mm512_load_ps(scores + j * 16);
        __m512i e = power_bits(_mm512_sub_ps(s, from));
        if (!ALL) e = _mm512_maskz_mov_epi32(_mm512_cmp_ps_mask(s, least, _CMP_NEQ_OQ), e);
        pair[h] = _mm512_castsi512_ps(e);
        if (!PLAIN) pair[h] = _mm512_mul_ps(pair[h], _mm512_set1_ps(f.value[j]));
        if (h) other = _mm512_add_ps(other, _mm512_castsi512_ps(e));
        else total = _mm512_add_ps(total, _mm512_castsi512_ps(e));
      }
      // To the nearest bfloat16, the even position in the low half.
      const __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(pair[0]), half), 16);
      m[i] = _mm512_ternarylogic_epi32(low, _mm512_add_epi32(_mm512_castps_si512(pair[1]), half), high, 0xf8);
    }
    transpose(m);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_store_si512(out + block * 16 + i * 32, m[i]);
  }
  const int count = p.rows - r < 16 ? p.rows - r : 16;
  const __mmask16 mine = static_cast<__mmask16>((1u << count) - 1);
  _mm512_mask_storeu_ps(p.best + r, mine, _mm512_mul_ps(best, _mm512_set1_ps(0.693147181f)));
  _mm512_mask_storeu_ps(p.total + r, mine, _mm512_add_ps(total, other));
}

WB_AMX void weigh(const Piece& p, int r, int padded, const Factors& f, float* scores, uint16_t* out) {
  bool all = p.first <= p.start && p.end - p.start == padded && r + 16 <= p.rows;
  for (int i = 0; all && i < 16; ++i) all = p.limits[r + i] >= p.end;
  const bool plain = !p.source.key_scales;
  if (all && plain) weigh_rows<true, true>(p, r, padded, f, scores, out);
  else if (all) weigh_rows<true, false>(p, r, padded, f, scores, out);
  else if (plain) weigh_rows<false, true>(p, r, padded, f, scores, out);
  else weigh_rows<false, false>(p, r, padded, f, scores, out);
}

// Values of 32 positions each, pairs interleaved: [padded / 32][width / 16][16 pairs][16] of 2 x 16 bit.
WB_AMX void pack_values(const Rows& rows, int padded, int width, uint16_t* out) {
  alignas(64) uint16_t order[64];
  for (int i = 0; i < 16; ++i) {
    order[2 * i] = i;
    order[2 * i + 1] = 32 + i;
    order[32 + 2 * i] = 16 + i;
    order[32 + 2 * i + 1] = 48 + i;
  }
  const __m512i low = _mm512_load_si512(order), high = _mm512_load_si512(order + 32);
  for (int j = 0; j < padded; j += 2) {
    const uint16_t* even = rows.block[j / 16] + (j % 16) * width;
    uint16_t* to = out + static_cast<int64_t>(j / 32) * 32 * width + (j % 32) / 2 * 32;
    for (int d = 0; d < width; d += 32) {
      const __m512i a = _mm512_loadu_si512(even + d), b = _mm512_loadu_si512(even + width + d);
      _mm512_store_si512(to + d * 32, _mm512_permutex2var_epi16(a, low, b));
      _mm512_store_si512(to + d * 32 + 512, _mm512_permutex2var_epi16(a, high, b));
    }
  }
}

// sums [16, width] = weights x values, four tiles of 16 columns at a time.
WB_AMX void sum_values(const uint16_t* weights, const uint16_t* values, int padded, int width,
                       float* sums) {
  const int stride = width * 4;
  for (int e = 0; e < width; e += 64) {
    const int tiles = (width - e) / 16 < 4 ? (width - e) / 16 : 4;  // two or four
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int block = 0; block < padded / 32; ++block) {
      const uint16_t* v = values + static_cast<int64_t>(block) * 32 * width + e * 32;
      _tile_loadd(4, weights + block * 512, 64);
      _tile_loadd(5, v, 64);
      _tile_dpbf16ps(0, 4, 5);
      _tile_loadd(6, v + 512, 64);
      _tile_dpbf16ps(1, 4, 6);
      if (tiles == 4) {
        _tile_loadd(5, v + 1024, 64);
        _tile_dpbf16ps(2, 4, 5);
        _tile_loadd(6, v + 1536, 64);
        _tile_dpbf16ps(3, 4, 6);
      }
    }
    _tile_stored(0, sums + e, stride);
    _tile_stored(1, sums + e + 16, stride);
    if (tiles == 4) {
      _tile_stored(2, sums + e + 32, stride);
      _tile_stored(3, sums + e + 48, stride);
    }
  }
}

bool ask() {
  constexpr long kRequest = 0x1023, kTileData = 18;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512bf16"))
    return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
  const bool unit = (d & (1u << 22)) && (d & (1u << 24));  // AMX-BF16, AMX-TILE
  return unit && syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

bool has_amx() {
  static const bool found = ask();
  return found;
}

WB_AMX void piece_amx(const Piece& p) {
  const int width = p.source.width, padded = (p.end - p.start + 31) / 32 * 32;
  const size_t plane = sizeof(uint16_t) * kPiece * width;
  char* memory = thread_buffer(0, 3 * plane + 64 * kPiece + 32 * kPiece + 32 * width);
  uint16_t* copies = reinterpret_cast<uint16_t*>(memory);
  uint16_t* values = reinterpret_cast<uint16_t*>(memory + 2 * plane);
  float* scores = reinterpret_cast<float*>(memory + 3 * plane);
  uint16_t* weights = reinterpret_cast<uint16_t*>(scores + 16 * kPiece);
  uint16_t* queries = weights + 16 * kPiece;
  Rows keys, rows;
  Factors factors;
  configure();
  gather(p, true, copies, &keys);
  gather(p, false, copies + static_cast<int64_t>(kPiece) * width, &rows);
  if ((p.end - p.start + 15) / 16 % 2) {  // the last pair of blocks is whole
    uint16_t* empty = copies + static_cast<int64_t>(padded - 16) * width;
    std::memset(empty, 0, 32 * width);
    std::memset(empty + static_cast<int64_t>(kPiece) * width, 0, 32 * width);
    keys.block[padded / 16 - 1] = empty;
    rows.block[padded / 16 - 1] = empty + static_cast<int64_t>(kPiece) * width;
  }
  factors_of(p, padded, &factors);
  pack_values(rows, padded, width, values);
  // (While tiles are busy, vectors multiply at half their speed: softmax and products do not overlap on purpose.)
  for (int r = 0; r < p.rows; r += 16) {
    pack_queries(p, r, queries);
    scores_of(keys, padded / 16, width, queries, scores);
    weigh(p, r, padded, factors, scores, weights);
    sum_values(weights, values, padded, width, p.sums + static_cast<int64_t>(r) * width);
  }
  _tile_release();
}

}  // namespace wb

#else

namespace wb {
bool has_amx() { return false; }
void piece_amx(const Piece& p) { piece_generic(p); }
}  // namespace wb

#endif
