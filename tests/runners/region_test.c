/* Checks heap.c and region.c; prints the line of the first check that fails. Built and run by test_region.py. */
#include <errno.h>
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap.h"
#include "region.h"

#define CHECK(condition) \
    if (!(condition)) return printf("line %d: %s\n", __LINE__, #condition), 1

int main(void) {
    static char buffer[BUFSIZ];
    static void *many[5000];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    char *early = malloc(5000);
    CHECK(!region_holds(early));
    heap_reset_peak();
    const size_t before = heap_peak();
    CHECK(region_begin());

    char *small = malloc(1023), *a = malloc(1024), *b = malloc(3000), *c = malloc(1025), *wide = memalign(128, 4096);
    CHECK(!region_holds(small) && region_holds(a) && region_holds(b) && region_holds(c) && !region_holds(wide));
    CHECK((uintptr_t)a % (2 << 20) == 0 && b == a + 1024 && c == b + 3008 && region_size(c) == 1088);
    free(b);
    char *hole = aligned_alloc(64, 2048);
    CHECK(hole == b); /* the lowest place that fits */
    free(hole);

    memset(a, 7, 1024);
    a = realloc(a, 8000);
    CHECK(region_holds(a) && a > c && a[0] == 7 && a[1023] == 7);
    errno = 0;
    char *huge = realloc(a, SIZE_MAX / 2);
    CHECK(!huge && errno == ENOMEM && a[0] == 7);
    a = realloc(a, 100);
    CHECK(!region_holds(a) && a[0] == 7 && a[99] == 7);
    CHECK(!realloc(c, 0));

    for (int i = 0; i < 5000; i++) many[i] = malloc(1024);
    CHECK(region_holds(many[4095]) && !region_holds(many[4096]) && many[4999]); /* the rest from the C library */
    for (int i = 0; i < 5000; i++) free(many[i]);
    free(a);
    free(small);
    free(wide);
    heap_reset_peak();
    CHECK(heap_peak() == before);
    puts("passed");
    return 0;
}
