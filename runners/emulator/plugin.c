/* QEMU TCG plugin: how often each block of guest code runs between two markers, and what its memory
 * accesses do to a model of the caches. It decodes nothing: the counted blocks are written out with their
 * instruction words, and the reader classifies and costs them.
 *
 * Options: out=PREFIX,l1d=KIB:WAYS,l1i=KIB:WAYS,l2=KIB:WAYS[,l3=KIB:WAYS] (line size 64 bytes, least recently
 * used). What the second level lacks is looked for in the third, where there is one, and kept in both. (Where the
 * third one takes what the second drops instead, it holds a little more.)
 *
 * Markers (see runner.c): hint #100 starts filling the caches, hint #101 starts counting, hint #102 stops
 * both and writes PREFIX-PID, after the process: the runner forks. All numbers in it are little-endian:
 *
 *     char[8]   "SHOEBOX2"
 *     u64[11]   accesses and misses: l1d accesses, l1d misses, l1d misses on a stream, l2 misses of data,
 *               l2 misses of data on a stream, l1i accesses, l1i misses, l2 misses of instructions; lines from
 *               memory: of data, of data on a stream, of instructions
 *     u64       number of blocks, then for each of them
 *     u64[3]    address, executions, number of instructions;  then u32[number of instructions]
 *
 * Written against plugin API version 1 (QEMU 4.2 to 8.2) with its own declarations, so that building it
 * needs no QEMU header. The guest runs one thread, hence no locks.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef uint32_t qemu_plugin_meminfo_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_mem_rw { QEMU_PLUGIN_MEM_R = 1, QEMU_PLUGIN_MEM_W, QEMU_PLUGIN_MEM_RW };
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
typedef void (*ExecutedCallback)(unsigned vcpu, void *data);
typedef void (*AccessCallback)(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t,
                                           void (*)(qemu_plugin_id_t, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, enum qemu_plugin_op, void *, uint64_t);
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, ExecutedCallback,
                                          enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, ExecutedCallback,
                                            enum qemu_plugin_cb_flags, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, AccessCallback, enum qemu_plugin_cb_flags,
                                      enum qemu_plugin_mem_rw, void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
unsigned qemu_plugin_mem_size_shift(qemu_plugin_meminfo_t);

EXPORT int qemu_plugin_version = 1;

static void out_of_memory(void) {
    fprintf(stderr, "plugin: out of memory\n");
    exit(9);
}

/* ---- caches ---------------------------------------------------------------------------------------- */

enum { LINE_BITS = 6, STREAMS = 16 };

typedef struct {
    uint64_t sets, ways;
    uint64_t *tags; /* sets x ways, most recently used first; a tag is the line number plus one, 0 empty */
    uint64_t accesses, misses;
} Cache;

static Cache l1d, l1i, l2, l3; /* l3 without tags: there is none */
static uint64_t l1d_streamed, l2_data_misses, l2_data_streamed, l2_instruction_misses;
static uint64_t memory_data, memory_data_streamed, memory_instructions;

static bool cache_create(Cache *cache, const char *text) {
    unsigned long kib, ways;
    if (sscanf(text, "%lu:%lu", &kib, &ways) != 2 || !kib || !ways) return false;
    cache->ways = ways;
    cache->sets = (kib * 1024 >> LINE_BITS) / ways;
    if (!cache->sets || (cache->sets & (cache->sets - 1))) return false; /* a power of two, for the mask */
    free(cache->tags);
    cache->tags = calloc(cache->sets * ways, sizeof *cache->tags);
    return cache->tags != NULL;
}

/* Looks a line up and makes it the most recently used one. Returns whether it was there. */
static inline bool cache_touch(Cache *cache, uint64_t line) {
    uint64_t *set = cache->tags + (line & (cache->sets - 1)) * cache->ways;
    const uint64_t tag = line + 1;
    cache->accesses++;
    if (set[0] == tag) return true;
    uint64_t way = 1;
    while (way < cache->ways && set[way] != tag) way++;
    const bool hit = way < cache->ways;
    if (!hit) {
        way = cache->ways - 1;
        cache->misses++;
    }
    memmove(set + 1, set, way * sizeof *set);
    set[0] = tag;
    return hit;
}

