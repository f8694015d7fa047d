/* The handles that are open, by their number, and by the node that they are of.
 *
 * The kernel asks for attributes after each write, and before each one for capabilities of the program in the file,
 * without saying which handle that is for: any descriptor of the node will do. Nodes are found through chains of
 * handles, which are short: the numbers of handles are used again. */
#include "attached.h"

#include <stdlib.h>
#include <string.h>

#define CHAINS 4096

static struct {
    struct attached *files; /* by handle */
    size_t room;
    uint32_t chains[CHAINS]; /* by node: a handle and one; 0: none */
} table;

static uint32_t *chain_of(uint64_t nodeid) { return &table.chains[nodeid % CHAINS]; }

static void unlink_from_chain(uint32_t handle) {
    struct attached *file = &table.files[handle];
    uint32_t *link = chain_of(file->nodeid);
    while (*link && *link != handle + 1) link = &table.files[*link - 1].next;
    if (*link) *link = file->next;
}

static bool make_room(size_t needed) {
    if (needed <= table.room) return true;
    size_t wanted = table.room ? table.room * 2 : 64;
    if (wanted < needed) wanted = needed;
    struct attached *larger = realloc(table.files, wanted * sizeof *larger);
    if (!larger) return false;
    memset(larger + table.room, 0, (wanted - table.room) * sizeof *larger);
    table.files = larger;
    table.room = wanted;
    return true;
}

bool attached_put(uint32_t handle, struct attached file) {
    if (!make_room((size_t)handle + 1)) return false;
    attached_drop(handle);
    uint32_t *chain = chain_of(file.nodeid);
    file.in_use = true;
    file.next = *chain;
    table.files[handle] = file;
    *chain = handle + 1;
    return true;
}

void attached_drop(uint32_t handle) {
    if (handle >= table.room || !table.files[handle].in_use) return;
    unlink_from_chain(handle);
    table.files[handle].in_use = false;
}

void attached_drop_all(void) {
    free(table.files);
    memset(&table, 0, sizeof table);
}

const struct attached *attached_find(uint64_t fh) {
    uint32_t handle = (uint32_t)fh;
    return handle < table.room && table.files[handle].in_use ? &table.files[handle] : NULL;
}

int attached_fd_of(uint64_t nodeid) {
    for (uint32_t link = *chain_of(nodeid); link; link = table.files[link - 1].next) {
        const struct attached *file = &table.files[link - 1];
        if (file->nodeid == nodeid && file->fd >= 0) return file->fd;
    }
    return -1;
}
