/* The tap between libfuse and /dev/fuse.
 *
 * pyfuse3 speaks a protocol of 2013: it knows neither kernel passthrough nor FALLOCATE, LSEEK and COPY_FILE_RANGE. Both
 * libraries stay as they are. The tap is libfuse's custom I/O: it reads each request before libfuse does and writes
 * each reply after it.
 *
 *   INIT     the reply also asks for passthrough, HANDLE_KILLPRIV_V2 and the limits of struct tap_limits
 *   OPEN,    a file handle carries a backing id in its upper 32 bits (0: none): the reply opens the file in
 *   CREATE   passthrough, and READ, WRITE and mmap never leave the kernel
 *   OPENDIR  the reply lets the kernel cache the listing
 *   FALLOCATE, LSEEK, COPY_FILE_RANGE   answered here, on the descriptor that was attached to the handle
 *   IOCTL    answered here: no file of the tree is a device
 *   WRITE    whether set-user-ID and set-group-ID go with it (HANDLE_KILLPRIV_V2), which pyfuse3 does not pass on
 *   RELEASE  of a file that changed in passthrough: the kernel has not seen stores through a mapping change its times
 *
 *   READ     of a cold file: a large reply leaves in a thread of its own (replies.h)
 *   READ, WRITE, FSYNC   of a hot file: done and answered here, or in threads (hotfiles.h)
 *   INIT     kept for the next process on this connection; after tap_resume() it is read once more, and not answered
 *   GETATTR, LOOKUP   answered here for directories that are kept (directories.h)
 *   GETATTR  of a hot file that is open: answered here
 *   GETXATTR of its capabilities, which the kernel wants to know before it writes: answered here
 *
 * Nothing in a request is believed before its length was compared with what was read.
 */
#define _GNU_SOURCE
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "attached.h"
#include "attributes.h"
#include "directories.h"
#include "hotfiles.h"
#include "inflight.h"
#include "protocol.h"
#include "replies.h"

/* Somebody who loses set-user-ID by a write: the kernel has said so already. */
#define NOT_ROOT 1
/* Copies in one go; a longer one is cut short, as copy_file_range(2) may be, and the loop stays responsive. */
#define LONGEST_COPY (1u << 20)
/* Requests answered here in a row before the rest of the process gets its turn. */
#define MOST_ANSWERS 16

/* An INIT request, which newer kernels may make longer than it is today (104 bytes with its header). */
#define MOST_INIT 1024

struct pending {
    uint64_t unique;
    uint32_t opcode;
};

static struct {
    struct tap_limits limits;
    uint64_t offered, granted;
    uint64_t counts[TAP_OPCODES];
    bool kills_privileges; /* said by the request that was read last */
    uint64_t request;      /* its number */
    char init[MOST_INIT];  /* the INIT request */
    size_t init_length;
    bool is_to_resume;       /* it is to be read from here */
    uint64_t swallow_unique; /* and its reply, to this number, goes nowhere */
    struct pending *pending; /* requests whose reply is to be changed; few at a time, in no order */
    size_t pending_count, pending_room;
} tap;

void tap_configure(const struct tap_limits *limits) { tap.limits = *limits; }
const uint64_t *tap_counts(void) { return tap.counts; }
uint64_t tap_offered(void) { return tap.offered; }
uint64_t tap_granted(void) { return tap.granted; }
bool tap_kills_privileges(void) { return tap.kills_privileges; }
uint64_t tap_request(void) { return tap.request; }
bool tap_has_request(void) { return tap.is_to_resume; }

bool tap_resume(const void *request, size_t length) {
    struct in_header header;
    if (length < sizeof header || length > sizeof tap.init) return false;
    memcpy(&header, request, sizeof header);
    if (header.opcode != OP_INIT || header.len != length) return false;
    memcpy(tap.init, request, length);
    tap.init_length = length;
    tap.is_to_resume = true;
    tap.swallow_unique = header.unique;
    return true;
}

const void *tap_init_request(size_t *length) {
    *length = tap.init_length;
    return tap.init_length ? tap.init : NULL;
}

void tap_reset(void) {
    free(tap.pending);
    attached_drop_all();
    directories_drop();
    replies_finish();
    hotfiles_finish();
    inflight_track(NULL, 0);
    memset(&tap, 0, sizeof tap);
}

