// What the attention kernels share: one piece of work, and where its numbers go.
#pragma once
#include <cstring>

#include "decode_attention.h"

namespace wb {

constexpr int kPiece = 256;  // columns of one piece of the context; part of the numerics
constexpr int kLanes = 16;   // query rows that are computed side by side

inline float from_bf16(uint16_t v) {
  uint32_t u = static_cast<uint32_t>(v) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

// Round to nearest even; not-a-number stays one.
inline uint16_t to_bf16(float f) {
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// Keys and values of one head of one sequence, and the order in which columns are read: position j is
// column j below `base`, then the columns of a path.
struct Source {
  const char* keys;
  const char* values;
  const uint16_t* key_scales;
  const uint16_t* value_scales;
  int item, width;
  int base;             // positions below are columns
  const int32_t* path;  // nodes behind base; null: they lie in order
  int64_t column(int j) const { return j < base || !path ? j : base + path[j - base]; }
  int item_bytes() const { return item == WB_ITEM_INT8 ? 1 : item == WB_ITEM_BF16 ? 2 : 4; }
  const char* key(int j) const { return keys + column(j) * width * item_bytes(); }
  const char* value(int j) const { return values + column(j) * width * item_bytes(); }
};

// One piece: positions [start, end) for `rows` query rows; row r sees positions below limit[r].
struct Piece {
  Source source;
  int start, end, first;
  int rows;
  const float* query;        // row r at query + offset(r)
  const int64_t* offsets;    // [rows] in floats
  const int32_t* limits;     // [rows]
  float scaling;
  float* best;               // [rows] largest score, -inf when nothing is seen
  float* total;              // [rows] sum of exponentials
  float* sums;               // [rows rounded up to 16, width]
};

void piece_generic(const Piece& p);
void piece_avx2(const Piece& p);
void piece_amx(const Piece& p);  // bfloat16 and int8 caches, width a multiple of 32 up to 256
bool has_amx();
bool has_avx2();

// A buffer of this thread that only grows.
char* thread_buffer(int which, size_t bytes);

}  // namespace wb
