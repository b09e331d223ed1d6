/* Counts the heap by standing between the program and the C library; see heap.h. One thread, hence no locks. */
#include "heap.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t count, size_t size);
extern void *__libc_realloc(void *block, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void __libc_free(void *block);

static size_t live, peak;
static int counting = 1;

void heap_stop_counting(void) { counting = 0; }
void heap_reset_peak(void) { peak = live; }
size_t heap_peak(void) { return peak; }

static void *taken(void *block) {
    if (block) {
        live += malloc_usable_size(block);
        if (live > peak) peak = live;
    }
    return block;
}

void *malloc(size_t size) {
    void *block = __libc_malloc(size);
    return counting ? taken(block) : block;
}

void *calloc(size_t count, size_t size) {
    void *block = __libc_calloc(count, size);
    return counting ? taken(block) : block;
}

void *realloc(void *old, size_t size) {
    if (!counting) return __libc_realloc(old, size);
    const size_t before = malloc_usable_size(old);
    void *block = __libc_realloc(old, size);
    if (block || !size) live -= before; /* where it fails, the old block stays */
    return taken(block);
}

void free(void *block) {
    if (counting) live -= malloc_usable_size(block);
    __libc_free(block);
}

void *memalign(size_t alignment, size_t size) {
    void *block = __libc_memalign(alignment, size);
    return counting ? taken(block) : block;
}

void *aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }

int posix_memalign(void **block, size_t alignment, size_t size) {
    if (alignment % sizeof(void *) || !alignment || (alignment & (alignment - 1))) return EINVAL;
    void *found = memalign(alignment, size);
    if (!found) return ENOMEM;
    *block = found;
    return 0;
}