/* Make room for `needed` elements in an array that doubles. */
static bool make_room(void **array, size_t *room, size_t needed, size_t element) {
    if (needed <= *room) return true;
    size_t wanted = *room ? *room * 2 : 64;
    if (wanted < needed) wanted = needed;
    void *larger = realloc(*array, wanted * element);
    if (!larger) return false;
    memset((char *)larger + *room * element, 0, (wanted - *room) * element);
    *array = larger;
    *room = wanted;
    return true;
}

bool tap_attach(uint32_t handle, uint64_t nodeid, int fd, int64_t size, bool is_known) {
    struct stat st = {0};
    if (fd >= 0 && is_known) (void)fstat(fd, &st);
    return attached_put(handle, (struct attached){.fd = fd, .nodeid = nodeid, .size = size, .ctime = st.st_ctim});
}

void tap_detach(uint32_t handle) { attached_drop(handle); }

/* ---- requests ------------------------------------------------------------------------------------------------- */

static void expect_reply(uint64_t unique, uint32_t opcode) {
    void *array = tap.pending;
    bool fits = make_room(&array, &tap.pending_room, tap.pending_count + 1, sizeof *tap.pending);
    tap.pending = array;
    if (fits) tap.pending[tap.pending_count++] = (struct pending){unique, opcode};
}

/* The opcode of the request that a reply answers, 0 when the reply is not to be changed. */
static uint32_t take_expected(uint64_t unique) {
    for (size_t i = 0; i < tap.pending_count; i++)
        if (tap.pending[i].unique == unique) {
            uint32_t opcode = tap.pending[i].opcode;
            tap.pending[i] = tap.pending[--tap.pending_count];
            return opcode;
        }
    return 0;
}

static void note_init(const struct in_header *in, const void *argument, size_t length) {
    struct init_in init = {0};
    if (in->len <= sizeof tap.init) {
        memmove(tap.init, in, in->len);
        tap.init_length = in->len;
    }
    memcpy(&init, argument, length < sizeof init ? length : sizeof init);
    tap.offered = init.flags;
    if (init.flags & INIT_EXT) tap.offered |= (uint64_t)init.flags2 << 32;
}

/* What the kernel does when somebody else than root changes the bytes of a file on the local filesystem; root's
 * rights, with which this process changes them, would keep the bits. */
static void drop_privileges(int fd, uint32_t uid) {
    struct stat st;
    if (!uid || fstat(fd, &st)) return;
    mode_t kept = st.st_mode & 07777 & ~(mode_t)S_ISUID;
    if (st.st_mode & S_IXGRP) kept &= ~(mode_t)S_ISGID;
    if (kept != (st.st_mode & 07777)) (void)!fchmod(fd, kept);
}

/* Stores through a mapping of a passthrough file reach the backing file alone: have the kernel ask for its times. */
static void note_release(int fuse_fd, uint64_t nodeid, const struct release_in *in) {
    const struct attached *file = attached_find(in->fh);
    struct stat st;
    if (!(in->fh >> 32) || !file || file->fd < 0 || (in->flags & O_ACCMODE) == O_RDONLY || fstat(file->fd, &st)) return;
    if (st.st_ctim.tv_sec == file->ctime.tv_sec && st.st_ctim.tv_nsec == file->ctime.tv_nsec) return;
    struct notify_inval_inode_out what = {.nodeid = nodeid, .offset = -1}; /* attributes only */
    struct out_header out = {.len = sizeof out + sizeof what, .error = NOTIFY_INVAL_INODE};
    struct iovec iov[2] = {{&out, sizeof out}, {&what, sizeof what}};
    (void)!writev(fuse_fd, iov, 2); /* it does not wait: the kernel holds the inode until RELEASE is answered */
}

static int do_fallocate(const struct fallocate_in *in, uint32_t uid) {
    const struct attached *file = attached_find(in->fh);
    if (!file || file->fd < 0) return EOPNOTSUPP;
    drop_privileges(file->fd, uid);
    return fallocate(file->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) ? errno : 0;
}

