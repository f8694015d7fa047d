/* Directories that the tap answers for, kept by node id with a descriptor of each.
 *
 * Whenever a name in a directory changes, the kernel forgets the directory's attributes, and asks for them at the next
 * step through it; and it looks every name up in vain before it makes it. So half of the requests of a program that
 * makes, renames or removes files are these two, and neither needs more than one system call.
 *
 * A descriptor stays right while the directory is renamed or removed. That no cold file has a missing name is the
 * business of who keeps a directory here, and drops it when that may change. */
#define _GNU_SOURCE
#include "directories.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attributes.h"

#define ROOT_ID 1 /* FUSE_ROOT_ID */
/* Two directories whose numbers agree in the lower bits take turns: who comes last stays. */
#define KEPT 256

static struct kept {
    uint64_t nodeid; /* 0: none */
    int fd;
} kept[KEPT];

static void drop(struct kept *directory) {
    if (!directory->nodeid) return;
    close(directory->fd);
    directory->nodeid = 0;
}

static struct kept *find(uint64_t nodeid) {
    struct kept *directory = &kept[nodeid % KEPT];
    return nodeid && directory->nodeid == nodeid ? directory : NULL;
}

void directory_keep(uint64_t nodeid, int fd) {
    struct kept *directory = &kept[nodeid % KEPT];
    drop(directory);
    *directory = (struct kept){nodeid, fd};
}

void directory_drop(uint64_t nodeid) {
    struct kept *directory = find(nodeid);
    if (directory) drop(directory);
}

void directories_drop(void) {
    for (size_t i = 0; i < KEPT; i++) drop(&kept[i]);
}

bool directory_attributes(uint64_t nodeid, struct attr *out) {
    const struct kept *directory = find(nodeid);
    struct stat st;
    if (!directory || fstat(directory->fd, &st)) return false;
    *out = attributes_of(nodeid, &st);
    return true;
}

/* In the root, but not on disk: mount/control_directory.py. */
static bool is_made(uint64_t nodeid, const char *name, size_t length) {
    static const char control[] = ".tierfs";
    return nodeid == ROOT_ID && length == sizeof control && !memcmp(name, control, length);
}

bool directory_lacks(uint64_t nodeid, const char *name, size_t length) {
    const struct kept *directory = find(nodeid);
    struct stat st;
    if (!directory || is_made(nodeid, name, length) || !length || memchr(name, 0, length) != name + length - 1) return false;
    return fstatat(directory->fd, name, &st, AT_SYMLINK_NOFOLLOW) && errno == ENOENT;
}
