from __future__ import annotations

import math
import struct
from dataclasses import replace

import pytest
import yaml
from pydantic import ValidationError

from objectives.latency import (
    CacheCounts,
    DeviceProfile,
    ExecutionCounts,
    LatencyReading,
    cycles,
    known_profiles,
    load_profile,
    milliseconds,
    read_counts,
    reading_from_counts,
)
from objectives.latency.counts import MAGIC
from objectives.latency.cycles import in_order_cycles, jumps_to_itself, out_of_order_cycles
from objectives.latency.decoding import decode
from objectives.latency.estimate import estimate, load_estimates
from objectives.latency.instructions import FLAGS, Instruction, Kind
from objectives.latency.profile import Figure
from space.errors import InputError

NO_MISSES = CacheCounts()

# Encodings by LLVM's assembler. Registers: x = general, v = vector, F = flags.
ENCODINGS = """
8b020020 | add x0, x1, x2                  | integer                 | x1 x2    | x0       | 0
f1000463 | subs x3, x3, #1                 | integer                 | x3       | x3 F     | 0
f2a000a3 | movk x3, #5, lsl #16            | integer                 | x3       | x3       | 0
9b020c20 | madd x0, x1, x2, x3             | multiply                | x1 x2 x3 | x0       | 0
1ac20820 | udiv w0, w1, w2                 | divide                  | x1 x2    | x0       | 0
9a821020 | csel x0, x1, x2, ne             | integer                 | x1 x2 F  | x0       | 0
fa421020 | ccmp x1, x2, #0, ne             | integer                 | x1 x2 F  | F        | 0
54ffffc1 | b.ne .-8                        | branch                  | F        |          | 0
b4000045 | cbz x5, .+8                     | branch                  | x5       |          | 0
d65f03c0 | ret                             | branch                  | x30      |          | 0
94000000 | bl .                            | branch                  |          | x30      | 0
3cc10420 | ldr q0, [x1], #16               | vector_load             | x1       | x1 v0    | 16
ad400440 | ldp q0, q1, [x2]                | vector_load             | x2       | v0 v1    | 32
a9c11043 | ldp x3, x4, [x2, #16]!          | load                    | x2       | x2 x3 x4 | 16
f90007e0 | str x0, [sp, #8]                | store                   | x0       |          | 8
f8637841 | ldr x1, [x2, x3, lsl #3]        | load                    | x2 x3    | x1       | 8
4cc2a020 | ld1 {v0.16b, v1.16b}, [x1], x2  | vector_load             | x1 x2    | x1 v0 v1 | 32
4d40c823 | ld1r {v3.4s}, [x1]              | vector_load             | x1       | v3       | 4
0d409023 | ld1 {v3.s}[1], [x1]             | vector_load             | x1 v3    | v3       | 4
4c007820 | st1 {v0.4s}, [x1]               | vector_store            | x1 v0    |          | 16
f9800020 | prfm pldl1keep, [x1]            | load                    | x1       |          | 0
f8210062 | ldadd x1, x2, [x3]              | load                    | x1 x3    | x2       | 8
c8037c41 | stxr w3, x1, [x2]               | store                   | x1 x2    | x3       | 8
4e22cc20 | fmla v0.4s, v1.4s, v2.4s        | vector_multiply_add     | v0 v1 v2 | v0       | 0
4f821020 | fmla v0.4s, v1.4s, v2.s[0]      | vector_multiply_add     | v0 v1 v2 | v0       | 0
6e22dc20 | fmul v0.4s, v1.4s, v2.4s        | vector_float            | v1 v2    | v0       | 0
4e22d420 | fadd v0.4s, v1.4s, v2.4s        | vector_float            | v1 v2    | v0       | 0
6e22fc20 | fdiv v0.4s, v1.4s, v2.4s        | vector_divide           | v1 v2    | v0       | 0
6ea1f820 | fsqrt v0.4s, v1.4s              | vector_divide           | v1       | v0       | 0
4e829420 | sdot v0.4s, v1.16b, v2.16b      | vector_dot              | v0 v1 v2 | v0       | 0
4fa2e020 | sdot v0.4s, v1.16b, v2.4b[1]    | vector_dot              | v0 v1 v2 | v0       | 0
0e228020 | smlal v0.8h, v1.8b, v2.8b       | vector_integer_multiply | v0 v1 v2 | v0       | 0
0f52a020 | smull v0.4s, v1.4h, v2.h[1]     | vector_integer_multiply | v1 v2    | v0       | 0
4e606820 | sadalp v0.4s, v1.8h             | vector_complex          | v0 v1    | v0       | 0
4e21d820 | scvtf v0.4s, v1.4s              | vector_float            | v1       | v0       | 0
4e212820 | xtn2 v0.16b, v1.8h              | vector_other            | v0 v1    | v0       | 0
0e612820 | xtn v0.4h, v1.4s                | vector_other            | v1       | v0       | 0
0e614820 | sqxtn v0.4h, v1.4s              | vector_complex          | v1       | v0       | 0
4eb1b820 | addv s0, v1.4s                  | vector_complex          | v1       | v0       | 0
4ea2bc20 | addp v0.4s, v1.4s, v2.4s        | vector_complex          | v1 v2    | v0       | 0
6e227c20 | uaba v0.16b, v1.16b, v2.16b     | vector_complex          | v0 v1 v2 | v0       | 0
4ea26420 | smax v0.4s, v1.4s, v2.4s        | vector_other            | v1 v2    | v0       | 0
4ea20c20 | sqadd v0.4s, v1.4s, v2.4s       | vector_complex          | v1 v2    | v0       | 0
4f3d1420 | ssra v0.4s, v1.4s, #3           | vector_complex          | v0 v1    | v0       | 0
0f1d8420 | shrn v0.4h, v1.4s, #3           | vector_other            | v1       | v0       | 0
0f1d9420 | sqshrn v0.4h, v1.4s, #3         | vector_complex          | v1       | v0       | 0
6f0c0420 | ushr v0.16b, v1.16b, #4         | vector_other            | v1       | v0       | 0
6f235420 | sli v0.4s, v1.4s, #3            | vector_other            | v0 v1    | v0       | 0
4f000400 | movi v0.4s, #0                  | vector_other            |          | v0       | 0
4f001420 | orr v0.4s, #1                   | vector_other            | v0       | v0       | 0
6e621c20 | bsl v0.16b, v1.16b, v2.16b      | vector_other            | v0 v1 v2 | v0       | 0
4e040c20 | dup v0.4s, w1                   | vector_other            | x1       | v0       | 0
6e0c0440 | mov v0.s[1], v2.s[0]            | vector_other            | v0 v2    | v0       | 0
0e043c20 | mov w0, v1.s[0]                 | vector_other            | v1       | x0       | 0
4e032020 | tbl v0.16b, {v1.16b, v2.16b}, v3.16b | vector_other       | v1 v2 v3 | v0       | 0
1e221820 | fdiv s0, s1, s2                 | vector_divide           | v1 v2    | v0       | 0
1f020c20 | fmadd s0, s1, s2, s3            | vector_multiply_add     | v1 v2 v3 | v0       | 0
1e212000 | fcmp s0, s1                     | scalar_float            | v0 v1    | F        | 0
1e220020 | scvtf s0, w1                    | scalar_float            | x1       | v0       | 0
1e380020 | fcvtzs w0, s1                   | scalar_float            | v1       | x0       | 0
1e270020 | fmov s0, w1                     | scalar_float            | x1       | v0       | 0
d503201f | nop                             | system                  |          |          | 0
"""


