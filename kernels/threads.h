// threads.h: one parallel region per call, on a team that somebody else owns, with a barrier of our own inside.
#ifndef HOLDFAST_THREADS_H
#define HOLDFAST_THREADS_H

#include "engine.h"

typedef void (*Work)(void *job, Index worker, Index workers);

// Calls work(job, 0..workers-1, workers) side by side. `workers` may come out smaller than asked for.
void run_team(Index workers, Work work, void *job);

// Sense-reversing barrier. The two counters live apart: arrivals must not disturb those who watch the phase.
struct alignas(64) Barrier {
    Index arrived;
    char apart[56];
    Index phase;
    char end[56];
};

void wait_for_all(Barrier *barrier, Index workers);

#endif
