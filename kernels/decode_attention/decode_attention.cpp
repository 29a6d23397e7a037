// Cuts the context into pieces, runs them on the pool, joins them in order.
#include "decode_attention.h"

#include <cmath>
#include <cstdlib>
#include <limits>

#include "../native/pool.h"
#include "attention_parts.h"

namespace wb {

char* thread_buffer(int which, size_t bytes) {
  struct Held {
    char* memory = nullptr;
    size_t size = 0;
    ~Held() { std::free(memory); }
  };
  static thread_local Held held[3];
  Held& h = held[which];
  if (h.size < bytes) {
    std::free(h.memory);
    h.size = (bytes + 4095) / 4096 * 4096;
    h.memory = static_cast<char*>(std::aligned_alloc(64, h.size));
    if (!h.memory) std::abort();  // a few hundred KiB; nothing sensible is left to do
  }
  return h.memory;
}

namespace {

using Run = void (*)(const Piece&);

// WORKBENCH_ISA limits this as it limits the other kernels.
Run chosen(const WbAttention& a) {
  static const char* forced = std::getenv("WORKBENCH_ISA");
  static const bool plain = forced && !std::strcmp(forced, "generic");
  static const bool any = !forced || !*forced || !std::strcmp(forced, "amx");
  if (any && a.item != WB_ITEM_F32 && a.width % 32 == 0 && a.width <= 256 && has_amx())
    return piece_amx;
  return !plain && has_avx2() ? piece_avx2 : piece_generic;
}

struct Call {
  const WbAttention* a;
  const WbKv* kv;
  const WbRows* rows;
  const float* query;
  float* out;
  Run run;
  int groups, pieces, queries, padded;  // queries per key head, padded for whole tiles
  float *best, *total, *sums;           // [batch, kv_heads, pieces, padded (, width)]
};

// What a piece of this sequence and key head reads.
Piece over(const Call& c, int sequence, int head) {
  const WbAttention& a = *c.a;
  const int64_t plane = static_cast<int64_t>(wb_slot(*c.rows, sequence)) * a.kv_heads + head;
  const int item = a.item == WB_ITEM_INT8 ? 1 : a.item == WB_ITEM_BF16 ? 2 : 4;
  const bool scaled = a.item == WB_ITEM_INT8;
  Piece p;
  p.source.keys = static_cast<const char*>(c.kv->keys) + plane * a.capacity * a.width * item;
  p.source.values = static_cast<const char*>(c.kv->values) + plane * a.capacity * a.width * item;
  p.source.key_scales = scaled ? c.kv->key_scales + plane * a.capacity : nullptr;
  p.source.value_scales = scaled ? c.kv->value_scales + plane * a.capacity : nullptr;
  p.source.item = a.item;
  p.source.width = a.width;
  p.source.base = c.rows->base[sequence];
  p.source.path = nullptr;
  p.first = c.rows->first[sequence];
  p.query = c.query;
  p.scaling = a.scaling;
  return p;
}

void piece(void* context, int task) {
  const Call& c = *static_cast<Call*>(context);
  const WbAttention& a = *c.a;
  const WbRows& rows = *c.rows;
  const int index = task % c.pieces, head = task / c.pieces % a.kv_heads;
  const int sequence = task / c.pieces / a.kv_heads;
  const int base = rows.base[sequence], start = index * kPiece;
  const int n = wb_row_count(rows, sequence), row0 = wb_first_row(rows, sequence);
  const int table = rows.start ? row0 : 0;  // where this sequence's lengths and paths begin
  float* best = c.best + static_cast<int64_t>(task) * c.padded;
  float* total = c.total + static_cast<int64_t>(task) * c.padded;
  for (int r = 0; r < c.queries; ++r) total[r] = 0.0f;

  int64_t* offsets = static_cast<int64_t*>(alloca(sizeof(int64_t) * c.queries));
  int32_t* limits = static_cast<int32_t*>(alloca(sizeof(int32_t) * c.queries));
  for (int i = 0; i < n; ++i)
    for (int g = 0; g < c.groups; ++g) {
      const int64_t row = row0 + i;
      offsets[i * c.groups + g] = (row * a.heads + head * c.groups + g) * a.width;
      limits[i * c.groups + g] = base + (rows.chain ? i + 1 : rows.length[table + i]);
    }
  Piece p = over(c, sequence, head);
  p.start = start;
  float* sums = c.sums + static_cast<int64_t>(task) * c.padded * a.width;
  if (rows.chain || start + kPiece <= base) {
    const int last = rows.chain ? base + n : start + kPiece;
    p.end = last < start + kPiece ? last : start + kPiece;
    if (p.end <= start || p.end <= p.first) return;
    p.rows = n * c.groups;
    p.offsets = offsets;
    p.limits = limits;
    p.best = best;
    p.total = total;
    p.sums = sums;
    c.run(p);
    return;
  }
  for (int i = 0; i < n; ++i) {  // a tree's last columns: another order for every node
    const int last = base + rows.length[table + i];
    p.end = last < start + kPiece ? last : start + kPiece;
    if (p.end <= start || p.end <= p.first) continue;
    const int64_t at = static_cast<int64_t>(i) * c.groups;
    p.source.path = rows.path + static_cast<int64_t>(table + i) * rows.n;
    p.rows = c.groups;
    p.offsets = offsets + at;
    p.limits = limits + at;
    p.best = best + at;
    p.total = total + at;
    p.sums = sums + at * a.width;  // whole tiles: what runs over is the next node's, written later
    c.run(p);
  }
}

// One query row from its pieces in order, each weighted by exp(its best - the best). Piece s of the row is at
// s * apart of best and total.
void join_row(const float* best, const float* total, const float* sums, int64_t apart, int pieces, int width,
              float* out) {
  float most = -std::numeric_limits<float>::infinity(), whole = 0.0f;
  for (int s = 0; s < pieces; ++s)
    if (total[s * apart] > 0.0f && best[s * apart] > most) most = best[s * apart];
  for (int d = 0; d < width; ++d) out[d] = 0.0f;
  for (int s = 0; s < pieces; ++s) {
    if (!(total[s * apart] > 0.0f)) continue;
    const float weight = std::exp(best[s * apart] - most);
    const float* from = sums + s * apart * width;
    whole += total[s * apart] * weight;
    for (int d = 0; d < width; ++d) out[d] += from[d] * weight;
  }
  const float scale = whole > 0.0f ? 1.0f / whole : 0.0f;
  for (int d = 0; d < width; ++d) out[d] *= scale;
}

// One sequence and key head.
void join(void* context, int task) {
  const Call& c = *static_cast<Call*>(context);
  const int width = c.a->width, head = task % c.a->kv_heads, sequence = task / c.a->kv_heads;
  const int64_t first = static_cast<int64_t>(task) * c.pieces * c.padded;
  const int queries = wb_row_count(*c.rows, sequence) * c.groups;
  const int64_t row0 = wb_first_row(*c.rows, sequence);
  for (int r = 0; r < queries; ++r)
    join_row(c.best + first + r, c.total + first + r, c.sums + (first + r) * width, c.padded, c.pieces, width,
             c.out + ((row0 + r / c.groups) * c.a->heads + head * c.groups + r % c.groups) * width);
}

// Many query rows: kStrip of them over all their pieces, whose sums stay in this thread's cache. Same pieces, same
// order, same bits.
constexpr int kStrip = 128;

void strip(void* context, int task) {
  const Call& c = *static_cast<Call*>(context);
  const WbAttention& a = *c.a;
  const int strips = (c.queries + kStrip - 1) / kStrip;
  const int index = task % strips, head = task / strips % a.kv_heads, sequence = task / strips / a.kv_heads;
  const int n = wb_row_count(*c.rows, sequence) * c.groups, from = index * kStrip;
  const int count = n - from < kStrip ? n - from : kStrip;
  if (count <= 0) return;
  const int64_t row0 = wb_first_row(*c.rows, sequence);
  const int base = c.rows->base[sequence];
  int64_t offsets[kStrip];
  int32_t limits[kStrip];
  for (int r = 0; r < count; ++r) {
    const int64_t row = row0 + (from + r) / c.groups;
    offsets[r] = (row * a.heads + head * c.groups + (from + r) % c.groups) * a.width;
    limits[r] = base + (from + r) / c.groups + 1;
  }
  const int last = limits[count - 1], pieces = (last + kPiece - 1) / kPiece;
  constexpr int64_t kApart = kStrip + 16;
  float* sums = reinterpret_cast<float*>(thread_buffer(2, sizeof(float) * kApart * pieces * (a.width + 2)));
  float* best = sums + kApart * pieces * a.width;
  float* total = best + kApart * pieces;
  Piece p = over(c, sequence, head);
  p.rows = count;
  p.offsets = offsets;
  p.limits = limits;
  for (int s = 0; s < pieces; ++s) {
    p.start = s * kPiece;
    p.end = last < p.start + kPiece ? last : p.start + kPiece;
    p.best = best + s * kApart;
    p.total = total + s * kApart;
    p.sums = sums + s * kApart * a.width;
    for (int r = 0; r < count; ++r) p.total[r] = 0.0f;
    if (p.end > p.first) c.run(p);
  }
  for (int r = 0; r < count; ++r)
    join_row(best + r, total + r, sums + r * a.width, kApart, pieces, a.width, c.out + offsets[r]);
}

int padded_rows(const WbAttention& a, int n) {
  return (n * (a.heads / a.kv_heads) + 15) / 16 * 16 + 16;
}

int pieces_of(int columns) { return (columns + kPiece - 1) / kPiece; }

}  // namespace
}  // namespace wb

