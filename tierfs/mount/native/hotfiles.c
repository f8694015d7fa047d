/* Reads, writes and syncs of hot files that the kernel does not pass through: virtual handles, plain FUSE.
 *
 * A write goes to the kernel's cache of the backing file, and a small read mostly comes from there: both are done at
 * once, for a tenth of what it takes to tell Python. What waits for the disk, and what copies much, is done in threads,
 * which are started as they are needed, and stay.
 */
#define _GNU_SOURCE
#include "hotfiles.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "inflight.h"

#define MOST_THREADS 16 /* a disk has no use for more at a time */
#define MOST_WAITING 256
#define SMALL_READ (64u << 10)  /* copied at once: some microseconds */
#define LARGEST_READ (1u << 20) /* what the kernel asks for at most */

struct job {
    int fuse_fd, fd;
    uint64_t unique, offset;
    uint32_t opcode, size;
    bool data_only;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[MOST_THREADS];
    size_t thread_count, idle;
    bool is_ending;
    size_t first, count; /* of the ring */
    struct job ring[MOST_WAITING];
} pool = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Atomic uint64_t bytes_read, bytes_written; /* by threads, too */

struct hot_bytes hot_bytes(void) { return (struct hot_bytes){bytes_read, bytes_written}; }

void hot_copied(uint64_t bytes) {
    bytes_read += bytes;
    bytes_written += bytes;
}

/* It fails when nobody waits any more. */
static void reply(int fuse_fd, uint64_t unique, int error, void *payload, size_t size) {
    struct out_header out = {.len = (uint32_t)(sizeof out + size), .error = -error, .unique = unique};
    struct iovec iov[2] = {{&out, sizeof out}, {payload, size}};
    inflight_done(unique);
    (void)!writev(fuse_fd, iov, size ? 2 : 1);
}

/* ---- in threads ----------------------------------------------------------------------------------------------- */

static void do_sync(const struct job *job) {
    int error = (job->data_only ? fdatasync(job->fd) : fsync(job->fd)) ? errno : 0;
    close(job->fd);
    reply(job->fuse_fd, job->unique, error, NULL, 0);
}

/* As much as there is: fewer bytes mean the end of the file to the kernel. */
static void do_read(const struct job *job, char *buffer) {
    size_t done = 0;
    ssize_t n = 0;
    while (done < job->size) {
        n = pread(job->fd, buffer + done, job->size - done, (off_t)(job->offset + done));
        if (n <= 0) break;
        done += (size_t)n;
    }
    int error = n < 0 && !done ? errno : 0;
    bytes_read += done;
    close(job->fd);
    reply(job->fuse_fd, job->unique, error, buffer, done);
}

static void *work(void *unused) {
    (void)unused;
    char *buffer = NULL;
    pthread_mutex_lock(&pool.lock);
    while (true) {
        pool.idle++;
        while (!pool.count && !pool.is_ending) pthread_cond_wait(&pool.changed, &pool.lock);
        pool.idle--;
        if (!pool.count) break;
        struct job job = pool.ring[pool.first];
        pool.first = (pool.first + 1) % MOST_WAITING;
        pool.count--;
        pthread_mutex_unlock(&pool.lock);
        if (job.opcode == OP_FSYNC) {
            do_sync(&job);
        } else if (buffer || (buffer = malloc(LARGEST_READ))) {
            do_read(&job, buffer);
        } else {
            close(job.fd);
            reply(job.fuse_fd, job.unique, ENOMEM, NULL, 0);
        }
        pthread_mutex_lock(&pool.lock);
    }
    pthread_mutex_unlock(&pool.lock);
    free(buffer);
    return NULL;
}

/* With the lock held. Without signals: they are for the threads of Python. */
static void add_thread(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!pthread_create(&pool.threads[pool.thread_count], NULL, work, NULL)) pool.thread_count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* With a descriptor of its own: the handle may get another one meanwhile, or none. */
static bool do_soon(struct job job) {
    job.fd = fcntl(job.fd, F_DUPFD_CLOEXEC, 0);
    if (job.fd < 0) return false;
    pthread_mutex_lock(&pool.lock);
    bool fits = pool.count < MOST_WAITING;
    if (fits && pool.idle <= pool.count && pool.thread_count < MOST_THREADS) add_thread();
    fits = fits && pool.thread_count;
    if (fits) {
        pool.ring[(pool.first + pool.count++) % MOST_WAITING] = job;
        pthread_cond_signal(&pool.changed);
    }
    pthread_mutex_unlock(&pool.lock);
    if (!fits) close(job.fd);
    return fits;
}

bool hot_sync(int fuse_fd, uint64_t unique, int fd, bool data_only) {
    return do_soon((struct job){fuse_fd, fd, unique, 0, OP_FSYNC, 0, data_only});
}

void hotfiles_finish(void) {
    pthread_mutex_lock(&pool.lock);
    pool.is_ending = true;
    pthread_cond_broadcast(&pool.changed);
    pthread_mutex_unlock(&pool.lock);
    for (size_t i = 0; i < pool.thread_count; i++) pthread_join(pool.threads[i], NULL);
    pool.thread_count = 0;
    pool.is_ending = false;
}

/* ---- at once -------------------------------------------------------------------------------------------------- */

/* Whether a file's bytes are in memory in any case: reads of it never wait, and RWF_NOWAIT may not be known. */
static bool is_in_memory(int fd) {
    struct statfs filesystem;
    return !fstatfs(fd, &filesystem) && filesystem.f_type == TMPFS_MAGIC;
}

/* What there is without waiting. False when it may not be all. */
static bool read_at_once(int fd, char *buffer, const struct read_in *in, ssize_t *found) {
    struct iovec iov = {buffer, in->size};
    *found = preadv2(fd, &iov, 1, (off_t)in->offset, RWF_NOWAIT);
    if (*found < 0 && errno == EOPNOTSUPP && is_in_memory(fd)) *found = preadv(fd, &iov, 1, (off_t)in->offset);
    if (*found == (ssize_t)in->size) return true;
    struct stat st;
    return *found >= 0 && !fstat(fd, &st) && (int64_t)in->offset + *found >= st.st_size;
}

bool hot_read(int fuse_fd, uint64_t unique, int fd, const struct read_in *in) {
    static char buffer[SMALL_READ]; /* of the one thread that reads requests */
    ssize_t found;
    if (in->size > LARGEST_READ || in->offset > INT64_MAX) return false; /* preadv2(2) takes -1 for "wherever it is" */
    if (in->size <= sizeof buffer && read_at_once(fd, buffer, in, &found)) {
        bytes_read += (uint64_t)found;
        reply(fuse_fd, unique, 0, buffer, (size_t)found);
        return true;
    }
    return do_soon((struct job){fuse_fd, fd, unique, in->offset, OP_READ, in->size, false});
}

bool hot_write(int fuse_fd, uint64_t unique, int fd, const struct write_in *in, size_t length) {
    if (in->size > length) return false;
    ssize_t n = pwrite(fd, in + 1, in->size, (off_t)in->offset);
    struct write_out out = {.size = n < 0 ? 0 : (uint32_t)n};
    bytes_written += out.size;
    reply(fuse_fd, unique, n < 0 ? errno : 0, &out, n < 0 ? 0 : sizeof out);
    return true;
}
