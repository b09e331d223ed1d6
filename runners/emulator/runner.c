/* Runs ONNX models, each in a process of its own, on an emulated ARM core or on this machine's.
 *
 * Usage: runner LIBONNXRUNTIME WARM_UP_MODEL JOBS SECONDS CORE ARENA < requests
 *
 * ONNX Runtime is started once and, unless WARM_UP_MODEL is "-", runs that model: an emulator has then translated
 * what models have in common. Every request is answered by a fork of this process, at most JOBS at a time. All of
 * them start from the same memory, so that the figures of a model depend neither on its place in the list nor on
 * the other models, and a model that crashes (or runs longer than SECONDS) ends alone. CORE is the core that they
 * are bound to, -1 for any; ARENA (0 or 1) see model.h.
 *
 * Requests are lines of fields separated by tabs; models and files are paths:
 *
 *     measure   TOKENS VOCABULARY RUNS MODEL     one warm-up run of one text, then RUNS timed ones,
 *                                                or one counted run where RUNS is 0
 *     evaluate  BATCHES RESULTS MODEL            the first output for given inputs
 *
 * For each request, numbered from 0, one line is printed when it has ended:
 *
 *     NUMBER exit STATUS  |  NUMBER signal SIGNAL  |  NUMBER timeout 0
 *
 * Status 0 means that the file reply-NUMBER (five digits) holds the answer in JSON:
 *
 *     {"error": "..."}                           the model could not be loaded or run
 *     {"peak_heap": BYTES, "nanoseconds": [...], "outputs": [...]}
 *
 * peak_heap is the most that was allocated while the session was created and the first run was made (heap.h),
 * with ONNX Runtime's own share; outputs holds the first values of the first output. For evaluate all lists are
 * empty: RESULTS holds the outputs, float32, one batch after the other. BATCHES holds for each batch, as int64:
 * rows, width, number of arrays (2 or 3), then input_ids, attention_mask and token_type_ids, each [rows, width].
 *
 * For measure, a model gets the inputs that it declares out of these three, all [1, TOKENS]: token ids in
 * [0, VOCABULARY), a full mask, and the second half of the tokens in segment 1.
 *
 * Marker instructions tell the emulator's plugin what it is looking at. They are no-ops on a real core:
 *
 *     hint #100   the warm-up run begins: fill the modelled caches, count nothing
 *     hint #101   the measured run begins
 *     hint #102   the measured run is over: write counts-PID, which becomes counts-NUMBER here
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "heap.h"
#include "model.h"
#include "region.h"

#if defined(__aarch64__)
#define MARK(number) __asm__ volatile("hint #" #number ::: "memory")
#else
#define MARK(number) ((void)0)
#endif

enum { SHOWN_OUTPUTS = 64, MAX_RUNS = 4096, MAX_TOKENS = 65536, MAX_LINE = 8192, MAX_JOBS = 64 };
enum { BAD_REQUEST = 2, CANNOT_WRITE = 9 }; /* exit statuses of a fork */

/* ---- answers ---------------------------------------------------------------------------------------- */

static unsigned number; /* of the request */

static void give_up(int status, const char *what) {
    fprintf(stderr, "runner: %s\n", what);
    fflush(stderr);
    _exit(status);
}

static FILE *open_reply(void) {
    char name[32];
    snprintf(name, sizeof name, "reply-%05u", number);
    FILE *reply = fopen(name, "w");
    if (!reply) give_up(CANNOT_WRITE, "cannot create the reply");
    return reply;
}

static void end_reply(FILE *reply) {
    const int failed = ferror(reply); /* to be asked before the file is closed */
    if (fclose(reply) || failed) give_up(CANNOT_WRITE, "cannot write the reply");
    _exit(0);
}

static void reply_error(const char *text) {
    FILE *reply = open_reply();
    fputs("{\"error\": \"", reply);
    for (; *text; text++) {
        const unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') fprintf(reply, "\\%c", c);
        else if (c < 32) fprintf(reply, "\\u%04x", c);
        else fputc(c, reply);
    }
    fputs("\"}\n", reply);
    end_reply(reply);
}

