/* Requests that were read and not answered yet, written down where the next process finds them.
 * Needed before Linux 6.9, which does not send such requests again. See inflight.c. */
#ifndef TIERFS_INFLIGHT_H
#define TIERFS_INFLIGHT_H

#include <stddef.h>
#include <stdint.h>

/* Write them down in `slots`, `count` (a power of two) words that are 0 where they are free; NULL: nowhere. */
void inflight_track(uint64_t *slots, size_t count);

void inflight_add(uint64_t unique, uint32_t opcode);
/* Any thread may say so. */
void inflight_done(uint64_t unique);

#endif
