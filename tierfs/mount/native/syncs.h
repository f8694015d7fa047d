/* fsync(2) and fdatasync(2) of hot files, in threads. See syncs.c. */
#ifndef TIERFS_SYNCS_H
#define TIERFS_SYNCS_H

#include <stdbool.h>
#include <stdint.h>

/* Sync a file in a thread and answer the request. False when that cannot be done: the caller sees to it then. */
bool sync_soon(int fuse_fd, uint64_t unique, int fd, bool data_only);

/* Finish what was begun, and end the threads. */
void syncs_finish(void);

#endif
