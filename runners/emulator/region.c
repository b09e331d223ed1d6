/* See region.h. */
#include "region.h"

#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

enum { SMALL = 1024, MOST_BLOCKS = 4096 };
static const size_t capacity = (size_t)256 << 20;
static const size_t alignment = (size_t)2 << 20; /* more than decides the set of any cache */

typedef struct {
    size_t start, end; /* bytes from the start of the region */
} Block;

static char *region;
static Block blocks[MOST_BLOCKS]; /* in the order of their addresses */
static size_t count;

bool region_begin(void) {
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    char *found = mmap(NULL, capacity + alignment, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (found == MAP_FAILED) return false;
    region = found + (alignment - (uintptr_t)found % alignment) % alignment;
    return true;
}

void *region_take(size_t size) {
    if (!region || size < SMALL || size > capacity || count == MOST_BLOCKS) return NULL;
    size = (size + REGION_ALIGNMENT - 1) / REGION_ALIGNMENT * REGION_ALIGNMENT;
    size_t start = 0, place = 0;
    for (; place < count && blocks[place].start - start < size; place++) start = blocks[place].end;
    if (capacity - start < size) return NULL;
    memmove(blocks + place + 1, blocks + place, (count - place) * sizeof *blocks);
    blocks[place] = (Block){start, start + size};
    count++;
    return region + start;
}

bool region_holds(const void *block) {
    const char *place = block;
    return region && place >= region && place < region + capacity;
}

static size_t find(const void *block) {
    const size_t start = (size_t)((const char *)block - region);
    size_t place = 0;
    while (blocks[place].start != start) place++;
    return place;
}

size_t region_size(const void *block) {
    const Block *found = &blocks[find(block)];
    return found->end - found->start;
}

void region_give(void *block) {
    const size_t place = find(block);
    count--;
    memmove(blocks + place, blocks + place + 1, (count - place) * sizeof *blocks);
}