extern "C" int64_t wb_decode_attention_scratch(const WbAttention* a, int32_t batch, int32_t n) {
  const int64_t rows = static_cast<int64_t>(batch) * a->kv_heads * wb::pieces_of(a->capacity) *
                       wb::padded_rows(*a, n);
  return rows * static_cast<int64_t>(sizeof(float)) * (a->width + 2) + 256;
}

extern "C" void wb_decode_attention(const WbAttention* a, const WbKv* kv, const WbRows* rows,
                                    const float* query, float* out, void* scratch) {
  wb::Call c;
  c.a = a;
  c.kv = kv;
  c.rows = rows;
  c.query = query;
  c.out = out;
  c.run = wb::chosen(*a);
  c.groups = a->heads / a->kv_heads;
  c.queries = rows->n * c.groups;
  c.padded = wb::padded_rows(*a, rows->n);
  int columns = 0;
  for (int b = 0; b < rows->batch; ++b) {
    const int end = rows->base[b] + wb_row_count(*rows, b);
    columns = end > columns ? end : columns;
  }
  c.pieces = wb::pieces_of(columns);
  const int64_t total = static_cast<int64_t>(rows->batch) * a->kv_heads * c.pieces * c.padded;
  c.sums = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(scratch) + 63) / 64 * 64);
  c.best = c.sums + total * a->width;
  c.total = c.best + total;
  if (rows->chain && c.queries >= 4 * wb::kStrip) {
    const int strips = (c.queries + wb::kStrip - 1) / wb::kStrip;
    wb_parallel(rows->batch * a->kv_heads * strips, wb::strip, &c);
    return;
  }
  wb_parallel(rows->batch * a->kv_heads * c.pieces, wb::piece, &c);
  const int joins = rows->batch * a->kv_heads;
  if (c.pieces > 4 || rows->n > 4) wb_parallel(joins, wb::join, &c);
  else
    for (int t = 0; t < joins; ++t) wb::join(&c, t);
}