/* A cold file is all data: its first hole is its end. */
static int do_lseek(const struct lseek_in *in, uint64_t *result) {
    const struct attached *file = attached_find(in->fh);
    if (!file) return EINVAL;
    if (in->whence != SEEK_DATA && in->whence != SEEK_HOLE) return EINVAL;
    off_t found;
    if (file->fd >= 0)
        found = lseek(file->fd, (off_t)in->offset, (int)in->whence);
    else if ((int64_t)in->offset < 0 || (int64_t)in->offset >= file->size)
        return ENXIO;
    else
        found = in->whence == SEEK_DATA ? (off_t)in->offset : (off_t)file->size;
    *result = (uint64_t)found;
    return found < 0 ? errno : 0;
}

/* EOPNOTSUPP has the kernel copy by reading and writing. */
static int do_copy(const struct copy_in *in, uint32_t uid, uint64_t *result) {
    const struct attached *from = attached_find(in->fh_in), *to = attached_find(in->fh_out);
    if (!from || !to || from->fd < 0 || to->fd < 0) return EOPNOTSUPP;
    drop_privileges(to->fd, uid);
    off_t source = (off_t)in->off_in, target = (off_t)in->off_out;
    size_t length = in->len < LONGEST_COPY ? (size_t)in->len : LONGEST_COPY;
    ssize_t copied = copy_file_range(from->fd, &source, to->fd, &target, length, 0);
    if (copied < 0) return errno == EXDEV || errno == ENOSYS || errno == EINVAL ? EOPNOTSUPP : errno;
    hot_copied((uint64_t)copied);
    *result = (uint64_t)copied; /* fuse_write_out: size in the first word */
    return 0;
}

static void send_reply(int fd, uint64_t unique, int error, struct iovec payload) {
    if (error) payload.iov_len = 0;
    struct out_header out = {.len = (uint32_t)(sizeof out + payload.iov_len), .error = -error, .unique = unique};
    struct iovec iov[2] = {{&out, sizeof out}, payload};
    inflight_done(unique);
    /* It fails only if the request was interrupted or the mount is gone: nobody waits for the answer then. */
    (void)!writev(fd, iov, payload.iov_len ? 2 : 1);
}

/* Reads, writes and syncs of hot files; those of cold ones wait for the bucket, and are for Python. */

static bool do_fsync(int fuse_fd, uint64_t unique, const struct fsync_in *in) {
    const struct attached *file = attached_find(in->fh);
    return file && file->fd >= 0 && hot_sync(fuse_fd, unique, file->fd, in->fsync_flags & FSYNC_FDATASYNC);
}

/* A descriptor of a hot file that is open. Where others may put another file in its place behind the mount, only that of
 * the handle will do, -1 without one. */
static int open_fd_of(uint64_t nodeid) { return tap.limits.cache_directories ? attached_fd_of(nodeid) : -1; }

/* The kernel asks for the size before it reads where it knows of no bytes, and after each write that somebody else sees
 * the file grow by: fstat(2) does not say which handle it is for. */
static bool do_getattr(uint64_t nodeid, const struct getattr_in *in, struct attr *out) {
    const struct attached *file = in->getattr_flags & GETATTR_FH ? attached_find(in->fh) : NULL;
    int fd = file && file->fd >= 0 ? file->fd : open_fd_of(nodeid);
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) return false;
    *out = attributes_of(nodeid, &st);
    return true;
}

/* Whether a write takes capabilities away: asked before each write that comes after somebody asked for attributes. */
static bool do_getxattr(int fuse_fd, const struct in_header *in, const struct getxattr_in *asked, size_t length) {
    static const char capability[] = "security.capability";
    const char *name = (const char *)(asked + 1);
    if (length != sizeof *asked + sizeof capability || memcmp(name, capability, sizeof capability)) return false;
    int fd = open_fd_of(in->nodeid);
    if (fd < 0) return false;
    char value[64]; /* struct vfs_ns_cap_data has 24 bytes */
    ssize_t n = fgetxattr(fd, capability, value, asked->size < sizeof value ? asked->size : sizeof value);
    struct getxattr_out size = {.size = n < 0 ? 0 : (uint32_t)n};
    struct iovec payload = {asked->size ? (void *)value : &size, asked->size ? size.size : sizeof size};
    send_reply(fuse_fd, in->unique, n < 0 ? errno : 0, payload);
    return true;
}

static bool do_read(int fuse_fd, uint64_t unique, const struct read_in *in) {
    const struct attached *file = attached_find(in->fh);
    return file && file->fd >= 0 && hot_read(fuse_fd, unique, file->fd, in);
}

