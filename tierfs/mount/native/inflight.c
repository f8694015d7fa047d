/* Requests that were read and not answered yet.
 *
 * A word for each, at the place that its number says or a few further on: the kernel numbers requests one after the
 * other, so they seldom meet. One thread adds, and each word is taken back by who answers: no lock. */
#include "inflight.h"

#include <stdatomic.h>

#include "protocol.h"

/* So many requests may ask for one place; who finds none is not written down. */
#define LONGEST_WAY 64

static struct {
    _Atomic uint64_t *slots;
    size_t count;
} inflight;

static _Atomic uint64_t *slot(uint64_t unique, size_t step) {
    return &inflight.slots[((unique >> 1) + step) & (inflight.count - 1)];
}

void inflight_track(uint64_t *slots, size_t count) {
    inflight.slots = (_Atomic uint64_t *)slots;
    inflight.count = count;
}

void inflight_add(uint64_t unique, uint32_t opcode) {
    if (!inflight.slots || opcode == OP_FORGET || opcode == OP_BATCH_FORGET || opcode == OP_INTERRUPT) return;
    for (size_t step = 0; step < LONGEST_WAY; step++) {
        uint64_t free = 0;
        if (atomic_compare_exchange_strong(slot(unique, step), &free, unique)) return;
    }
}

void inflight_done(uint64_t unique) {
    if (!inflight.slots) return;
    for (size_t step = 0; step < LONGEST_WAY; step++) {
        uint64_t found = unique;
        if (atomic_compare_exchange_strong(slot(unique, step), &found, 0)) return;
    }
}
