/* fsync(2) and fdatasync(2) of hot files, in threads.
 *
 * A sync waits for the disk, so whoever answers the kernel must not do it; and a broker asks for so many that two
 * switches of thread in Python for each would be felt. Threads are started as they are needed, and stay.
 */
#define _GNU_SOURCE
#include "syncs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/uio.h>
#include <unistd.h>

#include "inflight.h"
#include "protocol.h"

#define MOST_THREADS 16 /* a disk has no use for more at a time */
#define MOST_WAITING 256

struct sync {
    int fuse_fd, fd;
    uint64_t unique;
    bool data_only;
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pthread_t threads[MOST_THREADS];
    size_t thread_count, idle;
    bool is_ending;
    size_t first, count; /* of the ring */
    struct sync ring[MOST_WAITING];
} syncs = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void do_sync(const struct sync *one) {
    int error = (one->data_only ? fdatasync(one->fd) : fsync(one->fd)) ? errno : 0;
    close(one->fd);
    struct out_header out = {.len = sizeof out, .error = -error, .unique = one->unique};
    inflight_done(one->unique);
    (void)!write(one->fuse_fd, &out, sizeof out); /* it fails when nobody waits any more */
}

static void *work(void *unused) {
    (void)unused;
    pthread_mutex_lock(&syncs.lock);
    while (true) {
        syncs.idle++;
        while (!syncs.count && !syncs.is_ending) pthread_cond_wait(&syncs.changed, &syncs.lock);
        syncs.idle--;
        if (!syncs.count) break;
        struct sync one = syncs.ring[syncs.first];
        syncs.first = (syncs.first + 1) % MOST_WAITING;
        syncs.count--;
        pthread_mutex_unlock(&syncs.lock);
        do_sync(&one);
        pthread_mutex_lock(&syncs.lock);
    }
    pthread_mutex_unlock(&syncs.lock);
    return NULL;
}

/* With the lock held. Without signals: they are for the threads of Python. */
static void add_thread(void) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    if (!pthread_create(&syncs.threads[syncs.thread_count], NULL, work, NULL)) syncs.thread_count++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

bool sync_soon(int fuse_fd, uint64_t unique, int fd, bool data_only) {
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* the handle may get another descriptor meanwhile */
    if (own < 0) return false;
    pthread_mutex_lock(&syncs.lock);
    bool fits = syncs.count < MOST_WAITING;
    if (fits && syncs.idle <= syncs.count && syncs.thread_count < MOST_THREADS) add_thread();
    fits = fits && syncs.thread_count;
    if (fits) {
        syncs.ring[(syncs.first + syncs.count++) % MOST_WAITING] = (struct sync){fuse_fd, own, unique, data_only};
        pthread_cond_signal(&syncs.changed);
    }
    pthread_mutex_unlock(&syncs.lock);
    if (!fits) close(own);
    return fits;
}

void syncs_finish(void) {
    pthread_mutex_lock(&syncs.lock);
    syncs.is_ending = true;
    pthread_cond_broadcast(&syncs.changed);
    pthread_mutex_unlock(&syncs.lock);
    for (size_t i = 0; i < syncs.thread_count; i++) pthread_join(syncs.threads[i], NULL);
    syncs.thread_count = 0;
    syncs.is_ending = false;
}