static void reply_figures(size_t peak, const uint64_t *nanoseconds, long runs, const float *outputs, size_t count) {
    FILE *reply = open_reply();
    fprintf(reply, "{\"peak_heap\": %zu, \"nanoseconds\": [", peak);
    for (long i = 0; i < runs; i++) fprintf(reply, "%s%llu", i ? ", " : "", (unsigned long long)nanoseconds[i]);
    fputs("], \"outputs\": [", reply);
    for (size_t i = 0; i < count && i < SHOWN_OUTPUTS; i++) {
        /* JSON has no NaN or infinity: those become null */
        if (outputs[i] - outputs[i] == 0) fprintf(reply, "%s%.9g", i ? ", " : "", outputs[i]);
        else fprintf(reply, "%snull", i ? ", " : "");
    }
    fputs("]}\n", reply);
    end_reply(reply);
}

/* ---- requests --------------------------------------------------------------------------------------- */

static int64_t text[KNOWN_INPUTS][MAX_TOKENS];
static const int64_t *const text_inputs[KNOWN_INPUTS] = {text[0], text[1], text[2]};

static void write_text(long tokens, long vocabulary) {
    for (long i = 0; i < tokens; i++) {
        text[INPUT_IDS][i] = (i * 7919 + 13) % vocabulary;
        text[ATTENTION_MASK][i] = 1;
        text[TOKEN_TYPE_IDS][i] = i >= (tokens + 1) / 2;
    }
}

static void measure(const char *path, long tokens, long vocabulary, long runs) {
    static uint64_t nanoseconds[MAX_RUNS];
    static Model model;
    const float *outputs = NULL;
    size_t count = 0;
    write_text(tokens, vocabulary);
    heap_reset_peak();
    if (!model_open(&model, path) || !model_feed(&model, 1, tokens, text_inputs)) reply_error(model_error());
    if (!runs && !region_begin()) reply_error("no memory for the blocks of a run"); /* a clock times the real heap */
    MARK(100);
    if (!model_run(&model)) {
        MARK(102);
        reply_error(model_error());
    }
    const size_t peak = heap_peak();
    model_drop_output(&model);
    heap_stop_counting();
    if (runs) {
        for (long i = 0; i < runs; i++) {
            model_drop_output(&model);
            const uint64_t start = clock_true();
            if (!model_run(&model)) reply_error(model_error());
            nanoseconds[i] = clock_true() - start;
        }
    } else {
        MARK(101);
        const int done = model_run(&model);
        MARK(102);
        if (!done) reply_error(model_error());
        char counted[32], kept[32];
        snprintf(counted, sizeof counted, "counts-%d", (int)getpid());
        snprintf(kept, sizeof kept, "counts-%05u", number);
        rename(counted, kept); /* fails where nobody counts: on a real core */
    }
    if (!model_output(&model, &outputs, &count)) reply_error(model_error());
    reply_figures(peak, nanoseconds, runs, outputs, count);
}

static void evaluate(const char *path, const char *batches, const char *results) {
    static Model model;
    int64_t head[3];
    heap_stop_counting();
    FILE *input = fopen(batches, "rb"), *output = fopen(results, "wb");
    if (!input) give_up(BAD_REQUEST, "cannot read the batches");
    if (!output) give_up(CANNOT_WRITE, "cannot create the results");
    if (!model_open(&model, path)) reply_error(model_error());
    while (fread(head, sizeof head, 1, input) == 1) {
        const int64_t rows = head[0], width = head[1], arrays = head[2];
        if (rows < 1 || width < 1 || arrays < 1 || arrays > KNOWN_INPUTS || rows > (1 << 30) / width)
            give_up(BAD_REQUEST, "a batch has no sensible size");
        const size_t size = (size_t)(rows * width);
        int64_t *values = malloc(size * (size_t)arrays * sizeof *values);
        if (!values || fread(values, sizeof *values * size, (size_t)arrays, input) != (size_t)arrays)
            give_up(BAD_REQUEST, "the file of batches is cut short");
        const int64_t *inputs[KNOWN_INPUTS] = {0};
        for (int64_t i = 0; i < arrays; i++) inputs[i] = values + (size_t)i * size;
        const float *outputs = NULL;
        size_t count = 0;
        if (!model_feed(&model, rows, width, inputs) || !model_run(&model) ||
            !model_output(&model, &outputs, &count))
            reply_error(model_error());
        if (fwrite(outputs, sizeof *outputs, count, output) != count)
            give_up(CANNOT_WRITE, "cannot write the results");
        free(values);
    }
    if (ferror(input)) give_up(BAD_REQUEST, "cannot read the batches");
    if (fclose(output)) give_up(CANNOT_WRITE, "cannot write the results");
    reply_figures(0, NULL, 0, NULL, 0);
}

