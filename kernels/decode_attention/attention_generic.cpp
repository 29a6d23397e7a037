// Attention of one piece of the context in float32, for any processor and any cache. Written with the compilers' own
// vector types for 8 lanes (AVX2) and 4 (whatever the target has); 16 were slower, because their sums are joined
// for every score.
#include <cmath>
#include <limits>

#include "attention_parts.h"

#define WB_INLINE __attribute__((always_inline)) inline

namespace wb {
namespace {

template <int L>
struct Of;
#define WB_VECTORS(L)                                        \
  template <>                                                \
  struct Of<L> {                                             \
    typedef float V __attribute__((vector_size(4 * L)));     \
    typedef int32_t I __attribute__((vector_size(4 * L)));   \
  };
WB_VECTORS(4)
WB_VECTORS(8)

template <typename T>
WB_INLINE void load(const float* p, T& v) { __builtin_memcpy(&v, p, sizeof(T)); }
template <typename T>
WB_INLINE void store(float* p, const T& v) { __builtin_memcpy(p, &v, sizeof(T)); }

WB_INLINE void widen(const char* from, int item, int width, float scale, float* to) {
  if (item == WB_ITEM_F32) {
    std::memcpy(to, from, sizeof(float) * width);
  } else if (item == WB_ITEM_BF16) {
    const uint16_t* v = reinterpret_cast<const uint16_t*>(from);
    for (int d = 0; d < width; ++d) to[d] = from_bf16(v[d]);
  } else {
    const int8_t* v = reinterpret_cast<const int8_t*>(from);
    for (int d = 0; d < width; ++d) to[d] = static_cast<float>(v[d]) * scale;
  }
}

// Keys or values of the piece as float32 [count][padded], zeros behind the width and in columns that nobody sees.
WB_INLINE void widen_all(const Piece& p, bool keys, int padded, float* to) {
  const Source& s = p.source;
  for (int at = p.start; at < p.end; ++at, to += padded) {
    if (padded > s.width || at < p.first) std::memset(to, 0, sizeof(float) * padded);
    if (at < p.first) continue;
    const int64_t column = s.column(at);
    const uint16_t* scales = keys ? s.key_scales : s.value_scales;
    widen(keys ? s.key(at) : s.value(at), s.item, s.width, scales ? from_bf16(scales[column]) : 1.0f, to);
  }
}

// The lanes joined pairwise: the same order for every row.
template <int L>
WB_INLINE float join(const typename Of<L>::V& sum) {
  float all[L];
  __builtin_memcpy(all, &sum, sizeof(all));
  for (int half = L / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) all[i] += all[i + half];
  return all[0];
}

// Scores of R rows (float32 [R][padded]) and all keys.
template <int L, int R>
WB_INLINE void score(const float* query, const float* keys, int padded, int count, float scaling, float* scores) {
  typedef typename Of<L>::V V;
  for (int j = 0; j < count; ++j, keys += padded) {
    V sum[R], a, b;
    for (int r = 0; r < R; ++r) sum[r] = V{};
    for (int d = 0; d < padded; d += L) {
      load(keys + d, a);
      for (int r = 0; r < R; ++r) {
        load(query + r * padded + d, b);
        sum[r] += a * b;
      }
    }
    for (int r = 0; r < R; ++r) scores[r * kPiece + j] = join<L>(sum[r]) * scaling;
  }
}

// exp of x <= 0: 2^n times a polynomial of degree 6 on |f| <= 1/2; relative error below 3e-7.
template <int L>
WB_INLINE void exponential(typename Of<L>::V& x) {
  typedef typename Of<L>::V V;
  typedef typename Of<L>::I I;
  const V least = V{} - 87.0f, magic = V{} + 12582912.0f;  // 1.5 2^23 rounds to the nearest integer
  const V t = (x > least ? x : least) * 1.44269504f;
  const V n = (t + magic) - magic, f = t - n;
  V y = f * 1.5403530e-4f + 1.3333558e-3f;
  y = y * f + 9.6181291e-3f;
  y = y * f + 5.5504109e-2f;
  y = y * f + 0.24022651f;
  y = y * f + 0.69314718f;
  y = y * f + 1.0f;
  x = y * (V)((__builtin_convertvector(n, I) + 127) << 23);
}

// Scores of one row become weights; columns that it does not see, and what is behind the last, become 0.
template <int L>
WB_INLINE void weigh(const Piece& p, int r, float* scores) {
  typedef typename Of<L>::V V;
  const float none = -std::numeric_limits<float>::infinity();
  const int count = p.end - p.start;
  const int first = p.first > p.start ? p.first - p.start : 0;
  const int last = p.limits[r] - p.start < count ? p.limits[r] - p.start : count;
  float best = none;
  for (int j = first; j < last; ++j) best = scores[j] > best ? scores[j] : best;
  V total = V{}, e;
  for (int j = 0; j < count; j += L) {
    for (int i = 0; i < L; ++i)
      if (j + i < first || j + i >= last) scores[j + i] = none;
    load(scores + j, e);
    const V seen = e;
    e = e - best;
    exponential<L>(e);
    e = seen > V{} + none ? e : V{};
    store(scores + j, e);
    total += e;
  }
  p.best[r] = best;
  p.total[r] = join<L>(total);
}

// sums of R rows, C times L columns from `column` on.
template <int L, int R, int C>
WB_INLINE void sum_values(const float* scores, const float* values, int padded, int count, int column, int width,
                          float* sums) {
  typedef typename Of<L>::V V;
  V acc[R][C], v;
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) acc[r][c] = V{};
  for (int j = 0; j < count; ++j)
    for (int c = 0; c < C; ++c) {
      load(values + static_cast<int64_t>(j) * padded + column + c * L, v);
      for (int r = 0; r < R; ++r) acc[r][c] += v * scores[r * kPiece + j];
    }
  for (int r = 0; r < R; ++r)
    for (int c = 0; c < C; ++c) {
      float all[L];
      __builtin_memcpy(all, &acc[r][c], sizeof(all));
      for (int i = 0, d = column + c * L; i < L && d < width; ++i, ++d) sums[static_cast<int64_t>(r) * width + d] = all[i];
    }
}

template <int L, int R>
WB_INLINE void some_rows(const Piece& p, int r, const float* keys, const float* values, int padded, float* query,
                         float* scores) {
  const int width = p.source.width, count = p.end - p.start;
  for (int i = 0; i < R; ++i) {
    for (int d = width; d < padded; ++d) query[i * padded + d] = 0.0f;
    std::memcpy(query + i * padded, p.query + p.offsets[r + i], sizeof(float) * width);
  }
  score<L, R>(query, keys, padded, count, p.scaling, scores);
  for (int i = 0; i < R; ++i) weigh<L>(p, r + i, scores + i * kPiece);
  float* sums = p.sums + static_cast<int64_t>(r) * width;
  constexpr int kWide = 32 / L;
  int d = 0;
  for (; d + 32 <= padded; d += 32) sum_values<L, R, kWide>(scores, values, padded, count, d, width, sums);
  for (; d < padded; d += L) sum_values<L, R, 1>(scores, values, padded, count, d, width, sums);
}

template <int L>
WB_INLINE void body(const Piece& p) {
  constexpr int kTogether = 2;
  const int padded = (p.source.width + L - 1) / L * L;
  float* keys = reinterpret_cast<float*>(thread_buffer(0, sizeof(float) * 2 * kPiece * padded));
  float* values = keys + static_cast<int64_t>(kPiece) * padded;
  float* query = reinterpret_cast<float*>(thread_buffer(1, sizeof(float) * kTogether * (padded + kPiece)));
  float* scores = query + kTogether * padded;
  widen_all(p, true, padded, keys);
  widen_all(p, false, padded, values);
  int r = 0;
  for (; r + kTogether <= p.rows; r += kTogether) some_rows<L, kTogether>(p, r, keys, values, padded, query, scores);
  for (; r < p.rows; ++r) some_rows<L, 1>(p, r, keys, values, padded, query, scores);
}

}  // namespace

void piece_generic(const Piece& p) { body<4>(p); }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void piece_avx2(const Piece& p) { body<8>(p); }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
void piece_avx2(const Piece& p) { body<4>(p); }
bool has_avx2() { return false; }
#endif

}  // namespace wb
