// Attention of one piece of the context in float32, for any processor and any cache.
#include <cmath>
#include <limits>

#include "attention_parts.h"

namespace wb {
namespace {

typedef float Lanes __attribute__((vector_size(64), aligned(4)));

__attribute__((always_inline)) inline void widen(const char* from, int item, int width, float scale,
                                                 float* to) {
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

// Sixteen partial sums, joined pairwise: the same order for every row.
__attribute__((always_inline)) inline float dot(const float* a, const float* b, int width) {
  Lanes sum = {0};
  int d = 0;
  for (; d + kLanes <= width; d += kLanes)
    sum += *reinterpret_cast<const Lanes*>(a + d) * *reinterpret_cast<const Lanes*>(b + d);
  float rest = 0.0f;
  for (; d < width; ++d) rest += a[d] * b[d];
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; ++i) sum[i] += sum[i + half];
  return sum[0] + rest;
}

__attribute__((always_inline)) inline void body(const Piece& p) {
  const int width = p.source.width, count = p.end - p.start;
  float* row = reinterpret_cast<float*>(thread_buffer(0, sizeof(float) * width));
  float* scores = reinterpret_cast<float*>(thread_buffer(1, sizeof(float) * kPiece * p.rows));
  const float none = -std::numeric_limits<float>::infinity();
  for (int j = 0; j < count; ++j) {
    const int at = p.start + j;
    const int64_t column = p.source.column(at);
    const float scale = p.source.key_scales ? from_bf16(p.source.key_scales[column]) : 1.0f;
    widen(p.source.key(at), p.source.item, width, scale, row);
    for (int r = 0; r < p.rows; ++r)
      scores[r * kPiece + j] = at < p.first || at >= p.limits[r]
          ? none : dot(p.query + p.offsets[r], row, width) * p.scaling;
  }
  for (int r = 0; r < p.rows; ++r) {
    float best = none, total = 0.0f;
    float* s = scores + r * kPiece;
    for (int j = 0; j < count; ++j) best = s[j] > best ? s[j] : best;
    for (int j = 0; j < count; ++j) {
      s[j] = s[j] == none ? 0.0f : std::exp(s[j] - best);
      total += s[j];
    }
    p.best[r] = best;
    p.total[r] = total;
  }
  std::memset(p.sums, 0, sizeof(float) * p.rows * width);
  for (int j = 0; j < count; ++j) {
    const int at = p.start + j;
    const int64_t column = p.source.column(at);
    const float scale = p.source.value_scales ? from_bf16(p.source.value_scales[column]) : 1.0f;
    widen(p.source.value(at), p.source.item, width, scale, row);
    for (int r = 0; r < p.rows; ++r) {
      const float weight = scores[r * kPiece + j];
      if (weight == 0.0f) continue;  // hidden columns may hold anything
      float* out = p.sums + static_cast<int64_t>(r) * width;
      for (int d = 0; d < width; ++d) out[d] += weight * row[d];
    }
  }
}

}  // namespace

void piece_generic(const Piece& p) { body(p); }

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void piece_avx2(const Piece& p) { body(p); }
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
void piece_avx2(const Piece& p) { body(p); }
bool has_avx2() { return false; }
#endif

}  // namespace wb
