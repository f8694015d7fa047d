/* Directories that the tap answers for. See directories.c. */
#ifndef TIERFS_DIRECTORIES_H
#define TIERFS_DIRECTORIES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "protocol.h"

/* Answer for a directory from now on: `fd` (O_PATH will do) belongs to this module. The caller vouches that a name
 * which is not there on disk is not in the tree, until it drops the directory. */
void directory_keep(uint64_t nodeid, int fd);
void directory_drop(uint64_t nodeid);
void directories_drop(void);

/* stat(2) of a directory. False when it is not kept. */
bool directory_attributes(uint64_t nodeid, struct attr *out);

/* Whether a name (as in a LOOKUP: `length` bytes with their end) is missing. False when that is not known here. */
bool directory_lacks(uint64_t nodeid, const char *name, size_t length);

#endif
