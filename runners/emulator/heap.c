/* Counts the heap by standing between the program and the C library; see heap.h. One thread, hence no locks. */
#include "heap.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "region.h"

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

static size_t size_of(void *block) {
    return region_holds(block) ? region_size(block) : malloc_usable_size(block);
}

static void *taken(void *block) {
    if (block) {
        live += size_of(block);
        if (live > peak) peak = live;
    }
    return block;
}

void *malloc(size_t size) {
    void *block = region_take(size);
    if (!block) block = __libc_malloc(size);
    return counting ? taken(block) : block;
}

void *calloc(size_t count, size_t size) {
    void *block = __libc_calloc(count, size);
    return counting ? taken(block) : block;
}

static void *moved(void *old, size_t size) {
    if (!size) {
        free(old);
        return NULL;
    }
    const size_t before = region_size(old);
    void *block = malloc(size);
    if (!block) return NULL;
    memcpy(block, old, before < size ? before : size);
    free(old);
    return block;
}

void *realloc(void *old, size_t size) {
    if (region_holds(old)) return moved(old, size);
    if (!counting) return __libc_realloc(old, size);
    const size_t before = malloc_usable_size(old);
    void *block = __libc_realloc(old, size);
    if (block || !size) live -= before; /* where it fails, the old block stays */
    return taken(block);
}

void free(void *block) {
    if (counting) live -= size_of(block);
    if (region_holds(block)) region_give(block);
    else __libc_free(block);
}

void *memalign(size_t alignment, size_t size) {
    void *block = alignment <= REGION_ALIGNMENT ? region_take(size) : NULL;
    if (!block) block = __libc_memalign(alignment, size);
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
