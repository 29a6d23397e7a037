// Matrix products y = x W^T + bias over stored weights.
//
// A row of x gives the same bits however many rows come with it, and however many threads there are:
// columns are summed in fixed blocks in a fixed order. (A prompt's rows have other bits than rows that are decoded.) That holds for one machine and WORKBENCH_ISA.
//
// Stored weights. Panels are 16 rows of W; `padded` columns, a multiple of the block, zeros behind the
// real ones; rows padded to whole panels. Within a panel, columns come in order:
//   WB_BF16  no panels: row-major bfloat16 [rows, columns], as a checkpoint has it.
//   WB_INT8  byte = q + 128. 64 bytes hold 4 columns: byte 4 n + 2 p + h is row n, column 2 h + p.
//   WB_INT4  value 0..15. 64 bytes hold 8 columns: 16-bit word 2 n + p, its t-th nibble from below, is row
//            n, column 2 t + p.
//   WB_SPARSE  no panels: `data` is the bfloat16 numbers that are not zero, row by row in order of columns, with
//            32 more numbers behind them; `scales` is uint32 [rows + 1], where each row begins in `data`, then
//            uint32 [rows][ceil(columns / 32)]: bit c % 32 of word c / 32 says that column c is not zero.
//            Products are those of WB_BF16 with the zeros filled in, bit for bit.
//   WB_FIELDS  codes of 1 .. 8 bits, as fields of 8, 4, 2 and 1 bits, the widest at the bottom of the code.
//            32 columns are 8 vectors of 64 bytes, vector v with columns 4 v .. in the order of WB_INT8. For
//            each field of f bits, f lines of 64 bytes: byte i of line l holds, from below, byte i of
//            vectors l (8 / f) ..; 4 bits alone are in order for every 8 columns. A code c is the number
//            levels[c] (4 bits), or c itself; w = (number - middle) unit s.
//   WB_E4M3, WB_E5M2  bytes in the order of WB_INT8, 8-bit floats (OCP); w = number unit s.
// Scales of a panel follow each other by group:
//   WB_SCALE_PAIR  bfloat16 s[16], z[16]: w = (q - 8) s + z (int4) or q s + z (int8)
//   WB_SCALE_ROW   bfloat16 s[16] once per panel, for all columns: w = q s
//   WB_SCALE_HALF  float16 s[16]: w = (q - 8) s (int4), q s (int8); GGUF Q4_0 and Q8_0 exactly
//   WB_SCALE_K     per 256 columns float16 d[16], dmin[16], then bytes a[8][16], b[8][16]: columns 32 i ..
//                  are w = d a[i] q - dmin b[i] with q in 0..15; GGUF Q4_K exactly
//   WB_SCALE_E8M0, _E4M3, _UE5M3  one byte s[16] per group: a power of two, or an 8-bit float
//   WB_SCALE_BF16  bfloat16 s[16] per group
//   WB_SCALE_DOUBLE  per 16 groups (or the rest): float32 second, float32 mean, 8 bytes nothing, then per group
//                  bytes e[16] in E4M3: s = max(0, e second + mean)
#pragma once
#include <cstdint>

enum WbKind : int32_t { WB_BF16 = 0, WB_INT8, WB_INT4, WB_SPARSE, WB_FIELDS, WB_E4M3, WB_E5M2 };
enum WbScale : int32_t {
  WB_SCALE_NONE = 0, WB_SCALE_PAIR, WB_SCALE_ROW, WB_SCALE_HALF, WB_SCALE_K,
  WB_SCALE_E8M0, WB_SCALE_E4M3, WB_SCALE_UE5M3, WB_SCALE_DOUBLE, WB_SCALE_BF16
};
enum WbActivations : int32_t { WB_A16 = 0, WB_A8 = 1 };

struct WbWeight {
  int32_t kind, scale, activations;
  int32_t rows, columns;  // of W
  int32_t padded;         // columns stored
  int32_t group;          // columns that share a scale: 32, 64, 128 ... (WB_SCALE_ROW: padded); 16: fields
                          // of 4 bits only
  int32_t bits;           // WB_FIELDS: of a code
  const void* data;
  const void* scales;
  const uint8_t* levels;  // WB_FIELDS: 16 numbers, or null
  float unit, middle;     // WB_FIELDS, WB_E4M3, WB_E5M2 (unit only)
};

// One product: y [m, rows], float32 or bfloat16 (y_bf16), bias float32 [rows] or null.
struct WbProduct {
  const WbWeight* weight;
  const float* bias;
  void* y;
  int32_t y_bf16;
  int32_t prompt;  // rows of a prompt: bits of their own (amx_prompt.h), where the processor gains by it. All or none
                   // of the products of a call.
};

extern "C" {
// Products with the same x, bfloat16 [m, columns] dense; any m >= 1. Uses wb_parallel.
// Returns 0, or 1 for a weight that it does not know (nothing is computed then).
int32_t wb_linear(const WbProduct* products, int32_t count, const uint16_t* x, int32_t m);
// "amx", "avx512_vnni", "avx512", "avx2", "generic": what wb_linear runs here. WORKBENCH_ISA lowers it.
const char* wb_isa(void);
}
