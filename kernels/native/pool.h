// The library's threads. Plain C ABI; nothing starts before the first call that has work for two.
//
//   wb_parallel(n, fn, ctx)   runs fn(ctx, i) for i in 0 .. n - 1, each exactly once, on this thread and
//                             the pool's; returns when all are done. Order and thread are not fixed, so
//                             fn must write disjoint results. Calls from inside fn, and calls while
//                             another thread uses the pool, run on the calling thread alone.
//   wb_set_threads(n)         threads that take part, the caller included (default: usable processors).
//
// How it keeps going beside other processes: every thread owns a run of neighbouring chunks (so that
// memory is read in order) and takes chunks from others' ends when its own are done, so a thread that
// the system has put aside delays nothing but the chunk it is in. Waiting spins for a few microseconds
// and then sleeps, which gives the processor to whoever holds that chunk.
#pragma once
#include <cstdint>

extern "C" {
void wb_parallel(int n_chunks, void (*fn)(void* ctx, int chunk), void* ctx);
void wb_set_threads(int threads);
int wb_threads(void);
}
