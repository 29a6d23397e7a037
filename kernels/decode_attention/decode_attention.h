// Attention of a few query rows over a long cache. See reference.py for the definition.
//
// A row's result has the same bits however many rows, sequences or threads there are: the context is
// cut at fixed columns, every piece is summed in the same order, and the pieces are joined in order.
#pragma once
#include <cstddef>
#include <cstdint>

// Item types of queries and cache.
enum WbItem : int32_t { WB_ITEM_BF16 = 0, WB_ITEM_INT8 = 1, WB_ITEM_F32 = 2 };

// One layer's cache: keys and values [batch, kv_heads, capacity, width], scales [batch, kv_heads,
// capacity] bfloat16 when the item is int8.
struct WbKv {
  void* keys;
  void* values;
  uint16_t* key_scales;
  uint16_t* value_scales;
};

// Which rows there are. Row b * n + i is node i of sequence b; it is stored in column base[b] + i and
// sees the columns first[b] .. base[b] - 1 and then its path.
//
// Ragged rows: `start` is set, sequence b's nodes are the rows start[b] .. start[b + 1] - 1, n is the most
// that a sequence has, and every row has its own length and path ([rows] and [rows, n]).
struct WbRows {
  int32_t batch;
  int32_t n;               // rows per sequence
  const int32_t* base;     // [batch] tokens in the cache before this forward
  const int32_t* first;    // [batch] columns hidden at the left
  const int32_t* length;   // [n] nodes on the path from the root to node i, itself included
  const int32_t* path;     // [n, n] those nodes in order, path[i * n + length[i] - 1] == i
  int32_t chain;           // 1: node i's path is 0 .. i
  const int32_t* start;    // [batch + 1] or null: first row of each sequence
  const int32_t* owner;    // [rows] or null: the sequence of each row
  const int32_t* slot;     // [batch] or null: each sequence's place in the caches; null: b
};

inline int32_t wb_first_row(const WbRows& r, int32_t b) { return r.start ? r.start[b] : b * r.n; }
inline int32_t wb_row_count(const WbRows& r, int32_t b) {
  return r.start ? r.start[b + 1] - r.start[b] : r.n;
}
inline int32_t wb_row_total(const WbRows& r) { return r.start ? r.start[r.batch] : r.batch * r.n; }
inline int32_t wb_row_owner(const WbRows& r, int32_t row) { return r.owner ? r.owner[row] : row / r.n; }
inline int32_t wb_slot(const WbRows& r, int32_t b) { return r.slot ? r.slot[b] : b; }

struct WbAttention {
  int32_t heads, kv_heads, width;  // width of keys and values alike
  int32_t capacity;                // columns of the cache
  int32_t item;                    // WbItem of the cache
  float scaling;
};

#pragma GCC visibility push(default)
extern "C" {
// Bytes of scratch that wb_decode_attention needs for a cache of `capacity` columns.
int64_t wb_decode_attention_scratch(const WbAttention* a, int32_t batch, int32_t n);
// query float32 [batch * n, heads, width] (already turned) -> out float32 of the same shape.
void wb_decode_attention(const WbAttention* a, const WbKv* kv, const WbRows* rows,
                         const float* query, float* out, void* scratch);
}
#pragma GCC visibility pop