def _registers(text: str) -> set[int]:
    numbers = {"x": 0, "v": 32}
    return {FLAGS if name == "F" else numbers[name[0]] + int(name[1:]) for name in text.split()}


@pytest.mark.parametrize("line", ENCODINGS.strip().splitlines(), ids=lambda line: line.split("|")[1].strip())
def test_decodes_what_the_assembler_encodes(line: str) -> None:
    word, _, kind, reads, writes, size = (field.strip() for field in line.split("|"))
    found = decode(int(word, 16))
    assert found.kind == kind
    assert found.reads == _registers(reads)
    assert found.writes == _registers(writes)
    assert found.bytes == int(size)


def _add(target: int, source: int) -> Instruction:
    return Instruction(Kind.INTEGER, frozenset({source}), frozenset({target}))


def test_in_order_core_pairs_independent_work_and_waits_for_dependent() -> None:
    pipeline = load_profile("cortex-a53").pipeline
    assert in_order_cycles([_add(i, i + 10) for i in range(8)], pipeline) == 4
    assert in_order_cycles([_add(1, 1)] * 8, pipeline) == 8
    wide = Instruction(Kind.VECTOR_FLOAT, frozenset({40}), frozenset({41}), wide=True)
    assert in_order_cycles([wide] * 8, pipeline) == 8  # one 128-bit vector operation per cycle


