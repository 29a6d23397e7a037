#include "store_kv.h"

#include <cmath>

#include "vector.h"

namespace {

using wb::V16;

WB_INLINE void narrow(const float* x, int64_t width, uint16_t* to) {
  V16 v;
  int64_t i = 0;
  for (; i + 16 <= width; i += 16) {
    wb::load(x + i, v);
    wb::store_bf16(to + i, v);
  }
  for (; i < width; ++i) to[i] = wb::to_bits16(x[i]);
}

WB_INLINE uint16_t quantize(const float* x, int width, int8_t* to) {
  float largest = 0.0f;
  for (int i = 0; i < width; ++i) largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
  const float wanted = largest / 127.0f;
  const uint16_t scale = wb::to_bits16(wanted > 1e-30f ? wanted : 1e-30f);
  const float step = wb::from_bits16(scale);
  for (int i = 0; i < width; ++i) {
    const float q = std::nearbyint(x[i] / step);
    to[i] = static_cast<int8_t>(q > 127.0f ? 127.0f : q < -127.0f ? -127.0f : q);
  }
  return scale;
}

WB_INLINE void put(int item, void* cache, uint16_t* scales, int64_t column, const float* x, int width) {
  if (item == WB_ITEM_BF16) narrow(x, width, static_cast<uint16_t*>(cache) + column * width);
  else if (item == WB_ITEM_INT8)
    scales[column] = quantize(x, width, static_cast<int8_t*>(cache) + column * width);
  else std::memcpy(static_cast<float*>(cache) + column * width, x, sizeof(float) * width);
}

WB_INLINE void wb_store_kv_body(const WbAttention* a, const WbKv* kv, const WbRows* rows, int32_t row,
                                const float* keys, const float* values) {
  const int32_t owner = wb_row_owner(*rows, row);
  const int64_t sequence = wb_slot(*rows, owner), at = rows->base[owner] + row - wb_first_row(*rows, owner);
  for (int head = 0; head < a->kv_heads; ++head) {
    const int64_t column = (sequence * a->kv_heads + head) * a->capacity + at;
    const int64_t from = (static_cast<int64_t>(row) * a->kv_heads + head) * a->width;
    put(a->item, kv->keys, kv->key_scales, column, keys + from, a->width);
    put(a->item, kv->values, kv->value_scales, column, values + from, a->width);
  }
}

WB_INLINE void wb_to_bf16_body(const float* from, int64_t count, uint16_t* to) {
  narrow(from, count, to);
}

WB_INLINE int64_t largest_of(const float* x, int64_t count) {
  float largest = x[0];
  int64_t i = 0;
  if (count >= 16) {
    V16 top, v;
    wb::load(x, top);
    for (i = 16; i + 16 <= count; i += 16) {
      wb::load(x + i, v);
      top = v > top ? v : top;
    }
    for (int lane = 0; lane < 16; ++lane) largest = top[lane] > largest ? top[lane] : largest;
  }
  for (; i < count; ++i) largest = x[i] > largest ? x[i] : largest;
  for (i = 0; i < count; ++i)
    if (x[i] == largest) return i;
  return 0;  // only not-a-numbers
}

WB_INLINE void wb_argmax_body(const float* x, int32_t m, int64_t count, int64_t* best) {
  for (int64_t r = 0; r < m; ++r) best[r] = largest_of(x + r * count, count);
}

}  // namespace

WB_CLONES(wb_store_kv,
          (const WbAttention* a, const WbKv* kv, const WbRows* rows, int32_t row, const float* keys,
           const float* values),
          (a, kv, rows, row, keys, values))

WB_CLONES(wb_argmax, (const float* x, int32_t m, int64_t count, int64_t* best), (x, m, count, best))

WB_CLONES(wb_to_bf16, (const float* from, int64_t count, uint16_t* to), (from, count, to))
