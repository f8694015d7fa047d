/* The tap: sees every request and reply between libfuse and /dev/fuse, and adds what pyfuse3 cannot say.
 * See tap.c. One tap per process, used by one thread. */
#ifndef TIERFS_TAP_H
#define TIERFS_TAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#define TAP_OPCODES 64 /* the kernel's opcodes are below this, but for CUSE's */

struct tap_limits {
    bool passthrough;       /* ask for FUSE_PASSTHROUGH, open with a backing id where the file handle has one */
    bool cache_directories; /* let the kernel keep listings until it changes the directory itself */
    bool keep_pages;        /* the kernel keeps what it knows of a file whatever becomes of the file's times */
    uint16_t max_background;
    uint32_t max_readahead; /* bytes; 0 leaves the kernel's own */
    uint32_t cache_seconds; /* how long the kernel keeps what is answered here */
};

/* What to ask for in the next INIT reply. */
void tap_configure(const struct tap_limits *limits);

/* Begin with this INIT request, which another process has answered on the same connection: libfuse gets it as the first
 * request, and its reply goes nowhere. False when it is none. */
bool tap_resume(const void *request, size_t length);

/* The INIT request of the connection, as the kernel sent it; NULL before there was one. */
const void *tap_init_request(size_t *length);

/* The number of the request that was read last. */
uint64_t tap_request(void);

/* Requests on this file handle that pyfuse3 has no handler for are answered with the descriptor `fd` of the node;
 * -1: a file of `size` bytes without a descriptor (cold). `is_known`: the kernel has seen its times as they are now.
 * False when out of memory. */
bool tap_attach(uint32_t handle, uint64_t nodeid, int fd, int64_t size, bool is_known);
void tap_detach(uint32_t handle);

/* Requests read so far, by opcode. */
const uint64_t *tap_counts(void);

/* Whether the request that was read last takes set-user-ID and set-group-ID away: a WRITE by somebody else than root. */
bool tap_kills_privileges(void);

/* The INIT flags that the kernel offered (flags | flags2 << 32), and those that the reply asked for. */
uint64_t tap_offered(void);
uint64_t tap_granted(void);

/* Whether a request waits to be read that is not in /dev/fuse. */
bool tap_has_request(void);

/* libfuse's custom I/O (struct fuse_custom_io): read(2) and writev(2) of /dev/fuse, with the tap between. */
ssize_t tap_read(int fd, void *buffer, size_t size, void *userdata);
ssize_t tap_writev(int fd, struct iovec *iov, int count, void *userdata);

/* Free everything and forget the connection. */
void tap_reset(void);

#endif
