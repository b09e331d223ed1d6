/* Runs ONNX models with the ONNX Runtime C API, single-threaded, for one emulated ARM core.
 *
 * Usage: runner LIBONNXRUNTIME
 *
 * Reads one model per line from standard input, three fields separated by tabs:
 *
 *     TOKENS <tab> VOCABULARY <tab> PATH
 *
 * and answers each with one line of JSON on standard output:
 *
 *     {"ok": true, "run": N, "outputs": [...]}   N-th measured run; first values of the first output
 *     {"ok": false, "error": "..."}              the model could not be loaded or run
 *
 * Each model gets the int64 inputs it declares out of input_ids, attention_mask and token_type_ids, all of
 * shape [1, TOKENS]. Token ids lie in [0, VOCABULARY), the mask is full, and the second half of the tokens
 * is segment 1.
 *
 * A model is run twice. Marker instructions tell the emulator's plugin what it is looking at:
 *
 *     hint #100   the warm-up run begins: fill the modelled caches, count nothing
 *     hint #101   the measured run begins
 *     hint #102   the measured run is over
 *
 * They are no-ops on a real core, and are left out on any other architecture.
 */
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__aarch64__)
#define MARK(number) __asm__ volatile("hint #" #number ::: "memory")
#else
#define MARK(number) ((void)0)
#endif

/* The C API is one struct of function pointers. The first 102 are frozen (ONNX Runtime asserts their
 * positions at compile time), so that naming the positions used here replaces its 7,000-line header. */
enum {
    GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_SESSION_OPTIONS = 10,
    SET_GRAPH_OPTIMIZATION_LEVEL = 23, SET_INTRA_OP_THREADS = 24, SET_INTER_OP_THREADS = 25,
    SESSION_GET_INPUT_COUNT = 30, SESSION_GET_OUTPUT_COUNT = 31, SESSION_GET_INPUT_NAME = 36,
    SESSION_GET_OUTPUT_NAME = 37, CREATE_TENSOR_WITH_DATA = 49, GET_TENSOR_DATA = 51,
    GET_TENSOR_ELEMENT_TYPE = 60, GET_TENSOR_ELEMENT_COUNT = 64, GET_TENSOR_SHAPE = 65,
    CREATE_CPU_MEMORY_INFO = 69, ALLOCATOR_FREE = 76, GET_DEFAULT_ALLOCATOR = 78, RELEASE_STATUS = 93,
    RELEASE_MEMORY_INFO = 94, RELEASE_SESSION = 95, RELEASE_VALUE = 96, RELEASE_TENSOR_SHAPE = 99,
    RELEASE_SESSION_OPTIONS = 100
};
typedef void *Handle; /* OrtEnv*, OrtSession*, OrtValue* and so on: opaque to us */
typedef Handle Status; /* NULL where a call succeeded */
struct ApiBase {
    const void *const *(*get_api)(uint32_t version);
    const char *(*get_version)(void);
};
static const void *const *api;
#define CALL(position, result, ...) ((result(*)(__VA_ARGS__))api[position])
#define RELEASE(position, handle) ((void (*)(Handle))api[position])(handle)

enum { LOG_ERRORS = 3, ALL_OPTIMIZATIONS = 99, ARENA_ALLOCATOR = 1, DEFAULT_MEMORY = 0 };
enum { ELEMENT_FLOAT = 1, ELEMENT_INT64 = 7 };
enum { MAX_INPUTS = 8, SHOWN_OUTPUTS = 64, MAX_LINE = 8192 };

static void print_json_string(const char *text) {
    putchar('"');
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}

static int fail(const char *message) {
    printf("{\"ok\": false, \"error\": ");
    print_json_string(message);
    printf("}\n");
    return 0;
}

/* True where the call succeeded; else answers with the runtime's message and gives its status back. */
static int succeeded(Status status) {
    if (!status) return 1;
    fail(CALL(GET_ERROR_MESSAGE, const char *, Handle)(status));
    RELEASE(RELEASE_STATUS, status);
    return 0;
}
#define TRY(call) do { if (!succeeded(call)) goto cleanup; } while (0)

/* Fills one input. Returns 0 for an input that no encoder of ours has. */
static int fill(const char *name, int64_t *values, long tokens, long vocabulary) {
    for (long i = 0; i < tokens; i++) {
        if (strcmp(name, "input_ids") == 0) values[i] = (i * 7919 + 13) % vocabulary;
        else if (strcmp(name, "attention_mask") == 0) values[i] = 1;
        else if (strcmp(name, "token_type_ids") == 0) values[i] = i >= (tokens + 1) / 2;
        else return 0;
    }
    return 1;
}

static void print_outputs(Handle value, unsigned run_number) {
    Handle shape = NULL;
    size_t count = 0;
    int type = 0;
    float *data = NULL;
    TRY(CALL(GET_TENSOR_SHAPE, Status, Handle, Handle *)(value, &shape));
    TRY(CALL(GET_TENSOR_ELEMENT_COUNT, Status, Handle, size_t *)(shape, &count));
    TRY(CALL(GET_TENSOR_ELEMENT_TYPE, Status, Handle, int *)(shape, &type));
    TRY(CALL(GET_TENSOR_DATA, Status, Handle, void **)(value, (void **)&data));
    if (type != ELEMENT_FLOAT) count = 0;
    printf("{\"ok\": true, \"run\": %u, \"outputs\": [", run_number);
    for (size_t i = 0; i < count && i < SHOWN_OUTPUTS; i++) {
        /* JSON has no NaN or infinity: those become null */
        if (data[i] - data[i] == 0) printf("%s%.9g", i ? ", " : "", data[i]);
        else printf("%snull", i ? ", " : "");
    }
    printf("]}\n");
cleanup:
    if (shape) RELEASE(RELEASE_TENSOR_SHAPE, shape);
}

