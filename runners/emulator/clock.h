/* The clock that ONNX Runtime sees.
 *
 * ONNX Runtime looks at the clock in every run, and now and then (when seconds have passed since it last did) does
 * some bookkeeping on top. On an emulated core that is the only thing that moves instruction counts: by about one
 * in 100,000, when the machine is busy. So the runner puts its own clock_gettime() before the C library's.
 */
#ifndef CLOCK_H
#define CLOCK_H
#include <stdint.h>

/* From now on every look at the clock finds one microsecond passed since the last. */
void clock_simulate(void);

/* The true time in nanoseconds, of a clock that never goes back. */
uint64_t clock_true(void);

#endif
