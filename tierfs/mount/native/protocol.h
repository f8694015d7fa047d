/* The FUSE protocol as far as the tap speaks it (include/uapi/linux/fuse.h, protocol 7.41), written out here because the
 * headers of older systems lack the newer fields. */
#ifndef TIERFS_PROTOCOL_H
#define TIERFS_PROTOCOL_H

#include <stdint.h>

enum {
    OP_LOOKUP = 1,
    OP_FORGET = 2,
    OP_GETATTR = 3,
    OP_OPEN = 14,
    OP_READ = 15,
    OP_WRITE = 16,
    OP_RELEASE = 18,
    OP_FSYNC = 20,
    OP_GETXATTR = 22,
    OP_INIT = 26,
    OP_OPENDIR = 27,
    OP_CREATE = 35,
    OP_INTERRUPT = 36,
    OP_BATCH_FORGET = 42,
    OP_FALLOCATE = 43,
    OP_LSEEK = 46,
    OP_COPY_FILE_RANGE = 47,
    OP_IOCTL = 39,
    OP_COPY_FILE_RANGE_64 = 53, /* kernel 6.18: the same request, and the same 8 bytes back */
};

#define INIT_AUTO_INVAL_DATA (UINT64_C(1) << 12)
#define INIT_HANDLE_KILLPRIV_V2 (UINT64_C(1) << 28)
#define INIT_EXT (UINT64_C(1) << 30)
#define INIT_PASSTHROUGH (UINT64_C(1) << 37)

#define FOPEN_DIRECT_IO (1u << 0)
#define FOPEN_KEEP_CACHE (1u << 1)
#define FOPEN_CACHE_DIR (1u << 3)
#define FOPEN_PASSTHROUGH (1u << 7)

#define WRITE_KILL_SUIDGID (1u << 2)
#define NOTIFY_INVAL_INODE 2

struct in_header {
    uint32_t len, opcode;
    uint64_t unique, nodeid;
    uint32_t uid, gid, pid;
    uint16_t total_extlen, padding;
};

struct out_header {
    uint32_t len;
    int32_t error;
    uint64_t unique;
};

struct init_in {
    uint32_t major, minor, max_readahead, flags, flags2;
};

struct init_out {
    uint32_t major, minor, max_readahead, flags;
    uint16_t max_background, congestion_threshold;
    uint32_t max_write, time_gran;
    uint16_t max_pages, map_alignment;
    uint32_t flags2, max_stack_depth;
};

struct attr {
    uint64_t ino, size, blocks, atime, mtime, ctime;
    uint32_t atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev, blksize, flags;
};

#define GETATTR_FH (1u << 0)

struct getattr_in {
    uint32_t getattr_flags, dummy;
    uint64_t fh;
};

struct attr_out {
    uint64_t attr_valid; /* seconds */
    uint32_t attr_valid_nsec, padding;
    struct attr attr;
};

struct entry_out {
    uint64_t nodeid, generation; /* node 0: there is no such name */
    uint64_t entry_valid, attr_valid; /* seconds */
    uint32_t entry_valid_nsec, attr_valid_nsec;
    struct attr attr;
};

struct open_out {
    uint64_t fh;
    uint32_t open_flags, backing_id;
};

struct write_in {
    uint64_t fh, offset;
    uint32_t size, write_flags;
    uint64_t lock_owner;
    uint32_t flags, padding; /* the bytes follow */
};

struct write_out {
    uint32_t size, padding;
};

struct read_in {
    uint64_t fh, offset;
    uint32_t size, read_flags;
    uint64_t lock_owner;
    uint32_t flags, padding;
};

#define FSYNC_FDATASYNC (1u << 0)

struct fsync_in {
    uint64_t fh;
    uint32_t fsync_flags, padding;
};

struct getxattr_in {
    uint32_t size, padding; /* 0: how large is it? The name follows. */
};

struct getxattr_out {
    uint32_t size, padding;
};

struct release_in {
    uint64_t fh;
    uint32_t flags, release_flags;
};

struct notify_inval_inode_out {
    uint64_t nodeid;
    int64_t offset, length;
};

struct fallocate_in {
    uint64_t fh, offset, length;
    uint32_t mode, padding;
};

struct lseek_in {
    uint64_t fh, offset;
    uint32_t whence, padding;
};

struct copy_in {
    uint64_t fh_in, off_in, nodeid_out, fh_out, off_out, len, flags;
};

_Static_assert(sizeof(struct in_header) == 40, "layout of fuse_in_header");
_Static_assert(sizeof(struct out_header) == 16, "layout of fuse_out_header");
_Static_assert(sizeof(struct init_out) == 40, "layout of fuse_init_out up to max_stack_depth");
_Static_assert(sizeof(struct attr_out) == 104, "layout of fuse_attr_out");
_Static_assert(sizeof(struct entry_out) == 128, "layout of fuse_entry_out");
_Static_assert(sizeof(struct write_in) == 40, "layout of fuse_write_in");
_Static_assert(sizeof(struct open_out) == 16, "layout of fuse_open_out");

#endif
