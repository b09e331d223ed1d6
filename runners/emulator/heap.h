/* Exact heap of this process: every block that malloc and its kin hand out and take back.
 *
 * A block counts with malloc_usable_size(), that is the asked size rounded up to the allocator's grain of 16
 * bytes; the large blocks of a run (region.h) are rounded up to 64. ONNX Runtime, loaded later, allocates through
 * the functions of heap.c, because the executable exports them (-rdynamic). Memory that is mapped (program code,
 * files) is no heap.
 */
#ifndef HEAP_H
#define HEAP_H
#include <stddef.h>

/* Counting is on from the start of the program. Switched off, an allocation costs one load and two branches more
 * than without this file, a block of the region its search in place of the C library's work; the figures are then
 * out of date for good, so that it cannot be switched on again. */
void heap_stop_counting(void);

/* Forget the peak: the next heap_peak() is the most from here on. */
void heap_reset_peak(void);

/* Most bytes that were allocated at once. */
size_t heap_peak(void);

#endif
