/* What stands behind file handles: the descriptor of a hot file, or the size of a cold one. See attached.c. */
#ifndef TIERFS_ATTACHED_H
#define TIERFS_ATTACHED_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct attached {
    int fd; /* -1: cold */
    bool in_use;
    uint32_t next; /* of the chain of its node, a handle and one; 0: the last */
    uint64_t nodeid;
    int64_t size;
    struct timespec ctime; /* when it was attached */
};

/* A handle of a node was opened, or has other bytes now. False when out of memory. */
bool attached_put(uint32_t handle, struct attached file);
void attached_drop(uint32_t handle);
void attached_drop_all(void);

/* By file handle; NULL where there is none. Valid until the next change. */
const struct attached *attached_find(uint64_t fh);

/* A descriptor of a hot file that is open, -1 where there is none. */
int attached_fd_of(uint64_t nodeid);

#endif
