/* Reads, writes and syncs of hot files that the kernel does not pass through. See hotfiles.c. */
#ifndef TIERFS_HOTFILES_H
#define TIERFS_HOTFILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

/* Each does what was asked for with the descriptor and answers the request, at once or from a thread. False when that
 * cannot be done: the caller sees to it then. `fuse_fd` and `unique` say whom to answer. */
bool hot_read(int fuse_fd, uint64_t unique, int fd, const struct read_in *in);
bool hot_write(int fuse_fd, uint64_t unique, int fd, const struct write_in *in, size_t length);
bool hot_sync(int fuse_fd, uint64_t unique, int fd, bool data_only);

/* Bytes that went through here, in both directions: what the kernel passes through does not. */
struct hot_bytes {
    uint64_t read, written;
};
struct hot_bytes hot_bytes(void);
void hot_copied(uint64_t bytes);

/* Finish what was begun, and end the threads. */
void hotfiles_finish(void);

#endif