static unsigned measured_runs;

static void run_model(Handle environment, const char *path, long tokens, long vocabulary) {
    Handle options = NULL, session = NULL, memory = NULL, allocator = NULL, output = NULL;
    Handle inputs[MAX_INPUTS] = {0};
    char *names[MAX_INPUTS] = {0}, *output_name = NULL;
    int64_t *buffers[MAX_INPUTS] = {0};
    int64_t shape[2] = {1, tokens};
    size_t input_count = 0, output_count = 0;

    TRY(CALL(GET_DEFAULT_ALLOCATOR, Status, Handle *)(&allocator));
    TRY(CALL(CREATE_SESSION_OPTIONS, Status, Handle *)(&options));
    TRY(CALL(SET_INTRA_OP_THREADS, Status, Handle, int)(options, 1));
    TRY(CALL(SET_INTER_OP_THREADS, Status, Handle, int)(options, 1));
    TRY(CALL(SET_GRAPH_OPTIMIZATION_LEVEL, Status, Handle, int)(options, ALL_OPTIMIZATIONS));
    TRY(CALL(CREATE_SESSION, Status, Handle, const char *, Handle, Handle *)(environment, path, options,
                                                                             &session));
    TRY(CALL(SESSION_GET_INPUT_COUNT, Status, Handle, size_t *)(session, &input_count));
    TRY(CALL(SESSION_GET_OUTPUT_COUNT, Status, Handle, size_t *)(session, &output_count));
    if (input_count > MAX_INPUTS || output_count < 1) {
        fail("the model has too many inputs or no output");
        goto cleanup;
    }
    TRY(CALL(CREATE_CPU_MEMORY_INFO, Status, int, int, Handle *)(ARENA_ALLOCATOR, DEFAULT_MEMORY, &memory));
    for (size_t i = 0; i < input_count; i++) {
        TRY(CALL(SESSION_GET_INPUT_NAME, Status, Handle, size_t, Handle, char **)(session, i, allocator,
                                                                                  &names[i]));
        buffers[i] = malloc(sizeof(int64_t) * (size_t)tokens);
        if (!buffers[i] || !fill(names[i], buffers[i], tokens, vocabulary)) {
            fail("the model has an input other than input_ids, attention_mask and token_type_ids");
            goto cleanup;
        }
        TRY(CALL(CREATE_TENSOR_WITH_DATA, Status, Handle, void *, size_t, const int64_t *, size_t, int,
                 Handle *)(memory, buffers[i], sizeof(int64_t) * (size_t)tokens, shape, 2, ELEMENT_INT64,
                           &inputs[i]));
    }
    TRY(CALL(SESSION_GET_OUTPUT_NAME, Status, Handle, size_t, Handle, char **)(session, 0, allocator,
                                                                               &output_name));

    Status (*run)(Handle, Handle, const char *const *, const Handle *, size_t, const char *const *, size_t,
                  Handle *) = (void *)api[RUN];
    const char *const *input_names = (const char *const *)names;
    const char *const output_names[1] = {output_name};
    Status status;

    MARK(100);
    status = run(session, NULL, input_names, inputs, input_count, output_names, 1, &output);
    if (status) MARK(102);
    TRY(status);
    RELEASE(RELEASE_VALUE, output);
    output = NULL;

    MARK(101);
    status = run(session, NULL, input_names, inputs, input_count, output_names, 1, &output);
    MARK(102);
    const unsigned run_number = measured_runs++;
    TRY(status);
    print_outputs(output, run_number);

cleanup:
    if (output) RELEASE(RELEASE_VALUE, output);
    for (size_t i = 0; i < MAX_INPUTS; i++) {
        if (inputs[i]) RELEASE(RELEASE_VALUE, inputs[i]);
        if (names[i]) CALL(ALLOCATOR_FREE, Status, Handle, void *)(allocator, names[i]);
        free(buffers[i]);
    }
    if (output_name) CALL(ALLOCATOR_FREE, Status, Handle, void *)(allocator, output_name);
    if (memory) RELEASE(RELEASE_MEMORY_INFO, memory);
    if (session) RELEASE(RELEASE_SESSION, session);
    if (options) RELEASE(RELEASE_SESSION_OPTIONS, options);
    fflush(stdout);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: runner LIBONNXRUNTIME < models\n");
        return 2;
    }
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    const struct ApiBase *(*get_api_base)(void) =
        library ? (const struct ApiBase *(*)(void))dlsym(library, "OrtGetApiBase") : NULL;
    if (!get_api_base) {
        fprintf(stderr, "cannot load ONNX Runtime: %s\n", dlerror());
        return 2;
    }
    api = get_api_base()->get_api(1);
    Handle environment = NULL;
    if (!api || !succeeded(CALL(CREATE_ENV, Status, int, const char *, Handle *)(LOG_ERRORS, "shoebox",
                                                                                 &environment))) {
        fprintf(stderr, "cannot start ONNX Runtime\n");
        return 2;
    }
    static char line[MAX_LINE];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        char *rest = line;
        long tokens = strtol(rest, &rest, 10);
        long vocabulary = strtol(rest, &rest, 10);
        if (*rest != '\t' || tokens < 1 || vocabulary < 1) {
            fail("the request is not TOKENS, VOCABULARY and PATH separated by tabs");
            fflush(stdout);
            continue;
        }
        run_model(environment, rest + 1, tokens, vocabulary);
    }
    fflush(stdout);
    _Exit(0); /* the runtime's own tear-down has nothing left to tell us */
}
