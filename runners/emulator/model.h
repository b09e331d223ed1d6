/* One ONNX model, through the C API of an ONNX Runtime library that is loaded by path; single-threaded.
 *
 * A function that can fail returns 0 where it does, and model_error() then says why. Nothing is thread-safe.
 */
#ifndef MODEL_H
#define MODEL_H
#include <stddef.h>
#include <stdint.h>

enum { MAX_INPUTS = 8 };

typedef struct {
    void *session, *memory, *allocator, *output;
    void *inputs[MAX_INPUTS];
    int64_t *buffers[MAX_INPUTS];
    char *names[MAX_INPUTS], *output_name;
    size_t input_count;
} Model;

/* What the inputs of an encoder may be called, in the order of their values in a file of batches. */
enum { INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS, KNOWN_INPUTS };

const char *model_error(void);

/* Load the library and start it. `arena` is whether memory is taken in large pieces that are kept, with a plan
 * of where each tensor goes, as is ONNX Runtime's default. */
int runtime_start(const char *library, int arena);

/* Create a session. `model` must be all zero, or closed. */
int model_open(Model *model, const char *path);

/* Give the model its inputs, all [rows, width]. `values` holds one array for each known input, NULL for those
 * that there are none of. They are copied. Call it again for other inputs. */
int model_feed(Model *model, int64_t rows, int64_t width, const int64_t *const values[KNOWN_INPUTS]);

/* One inference; the output of the one before is dropped first. */
int model_run(Model *model);

/* The first output: its values, and how many there are; none where it does not hold float32. */
int model_output(const Model *model, const float **values, size_t *count);

void model_drop_output(Model *model);
void model_close(Model *model);

#endif