static void answer(char *line) {
    char *fields[5] = {0};
    int count = 0;
    for (char *rest = line, *field; count < 5 && (field = strsep(&rest, "\t")); count++) fields[count] = field;
    if (count == 5 && strcmp(fields[0], "measure") == 0) {
        const long tokens = atol(fields[1]), vocabulary = atol(fields[2]), runs = atol(fields[3]);
        if (tokens >= 1 && tokens <= MAX_TOKENS && vocabulary >= 1 && runs >= 0 && runs <= MAX_RUNS)
            measure(fields[4], tokens, vocabulary, runs);
    } else if (count == 4 && strcmp(fields[0], "evaluate") == 0) {
        evaluate(fields[3], fields[1], fields[2]);
    }
    give_up(BAD_REQUEST, "a request is not understood");
}

/* ---- processes -------------------------------------------------------------------------------------- */

typedef struct {
    pid_t process; /* 0: free */
    unsigned number;
    uint64_t deadline;
} Job;

static Job jobs[MAX_JOBS];

/* Wait until fewer than `most` requests are being answered. */
static void wait_for_jobs(int most) {
    for (;;) {
        int running = 0, status;
        for (int i = 0; i < MAX_JOBS; i++) {
            Job *job = &jobs[i];
            if (!job->process) continue;
            if (waitpid(job->process, &status, WNOHANG) == 0) {
                running++;
                if (clock_true() < job->deadline) continue;
                kill(job->process, SIGKILL);
                waitpid(job->process, &status, 0);
                printf("%u timeout 0\n", job->number);
                running--;
            } else if (WIFSIGNALED(status)) {
                printf("%u signal %d\n", job->number, WTERMSIG(status));
            } else {
                printf("%u exit %d\n", job->number, WEXITSTATUS(status));
            }
            fflush(stdout);
            job->process = 0;
        }
        if (running < most) return;
        const struct timespec pause = {0, 2000000};
        nanosleep(&pause, NULL);
    }
}

static void start_job(char *line, uint64_t limit) {
    Job *job = jobs;
    while (job->process) job++;
    const pid_t process = fork();
    if (process < 0) give_up(1, "cannot start a process");
    if (process == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        answer(line);
    }
    *job = (Job){process, number, clock_true() + limit};
}

int main(int argc, char **argv) {
    static char line[MAX_LINE], input[BUFSIZ], output[BUFSIZ];
    setvbuf(stdin, input, _IOFBF, sizeof input); /* no heap of our own */
    setvbuf(stdout, output, _IOFBF, sizeof output);
    if (argc != 7) {
        fprintf(stderr, "usage: runner LIBONNXRUNTIME WARM_UP_MODEL JOBS SECONDS CORE ARENA < requests\n");
        return 2;
    }
    const int most = atoi(argv[3]) < MAX_JOBS ? atoi(argv[3]) : MAX_JOBS, core = atoi(argv[5]);
    const uint64_t limit = (uint64_t)(atof(argv[4]) * 1e9);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    if (core >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(core, &set);
        if (sched_setaffinity(0, sizeof set, &set)) give_up(2, "cannot bind to the core");
    }
    if (core < 0) clock_simulate();
    if (!runtime_start(argv[1], atoi(argv[6]))) {
        fprintf(stderr, "cannot start ONNX Runtime: %s\n", model_error());
        return 2;
    }
    if (strcmp(argv[2], "-") != 0) {
        Model model = {0};
        write_text(8, 8);
        if (!model_open(&model, argv[2]) || !model_feed(&model, 1, 8, text_inputs) || !model_run(&model) ||
            !model_run(&model)) {
            fprintf(stderr, "cannot warm up: %s\n", model_error());
            return 2;
        }
        model_close(&model);
    }
    for (number = 0; fgets(line, sizeof line, stdin); number++) {
        line[strcspn(line, "\n")] = 0;
        wait_for_jobs(most < 1 ? 1 : most);
        start_job(line, limit);
    }
    wait_for_jobs(1);
    fflush(stdout);
    _exit(0); /* the runtime's own tear-down has nothing left to tell us */
}
