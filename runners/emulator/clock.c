/* See clock.h. */
#define _GNU_SOURCE
#include "clock.h"

#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int simulated;
static uint64_t passed;

void clock_simulate(void) { simulated = 1; }

uint64_t clock_true(void) {
    struct timespec time;
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!simulated) return (int)syscall(SYS_clock_gettime, clock, time);
    passed += 1000;
    time->tv_sec = 1000000000 + (time_t)(passed / 1000000000u);
    time->tv_nsec = (long)(passed % 1000000000u);
    return 0;
}