def test_accumulators_are_forwarded_early() -> None:
    pipeline = load_profile("cortex-a53").pipeline
    sums = Instruction(Kind.VECTOR_MULTIPLY_ADD, frozenset({33, 34, 35}), frozenset({33}), 0, True, 33)
    other = Instruction(Kind.VECTOR_MULTIPLY_ADD, frozenset({33, 34, 35}), frozenset({33}), 0, True)
    assert in_order_cycles([sums] * 4, pipeline) == 3 * 4 + 1
    assert in_order_cycles([other] * 4, pipeline) == 3 * 8 + 1


def test_a_loop_costs_its_steady_state() -> None:
    pipeline = load_profile("cortex-a53").pipeline
    block = [_add(1, 1), _add(2, 2), _add(3, 3), Instruction(Kind.BRANCH)]
    assert in_order_cycles(block, pipeline, loops=True) == 2


def test_out_of_order_core_is_bound_by_its_busiest_port() -> None:
    pipeline = load_profile("cortex-a76").pipeline
    assert out_of_order_cycles([_add(1, 1)] * 12, pipeline) == 4  # three integer ports, four slots
    load = Instruction(Kind.VECTOR_LOAD, bytes=32)
    assert out_of_order_cycles([load] * 4, pipeline) == 4  # two ports of 16 bytes


@pytest.mark.parametrize(
    ("words", "loops"),
    [
        ((0xD503201F, 0x54FFFFE1), True),  # nop; b.ne to the nop
        ((0xD503201F, 0xD503201F, 0x54FFFFE1), False),  # b.ne to the second nop
        ((0x37FFFFFF,), False),
        ((0xD65F03C0,), False),
    ],
)
def test_recognises_a_block_that_jumps_to_itself(words: tuple[int, ...], loops: bool) -> None:
    assert jumps_to_itself(words) is loops


def test_misses_cost_time_and_streams_cost_less() -> None:
    profile = load_profile("cortex-a53")
    random = CacheCounts(1000, l1d_misses=100, l2_data_misses=100, memory_data=100)
    streamed = replace(random, l1d_streamed=100, l2_data_streamed=100, memory_data_streamed=100)
    spent = [cycles(ExecutionCounts({}, caches), profile).stall for caches in (NO_MISSES, streamed, random)]
    assert spent[0] == 0 < spent[1] < spent[2] == 100 * profile.memory.memory_cycles.value


def test_what_the_third_level_holds_costs_its_own_time() -> None:
    profile = load_profile("cortex-a76")
    memory = profile.memory
    assert memory.l3_cycles is not None
    exposed = 1 - memory.hidden_share.value
    data = CacheCounts(1000, l1d_misses=100, l2_data_misses=100, memory_data=30)
    code = CacheCounts(l1i_misses=10, l2_instruction_misses=10, memory_instructions=4)
    found = [cycles(ExecutionCounts({}, caches), profile).stall for caches in (data, code)]
    near, far = memory.l3_cycles.value, memory.memory_cycles.value
    assert found == pytest.approx([(70 * near + 30 * far) * exposed, 6 * near + 4 * far])


def test_counts_become_milliseconds() -> None:
    profile = load_profile("cortex-a53")
    counts = ExecutionCounts({(0xD503201F,) * 4: 700_000}, NO_MISSES)  # 4 nops: 2 cycles
    assert counts.instructions == 2_800_000
    assert milliseconds(counts, profile) == pytest.approx(1_400_000 / 1.4e6)
    slower = profile.model_dump()
    slower["pipeline"]["overhead"]["value"] = 1.5
    assert milliseconds(counts, DeviceProfile.model_validate(slower)) == pytest.approx(1.5 * 1_400_000 / 1.4e6)
    reading = reading_from_counts(counts, profile, 32, {"qemu": "7.2"})
    assert reading.backend == "emulated"
    assert not reading.calibrated
    assert reading.instruction_classes == {"system": 2_800_000}
    assert reading.versions["qemu"] == "7.2"
    assert LatencyReading.model_validate_json(reading.model_dump_json()) == reading


def _counts_file() -> bytes:
    block = struct.pack("<3Q2I", 0x4000, 7, 2, 0xD503201F, 0xD65F03C0)
    return MAGIC + struct.pack("<12Q", 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 2) + block + block


def test_reads_the_file_of_the_plugin_and_merges_equal_blocks() -> None:
    counts = read_counts(_counts_file())
    assert counts.blocks == {(0xD503201F, 0xD65F03C0): 14}
    assert counts.caches.l1d_accesses == 12
    assert counts.caches.memory_instructions == 2


