/* See model.h. */
#include "model.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The C API is one struct of function pointers. The first 102 are frozen (ONNX Runtime asserts their
 * positions at compile time), so that naming the positions used here replaces its 7,000-line header. */
enum {
    GET_ERROR_MESSAGE = 2, CREATE_ENV = 3, CREATE_SESSION = 7, RUN = 9, CREATE_SESSION_OPTIONS = 10,
    DISABLE_MEMORY_PATTERN = 17, DISABLE_ARENA = 19, SET_GRAPH_OPTIMIZATION_LEVEL = 23,
    SET_INTRA_OP_THREADS = 24, SET_INTER_OP_THREADS = 25, SESSION_GET_INPUT_COUNT = 30,
    SESSION_GET_OUTPUT_COUNT = 31, SESSION_GET_INPUT_NAME = 36, SESSION_GET_OUTPUT_NAME = 37,
    CREATE_TENSOR_WITH_DATA = 49, GET_TENSOR_DATA = 51, GET_TENSOR_ELEMENT_TYPE = 60,
    GET_TENSOR_ELEMENT_COUNT = 64, GET_TENSOR_SHAPE = 65, CREATE_CPU_MEMORY_INFO = 69, ALLOCATOR_FREE = 76,
    GET_DEFAULT_ALLOCATOR = 78, RELEASE_STATUS = 93, RELEASE_MEMORY_INFO = 94, RELEASE_SESSION = 95,
    RELEASE_VALUE = 96, RELEASE_TENSOR_SHAPE = 99, RELEASE_SESSION_OPTIONS = 100
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

static const char *const known_names[KNOWN_INPUTS] = {"input_ids", "attention_mask", "token_type_ids"};
static Handle environment;
static int use_arena;
static char error[2048];

const char *model_error(void) { return error; }

static int fail(const char *message) {
    snprintf(error, sizeof error, "%s", message);
    return 0;
}

/* True where the call succeeded; else keeps the runtime's message and gives its status back. */
static int succeeded(Status status) {
    if (!status) return 1;
    fail(CALL(GET_ERROR_MESSAGE, const char *, Handle)(status));
    RELEASE(RELEASE_STATUS, status);
    return 0;
}
#define TRY(call) do { if (!succeeded(call)) return 0; } while (0)

int runtime_start(const char *library, int arena) {
    use_arena = arena;
    void *loaded = dlopen(library, RTLD_NOW | RTLD_LOCAL);
    const struct ApiBase *(*get_api_base)(void) =
        loaded ? (const struct ApiBase *(*)(void))dlsym(loaded, "OrtGetApiBase") : NULL;
    if (!get_api_base) return fail(dlerror());
    api = get_api_base()->get_api(1);
    if (!api) return fail("it offers no C API");
    TRY(CALL(CREATE_ENV, Status, int, const char *, Handle *)(LOG_ERRORS, "shoebox", &environment));
    return 1;
}

static int set_options(Handle options) {
    TRY(CALL(SET_INTRA_OP_THREADS, Status, Handle, int)(options, 1));
    TRY(CALL(SET_INTER_OP_THREADS, Status, Handle, int)(options, 1));
    TRY(CALL(SET_GRAPH_OPTIMIZATION_LEVEL, Status, Handle, int)(options, ALL_OPTIMIZATIONS));
    if (use_arena) return 1;
    TRY(CALL(DISABLE_ARENA, Status, Handle)(options));
    TRY(CALL(DISABLE_MEMORY_PATTERN, Status, Handle)(options));
    return 1;
}

int model_open(Model *model, const char *path) {
    Handle options = NULL;
    size_t outputs = 0;
    TRY(CALL(GET_DEFAULT_ALLOCATOR, Status, Handle *)(&model->allocator));
    TRY(CALL(CREATE_SESSION_OPTIONS, Status, Handle *)(&options));
    const int opened = set_options(options) &&
                       succeeded(CALL(CREATE_SESSION, Status, Handle, const char *, Handle, Handle *)(
                           environment, path, options, &model->session));
    RELEASE(RELEASE_SESSION_OPTIONS, options);
    if (!opened) return 0;
    TRY(CALL(SESSION_GET_INPUT_COUNT, Status, Handle, size_t *)(model->session, &model->input_count));
    TRY(CALL(SESSION_GET_OUTPUT_COUNT, Status, Handle, size_t *)(model->session, &outputs));
    if (model->input_count > MAX_INPUTS || outputs < 1) return fail("the model has too many inputs or no output");
    TRY(CALL(CREATE_CPU_MEMORY_INFO, Status, int, int, Handle *)(ARENA_ALLOCATOR, DEFAULT_MEMORY, &model->memory));
    for (size_t i = 0; i < model->input_count; i++)
        TRY(CALL(SESSION_GET_INPUT_NAME, Status, Handle, size_t, Handle, char **)(model->session, i,
                                                                                  model->allocator,
                                                                                  &model->names[i]));
    TRY(CALL(SESSION_GET_OUTPUT_NAME, Status, Handle, size_t, Handle, char **)(model->session, 0, model->allocator,
                                                                               &model->output_name));
    return 1;
}

static void drop_inputs(Model *model) {
    for (size_t i = 0; i < MAX_INPUTS; i++) {
        if (model->inputs[i]) RELEASE(RELEASE_VALUE, model->inputs[i]);
        free(model->buffers[i]);
        model->inputs[i] = model->buffers[i] = NULL;
    }
}

int model_feed(Model *model, int64_t rows, int64_t width, const int64_t *const values[KNOWN_INPUTS]) {
    const int64_t shape[2] = {rows, width};
    const size_t bytes = sizeof(int64_t) * (size_t)rows * (size_t)width;
    drop_inputs(model);
    for (size_t i = 0; i < model->input_count; i++) {
        const int64_t *found = NULL;
        for (size_t known = 0; known < KNOWN_INPUTS; known++)
            if (strcmp(model->names[i], known_names[known]) == 0) found = values[known];
        if (!found) return fail("the model has an input other than input_ids, attention_mask and token_type_ids");
        model->buffers[i] = malloc(bytes);
        if (!model->buffers[i]) return fail("out of memory");
        memcpy(model->buffers[i], found, bytes);
        TRY(CALL(CREATE_TENSOR_WITH_DATA, Status, Handle, void *, size_t, const int64_t *, size_t, int, Handle *)(
            model->memory, model->buffers[i], bytes, shape, 2, ELEMENT_INT64, &model->inputs[i]));
    }
    return 1;
}

int model_run(Model *model) {
    model_drop_output(model);
    TRY(CALL(RUN, Status, Handle, Handle, const char *const *, const Handle *, size_t, const char *const *, size_t,
             Handle *)(model->session, NULL, (const char *const *)model->names, model->inputs, model->input_count,
                       (const char *const *)&model->output_name, 1, &model->output));
    return 1;
}

int model_output(const Model *model, const float **values, size_t *count) {
    Handle shape = NULL;
    int type = 0;
    TRY(CALL(GET_TENSOR_SHAPE, Status, Handle, Handle *)(model->output, &shape));
    const int known = succeeded(CALL(GET_TENSOR_ELEMENT_COUNT, Status, Handle, size_t *)(shape, count)) &&
                      succeeded(CALL(GET_TENSOR_ELEMENT_TYPE, Status, Handle, int *)(shape, &type));
    RELEASE(RELEASE_TENSOR_SHAPE, shape);
    if (!known) return 0;
    if (type != ELEMENT_FLOAT) *count = 0;
    TRY(CALL(GET_TENSOR_DATA, Status, Handle, void **)(model->output, (void **)values));
    return 1;
}

void model_drop_output(Model *model) {
    if (model->output) RELEASE(RELEASE_VALUE, model->output);
    model->output = NULL;
}

void model_close(Model *model) {
    model_drop_output(model);
    drop_inputs(model);
    for (size_t i = 0; i < MAX_INPUTS; i++)
        if (model->names[i]) CALL(ALLOCATOR_FREE, Status, Handle, void *)(model->allocator, model->names[i]);
    if (model->output_name) CALL(ALLOCATOR_FREE, Status, Handle, void *)(model->allocator, model->output_name);
    if (model->memory) RELEASE(RELEASE_MEMORY_INFO, model->memory);
    if (model->session) RELEASE(RELEASE_SESSION, model->session);
    *model = (Model){0};
}