/* Does a missed line continue one of the last STREAMS ascending sequences? Then a hardware prefetcher would
 * have asked for it already. */
static bool continues_stream(uint64_t line) {
    static uint64_t expected[STREAMS];
    static unsigned oldest;
    for (unsigned i = 0; i < STREAMS; i++) {
        if (expected[i] == line || expected[i] == line + 1) {
            expected[i] = line + 1;
            return true;
        }
    }
    expected[oldest] = line + 1;
    oldest = (oldest + 1) % STREAMS;
    return false;
}

static inline bool third_level_has(uint64_t line) { return l3.tags && cache_touch(&l3, line); }

static inline void touch_data(uint64_t line) {
    if (cache_touch(&l1d, line)) return;
    const bool streamed = continues_stream(line);
    l1d_streamed += streamed;
    if (cache_touch(&l2, line)) return;
    l2_data_misses++;
    l2_data_streamed += streamed;
    if (third_level_has(line)) return;
    memory_data++;
    memory_data_streamed += streamed;
}

static bool simulating;

static void on_access(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *data) {
    (void)vcpu, (void)data;
    if (!simulating) return;
    const uint64_t last = (address + (1u << qemu_plugin_mem_size_shift(info)) - 1) >> LINE_BITS;
    touch_data(address >> LINE_BITS);
    if (last != address >> LINE_BITS) touch_data(last);
}

/* ---- blocks ---------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t address, executions, executions_before;
    uint64_t size;    /* instructions */
    uint32_t words[]; /* their encodings */
} Block;

static Block **blocks;
static size_t block_count, block_capacity;

static void on_block(unsigned vcpu, void *data) {
    (void)vcpu;
    if (!simulating) return;
    const Block *block = data;
    const uint64_t last = (block->address + 4 * block->size - 1) >> LINE_BITS;
    for (uint64_t line = block->address >> LINE_BITS; line <= last; line++) {
        if (cache_touch(&l1i, line) || cache_touch(&l2, line)) continue;
        l2_instruction_misses++;
        memory_instructions += !third_level_has(line);
    }
}

/* ---- markers --------------------------------------------------------------------------------------- */

enum { MARK_WARM = 0xd5032c9f, MARK_BEGIN = 0xd5032cbf, MARK_END = 0xd5032cdf, COUNTERS = 11 };

static const char *prefix = "counts";
static uint64_t counters_before[COUNTERS];
static bool counting;

static void read_counters(uint64_t *counters) {
    const uint64_t now[COUNTERS] = {
        l1d.accesses, l1d.misses, l1d_streamed,          l2_data_misses, l2_data_streamed,     l1i.accesses,
        l1i.misses,   l2_instruction_misses, memory_data, memory_data_streamed, memory_instructions,
    };
    memcpy(counters, now, sizeof now);
}

static void on_warm(unsigned vcpu, void *data) {
    (void)vcpu, (void)data;
    /* Every model starts from empty caches: its figure must not depend on who ran before it. */
    Cache *const caches[] = {&l1d, &l1i, &l2, &l3};
    for (size_t i = 0; i < sizeof caches / sizeof *caches; i++)
        if (caches[i]->tags) memset(caches[i]->tags, 0, caches[i]->sets * caches[i]->ways * sizeof *caches[i]->tags);
    simulating = true;
}

static void on_begin(unsigned vcpu, void *data) {
    (void)vcpu, (void)data;
    for (size_t i = 0; i < block_count; i++) blocks[i]->executions_before = blocks[i]->executions;
    read_counters(counters_before);
    counting = true;
}

static void put(FILE *file, const void *data, size_t size) {
    if (fwrite(data, 1, size, file) != size) {
        fprintf(stderr, "plugin: cannot write the counts\n");
        exit(9);
    }
}