@pytest.mark.parametrize("data", [b"", b"{}", _counts_file()[:-1], _counts_file()[:40]])
def test_refuses_a_damaged_file(data: bytes) -> None:
    with pytest.raises(ValueError, match="execution counts"):
        read_counts(data)


@pytest.mark.parametrize("name", known_profiles())
def test_shipped_profiles_load_and_can_be_estimated(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert not profile.calibrated
    assert load_estimates(profile).device == name


def test_a_changed_profile_is_not_estimated() -> None:
    profile = load_profile("cortex-a53")
    clock = profile.clock_ghz.model_copy(update={"value": 2.0})
    with pytest.raises(InputError, match="another version of its profile"):
        load_estimates(profile.model_copy(update={"clock_ghz": clock}))


def test_the_four_promised_cores_are_there() -> None:
    assert known_profiles() == ["cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76"]


def test_a_figure_names_its_origin() -> None:
    with pytest.raises(ValidationError, match="source"):
        Figure[int](value=3)


def test_unknown_device_names_the_known() -> None:
    with pytest.raises(InputError, match=r"Unknown device 'cortex-x9'\. Known: cortex-a53, cortex-a55"):
        load_profile("cortex-x9")


@pytest.fixture
def own_profile(tmp_path):
    """Writes a profile of the user's own: the shipped one, changed by a function."""

    def write(change) -> str:
        data = yaml.safe_load(load_profile("cortex-a53").model_dump_json(exclude_none=True))
        change(data)
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump(data))
        return str(path)

    return write


def test_a_profile_of_ones_own(own_profile) -> None:
    profile = load_profile(own_profile(lambda data: data.update(name="mine")))
    assert profile.name == "mine"
    with pytest.raises(InputError, match="no recorded operator costs"):
        estimate([], profile, 32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.pop("clock_ghz"), r"wrong at clock_ghz: Field required"),
        (lambda data: data.update(speed=3), r"wrong at speed: Extra inputs"),
        (lambda data: data["clock_ghz"].pop("source"), r"wrong at clock_ghz: .*source"),
        (lambda data: data["clock_ghz"].update(value=math.inf), r"wrong at clock_ghz.value: .*finite"),
        (lambda data: data["memory"]["bandwidth_gb_per_s"].update(value=math.inf), r"wrong at memory.*finite"),
        (lambda data: data["memory"]["l2"]["value"].update(kib=2**40), r"wrong at memory.l2.value.kib: .*less than"),
        (lambda data: data["emulation"].update(features="fp asimd ü"), r"wrong at emulation.features"),
        (lambda data: data["emulation"].update(part="0xd03\nCPU part : 0xd0b"), r"wrong at emulation.part"),
        (lambda data: data["clock_ghz"].update(value=9.0), r"mine.yaml has the name of a shipped one, cortex-a53, and"),
        (lambda data: data["memory"]["l2"]["value"].update(kib=300), r"wrong at memory.l2.value: .*power of two"),
        (lambda data: data["memory"].update(l3=data["memory"]["l2"]), r"wrong at memory: .*both l3 and l3_cycles"),
        (lambda data: data["pipeline"]["latency"]["value"].pop("branch"), r"wrong at pipeline.*lacks branch"),
    ],
)
def test_a_wrong_profile_says_where(own_profile, change, message) -> None:
    with pytest.raises(InputError, match=message):
        load_profile(own_profile(change))


def test_a_copy_of_a_shipped_profile_is_that_profile(own_profile) -> None:
    assert load_profile(own_profile(lambda data: None)) == load_profile("cortex-a53")


def test_a_profile_that_is_not_there_or_not_yaml(tmp_path) -> None:
    with pytest.raises(InputError, match="no home folder for the ~"):
        load_profile("~nosuchuser/x.yaml")
    with pytest.raises(InputError, match="cannot be read: File name too long"):
        load_profile("a" * 300 + ".yaml")
    for text in ("board: 2026-99-99", "a: " + "[" * 3000):
        (tmp_path / "odd.yaml").write_text(text)
        with pytest.raises(InputError, match="is not YAML"):
            load_profile(str(tmp_path / "odd.yaml"))
    with pytest.raises(InputError, match="no device profile"):
        load_profile(str(tmp_path / "gone.yaml"))
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(InputError, match="is not YAML"):
        load_profile(str(tmp_path / "bad.yaml"))