static bool do_write(int fuse_fd, uint64_t unique, const struct write_in *in, size_t length) {
    const struct attached *file = attached_find(in->fh);
    if (!file || file->fd < 0) return false;
    if (in->write_flags & WRITE_KILL_SUIDGID) drop_privileges(file->fd, NOT_ROOT);
    return hot_write(fuse_fd, unique, file->fd, in, length);
}

/* Answer a request that pyfuse3 has no handler for, or that needs none. False when it is not one of them. */
static bool answer(int fd, const struct in_header *in, const void *argument, size_t length) {
    union {
        uint64_t number;
        struct attr_out attr;
        struct entry_out entry;
    } payload = {0};
    size_t payload_size = 0;
    int error = EINVAL;
    switch (in->opcode) {
    case OP_GETATTR:
        payload.attr.attr_valid = tap.limits.cache_seconds;
        if (!directory_attributes(in->nodeid, &payload.attr.attr) &&
            !(length >= sizeof(struct getattr_in) && do_getattr(in->nodeid, argument, &payload.attr.attr)))
            return false;
        payload_size = sizeof payload.attr;
        error = 0;
        break;
    case OP_LOOKUP:
        payload.entry.entry_valid = tap.limits.cache_seconds; /* node 0: the kernel keeps in mind that it is missing */
        if (!directory_lacks(in->nodeid, argument, length)) return false;
        payload_size = sizeof payload.entry;
        error = 0;
        break;
    case OP_FALLOCATE:
        if (length >= sizeof(struct fallocate_in)) error = do_fallocate(argument, in->uid);
        break;
    case OP_LSEEK:
        if (length >= sizeof(struct lseek_in)) error = do_lseek(argument, &payload.number);
        payload_size = sizeof payload.number;
        break;
    case OP_COPY_FILE_RANGE:
    case OP_COPY_FILE_RANGE_64:
        if (length >= sizeof(struct copy_in)) error = do_copy(argument, in->uid, &payload.number);
        payload_size = sizeof payload.number;
        break;
    case OP_GETXATTR:
        return length >= sizeof(struct getxattr_in) && do_getxattr(fd, in, argument, length);
    case OP_READ:
        return length >= sizeof(struct read_in) && do_read(fd, in->unique, argument);
    case OP_WRITE:
        return length >= sizeof(struct write_in) &&
               do_write(fd, in->unique, argument, length - sizeof(struct write_in));
    case OP_FSYNC:
        return length >= sizeof(struct fsync_in) && do_fsync(fd, in->unique, argument);
    case OP_IOCTL: /* every open() of a C library's stdio asks whether the file is a terminal */
        error = ENOTTY;
        break;
    default:
        return false;
    }
    send_reply(fd, in->unique, error, (struct iovec){&payload, payload_size});
    return true;
}

/* Look at a request that was read. True when it is answered already. */
static bool note(int fd, const struct in_header *in, size_t length) {
    const void *argument = in + 1;
    if (in->opcode < TAP_OPCODES) tap.counts[in->opcode]++;
    tap.kills_privileges = false;
    tap.request = in->unique;
    inflight_add(in->unique, in->opcode);
    switch (in->opcode) {
    case OP_INIT:
        note_init(in, argument, length);
        expect_reply(in->unique, in->opcode);
        return false;
    case OP_OPEN:
    case OP_CREATE:
    case OP_OPENDIR:
        expect_reply(in->unique, in->opcode);
        return false;
    case OP_WRITE:
        if (length >= sizeof(struct write_in))
            tap.kills_privileges = ((const struct write_in *)argument)->write_flags & WRITE_KILL_SUIDGID;
        return answer(fd, in, argument, length);
    case OP_RELEASE:
        if (length >= sizeof(struct release_in)) note_release(fd, in->nodeid, argument);
        return false;
    default:
        return answer(fd, in, argument, length);
    }
}

/* The INIT request of another process' time: nobody waits for an answer to it. */
static ssize_t read_again(int fd, void *buffer, size_t size) {
    tap.is_to_resume = false;
    if (size < tap.init_length) return -1;
    memcpy(buffer, tap.init, tap.init_length);
    (void)note(fd, buffer, tap.init_length - sizeof(struct in_header));
    return (ssize_t)tap.init_length;
}