static void on_end(unsigned vcpu, void *data) {
    (void)vcpu, (void)data;
    const bool counted = counting;
    simulating = counting = false;
    if (!counted) return; /* the warm-up run failed: nothing to report */

    char path[4096];
    snprintf(path, sizeof path, "%s-%d", prefix, (int)getpid());
    FILE *file = fopen(path, "wb");
    if (!file) {
        fprintf(stderr, "plugin: cannot create %s\n", path);
        exit(9);
    }
    uint64_t counters[COUNTERS], executed = 0;
    read_counters(counters);
    for (size_t i = 0; i < COUNTERS; i++) counters[i] -= counters_before[i];
    for (size_t i = 0; i < block_count; i++) executed += blocks[i]->executions > blocks[i]->executions_before;
    put(file, "SHOEBOX2", 8);
    put(file, counters, sizeof counters);
    put(file, &executed, sizeof executed);
    for (size_t i = 0; i < block_count; i++) {
        const Block *block = blocks[i];
        const uint64_t head[3] = {block->address, block->executions - block->executions_before, block->size};
        if (!head[1]) continue;
        put(file, head, sizeof head);
        put(file, block->words, block->size * sizeof *block->words);
    }
    if (fclose(file)) {
        fprintf(stderr, "plugin: cannot write the counts\n");
        exit(9);
    }
}

/* ---- translation ----------------------------------------------------------------------------------- */

static bool may_access_memory(uint32_t word) { return (word >> 25 & 5) == 4; } /* loads and stores */

static void on_translation(qemu_plugin_id_t id, struct qemu_plugin_tb *translated) {
    (void)id;
    const size_t size = qemu_plugin_tb_n_insns(translated);
    if (block_count == block_capacity) {
        block_capacity = block_capacity ? 2 * block_capacity : 65536;
        blocks = realloc(blocks, block_capacity * sizeof *blocks);
        if (!blocks) out_of_memory();
    }
    Block *block = calloc(1, sizeof *block + size * sizeof *block->words);
    if (!block) out_of_memory();
    blocks[block_count++] = block;
    block->address = qemu_plugin_tb_vaddr(translated);
    block->size = size;
    for (size_t i = 0; i < size; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translated, i);
        memcpy(&block->words[i], qemu_plugin_insn_data(instruction), sizeof block->words[i]);
        const uint32_t word = block->words[i];
        ExecutedCallback mark =
            word == MARK_WARM ? on_warm : word == MARK_BEGIN ? on_begin : word == MARK_END ? on_end : NULL;
        if (mark) qemu_plugin_register_vcpu_insn_exec_cb(instruction, mark, QEMU_PLUGIN_CB_NO_REGS, NULL);
        if (may_access_memory(word))
            qemu_plugin_register_vcpu_mem_cb(instruction, on_access, QEMU_PLUGIN_CB_NO_REGS,
                                             QEMU_PLUGIN_MEM_RW, NULL);
    }
    qemu_plugin_register_vcpu_tb_exec_inline(translated, QEMU_PLUGIN_INLINE_ADD_U64, &block->executions, 1);
    qemu_plugin_register_vcpu_tb_exec_cb(translated, on_block, QEMU_PLUGIN_CB_NO_REGS, block);
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
    (void)info;
    if (!cache_create(&l1d, "32:4") || !cache_create(&l1i, "32:2") || !cache_create(&l2, "512:16")) return 1;
    for (int i = 0; i < argc; i++) {
        bool understood = true;
        if (!strncmp(argv[i], "out=", 4)) prefix = strdup(argv[i] + 4);
        else if (!strncmp(argv[i], "l1d=", 4)) understood = cache_create(&l1d, argv[i] + 4);
        else if (!strncmp(argv[i], "l1i=", 4)) understood = cache_create(&l1i, argv[i] + 4);
        else if (!strncmp(argv[i], "l2=", 3)) understood = cache_create(&l2, argv[i] + 3);
        else if (!strncmp(argv[i], "l3=", 3)) understood = cache_create(&l3, argv[i] + 3);
        else understood = false;
        if (!understood) {
            fprintf(stderr, "plugin: cannot use the option %s\n", argv[i]);
            return 1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    return 0;
}
