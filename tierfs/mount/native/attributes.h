/* What stat(2) says, as the protocol says it. */
#ifndef TIERFS_ATTRIBUTES_H
#define TIERFS_ATTRIBUTES_H

#include <sys/stat.h>

#include "protocol.h"

static inline struct attr attributes_of(uint64_t nodeid, const struct stat *st) {
    return (struct attr){
        .ino = nodeid,
        .size = (uint64_t)st->st_size,
        .blocks = (uint64_t)st->st_blocks,
        .atime = (uint64_t)st->st_atim.tv_sec,
        .mtime = (uint64_t)st->st_mtim.tv_sec,
        .ctime = (uint64_t)st->st_ctim.tv_sec,
        .atimensec = (uint32_t)st->st_atim.tv_nsec,
        .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .nlink = (uint32_t)st->st_nlink,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .blksize = (uint32_t)st->st_blksize,
    };
}

#endif