ssize_t tap_read(int fd, void *buffer, size_t size, void *userdata) {
    (void)userdata;
    const struct in_header *in = buffer;
    if (tap.is_to_resume) return read_again(fd, buffer, size);
    for (int answered = 0; answered < MOST_ANSWERS; answered++) {
        ssize_t n = read(fd, buffer, size);
        if (n < 0 && errno == EAGAIN) break; /* whoever asked was killed before the request could be read */
        if (n < (ssize_t)sizeof *in || in->len != (size_t)n) return n; /* libfuse complains about it */
        if (!note(fd, in, (size_t)n - sizeof *in)) return n;
    }
    errno = EINTR; /* "no request this time": the caller waits for the next one */
    return -1;
}

/* ---- replies -------------------------------------------------------------------------------------------------- */

static void change_init(struct init_out *out) {
    /* What a write changes of the times the kernel hears later: it is no reason to forget the pages that were written. */
    if (tap.limits.keep_pages) out->flags &= ~(uint32_t)INIT_AUTO_INVAL_DATA;
    uint64_t wanted = INIT_HANDLE_KILLPRIV_V2;
    if (tap.limits.passthrough) wanted |= INIT_PASSTHROUGH;
    wanted &= tap.offered;
    uint64_t flags = out->flags | (out->flags & INIT_EXT ? (uint64_t)out->flags2 << 32 : 0) | wanted;
    if (flags >> 32) flags |= INIT_EXT;
    out->flags = (uint32_t)flags;
    out->flags2 = (uint32_t)(flags >> 32);
    /* The hot directory may not itself be a stacked filesystem: depth 1 is the mount on top of it. */
    if (flags & INIT_PASSTHROUGH) out->max_stack_depth = 1;
    if (tap.limits.max_background) {
        out->max_background = tap.limits.max_background;
        out->congestion_threshold = tap.limits.max_background; /* beyond it the kernel reads page by page */
    }
    if (tap.limits.max_readahead && tap.limits.max_readahead > out->max_readahead)
        out->max_readahead = tap.limits.max_readahead;
    tap.granted = flags;
}

static void change_open(struct open_out *out) {
    uint32_t backing_id = (uint32_t)(out->fh >> 32);
    if (!backing_id) return;
    out->open_flags &= ~(FOPEN_KEEP_CACHE | FOPEN_DIRECT_IO);
    out->open_flags |= FOPEN_PASSTHROUGH;
    out->backing_id = backing_id;
}

/* `data` is the payload of a good reply, in libfuse's memory; copies in and out because it need not be aligned. */
static void change_reply(uint32_t opcode, char *data, size_t length) {
    struct init_out init;
    struct open_out open;
    if (opcode == OP_INIT) {
        if (length < sizeof init) return;
        memcpy(&init, data, sizeof init);
        change_init(&init);
        memcpy(data, &init, sizeof init);
        return;
    }
    if (length < sizeof open) return;
    data += length - sizeof open; /* CREATE answers a fuse_entry_out before the fuse_open_out */
    memcpy(&open, data, sizeof open);
    if (opcode == OP_OPENDIR) {
        if (tap.limits.cache_directories) open.open_flags |= FOPEN_CACHE_DIR | FOPEN_KEEP_CACHE;
    } else
        change_open(&open);
    memcpy(data, &open, sizeof open);
}

ssize_t tap_writev(int fd, struct iovec *iov, int count, void *userdata) {
    (void)userdata;
    if (reply_take(fd, iov, count)) return (ssize_t)(iov[0].iov_len + iov[1].iov_len); /* all that libfuse knows of */
    if (count < 1 || iov[0].iov_len != sizeof(struct out_header)) return writev(fd, iov, count);
    struct out_header out;
    memcpy(&out, iov[0].iov_base, sizeof out);
    if (!out.unique) return writev(fd, iov, count); /* a notification */
    uint32_t opcode = tap.pending_count ? take_expected(out.unique) : 0;
    if (opcode && !out.error && count == 2) change_reply(opcode, iov[1].iov_base, iov[1].iov_len);
    inflight_done(out.unique);
    if (out.unique == tap.swallow_unique) {
        tap.swallow_unique = 0;
        return out.len;
    }
    return writev(fd, iov, count);
}
