// What the kernels of linear.h share. Not for other operations.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "linear.h"

namespace wb {

constexpr int kPanel = 16;     // rows of W in a panel
// Rows of x that are prepared at a time: they stay in the second-level cache. Where products are blocked by columns, and
// elsewhere.
constexpr int kMostRows = 256, kFewerRows = 128;

inline int block_of(const WbWeight& w) { return w.group % 64 == 0 ? 64 : w.group % 32 == 0 ? 32 : 16; }
inline int panels_of(const WbWeight& w) { return (w.rows + kPanel - 1) / kPanel; }
inline int code_bits(const WbWeight& w) {
  return w.kind == WB_INT4 ? 4 : w.kind == WB_FIELDS ? w.bits : 8;
}
inline size_t panel_bytes(const WbWeight& w) {
  return static_cast<size_t>(w.padded) * (kPanel / 8) * code_bits(w);
}
inline bool floats(const WbWeight& w) { return w.kind == WB_E4M3 || w.kind == WB_E5M2; }

// Bytes of a panel's scales.
inline size_t scale_bytes(const WbWeight& w) {
  switch (w.scale) {
    case WB_SCALE_PAIR: return static_cast<size_t>(w.padded / w.group) * 64;
    case WB_SCALE_ROW: return 32;
    case WB_SCALE_BF16:
    case WB_SCALE_HALF: return static_cast<size_t>(w.padded / w.group) * 32;
    case WB_SCALE_K: return static_cast<size_t>(w.padded / 256) * 320;
    case WB_SCALE_E8M0:
    case WB_SCALE_E4M3:
    case WB_SCALE_UE5M3: return static_cast<size_t>(w.padded / w.group) * 16;
    case WB_SCALE_DOUBLE: {
      const size_t groups = w.padded / w.group;
      return (groups + (groups + 15) / 16) * 16;
    }
    default: return 0;
  }
}

inline const char* scales_of(const WbWeight& w, int panel) {
  return static_cast<const char*>(w.scales) + scale_bytes(w) * panel;
}

// Scales of the block that begins at column k.
inline const char* block_scales(const WbWeight& w, const char* panel, int k) {
  switch (w.scale) {
    case WB_SCALE_PAIR: return panel + static_cast<size_t>(k / w.group) * 64;
    case WB_SCALE_BF16:
    case WB_SCALE_HALF: return panel + static_cast<size_t>(k / w.group) * 32;
    case WB_SCALE_K: return panel + static_cast<size_t>(k / 256) * 320;
    case WB_SCALE_E8M0:
    case WB_SCALE_E4M3:
    case WB_SCALE_UE5M3: return panel + static_cast<size_t>(k / w.group) * 16;
    case WB_SCALE_DOUBLE: return panel + static_cast<size_t>(k / w.group / 16) * 272;  // its section
    default: return panel;
  }
}

inline float float_of(uint16_t bf16) {
  const uint32_t u = static_cast<uint32_t>(bf16) << 16;
  float f;
  std::memcpy(&f, &u, 4);
  return f;
}

inline uint16_t bf16_of(float f) {  // to nearest even
  uint32_t u;
  std::memcpy(&u, &f, 4);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u >> 16) | 0x40);
  return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

// Rows of x that come together, products over them, and x as the kernel wants it.
struct Job {
  const WbProduct* products;  // of WB_SPARSE: as if WB_BF16, with data that each chunk replaces
  const WbProduct* sparse;    // what is stored then, else null
  const uint16_t* x;  // [m, columns]
  char* prepared;
  int count, m, first;  // `first`: row of y where this job's rows begin
  int padded;           // columns of `prepared`
  bool prompt;
  int chunk;            // panels of a chunk
  int start[17];        // first chunk of each product
};

// A path through the instruction sets. `prepare` is called for units 0 .. units(job) - 1 before `run` for
// panels [panel, end) of a product; both from any thread.
struct Path {
  const char* name;
  size_t (*bytes)(const Job&);
  int (*units)(const Job&);
  void (*prepare)(const Job&, int unit);
  void (*run)(const Job&, const WbProduct&, int panel, int end);
  // Panels of a sparse weight without filling them in whole; false where this job is not for it. May be null.
  bool (*sparse)(const Job&, const WbWeight& stored, const WbProduct&, int panel, int end);
  bool prompts;  // whether rows of a prompt go a way of their own
};

const Path* amx_path();  // null where the processor or the system has no such unit
const Path* vnni_path();
const Path* portable_path(const char* forced);

// A buffer of this thread (64-byte aligned) that only grows; `which` 0 .. 3.
char* scratch(int which, size_t bytes);

// Sixteen results of one row of x.
inline void put(const WbProduct& p, int row, int column, int count, const float* v) {
  const size_t at = static_cast<size_t>(row) * p.weight->rows + column;
  for (int i = 0; i < count; ++i) {
    const float y = v[i] + (p.bias ? p.bias[column + i] : 0.0f);
    if (p.y_bf16) static_cast<uint16_t*>(p.y)[at + i] = bf16_of(y);
    else static_cast<float*>(p.y)[at + i] = y;
  }
}

}  // namespace wb
