"""Short programs that run a bundle: Python, C++, Kotlin (Android) and Swift (iOS), all with ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from runners.bundle import BundleConfig
    from space.shape import TaskShape


def snippets(config: BundleConfig) -> str:
    """The programs as blocks of Markdown; of several tasks they ask for the first."""
    name = next(iter(config.shape.tasks), None)
    output = "logits" if name is None else f"logits.{name}"
    # The file takes what its shape says; the text that is shown is that of the task.
    task = config.shape.part(name or "")[0]
    inputs = ["input_ids", "attention_mask"] + ["token_type_ids"] * (config.shape.segments == 2)
    blocks = {
        "Python (`pip install onnxruntime tokenizers`), in this folder": ("python", _python(config, task, name)),
        "C++": ("cpp", _cpp(inputs, output)),
        "Kotlin, with `com.microsoft.onnxruntime:onnxruntime-android`": ("kotlin", _kotlin(inputs, output, task)),
        "Swift, with `microsoft/onnxruntime-swift-package-manager`": ("swift", _swift(inputs, output)),
    }
    told = "\n\n".join(f"{title}:\n\n```{language}\n{code}\n```" for title, (language, code) in blocks.items())
    about = "`ids` are the word pieces of a text, `mask` as many ones" + (
        ", `types` 0 for the first text and 1 for the second" if config.shape.segments == 2 else ""
    )
    return f"{told}\n\nIn the last three, {about}."


def _python(config: BundleConfig, task: TaskShape, name: str | None) -> str:
    several = config.shape.segments == 2
    texts = '"the first text", "the second text"' if task.segments == 2 else '"a text of yours"'
    types = ', "token_type_ids": encoding.type_ids' if several else ""
    key = "" if name is None else f'["{name}"]'
    output = "logits" if name is None else f"logits.{name}"
    labelled = config.labels_of(name or "") is not None
    normalization = {"lowercase": config.lower_case, **config.normalization.record()}
    normalization.pop("lower_case")
    switches = ", ".join(f"{name}={value}" for name, value in normalization.items())
    head = ("import json\n\n" if labelled else "") + "import numpy as np\nimport onnxruntime\nimport tokenizers\n"
    code = f"""
tokenizer = tokenizers.BertWordPieceTokenizer("vocab.txt", {switches})
tokenizer.enable_truncation({task.max_length})
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
encoding = tokenizer.encode({texts})
feed = {{"input_ids": encoding.ids, "attention_mask": encoding.attention_mask{types}}}
logits = session.run(["{output}"], {{name: np.array([row], np.int64) for name, row in feed.items()}})[0][0]
"""
    if not labelled:
        return f"{head}{code}print(logits[0])"
    code += f'labels = json.load(open("config.json", encoding="utf-8"))["label_names"]{key}\n'
    if not task.per_token:
        return f"{head}{code}print(labels[logits.argmax()])"
    return (
        f"{head}{code}"
        "first = {word: place for place, word in reversed(list(enumerate(encoding.word_ids))) if word is not None}\n"
        "for word in sorted(first):\n"
        "    start, end = encoding.word_to_chars(word)\n"
        '    print("a text of yours"[start:end], labels[logits[first[word]].argmax()])'
    )


def _variables(inputs: list[str]) -> list[str]:
    return ["ids", "mask", "types"][: len(inputs)]


def _cpp(inputs: list[str], output: str) -> str:
    tensors = ", ".join(f"tensor({name})" for name in _variables(inputs))
    names = ", ".join(f'"{name}"' for name in inputs)
    return f"""Ort::Env env;
Ort::SessionOptions options;
options.SetIntraOpNumThreads(1).DisableCpuMemArena().DisableMemPattern();
Ort::Session session(env, ORT_TSTR("model.onnx"), options);
const std::array<int64_t, 2> shape{{1, static_cast<int64_t>(ids.size())}};
auto memory = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
auto tensor = [&](std::vector<int64_t>& values) {{
  return Ort::Value::CreateTensor<int64_t>(memory, values.data(), values.size(), shape.data(), shape.size());
}};
const char* names[] = {{{names}}};
const char* wanted[] = {{"{output}"}};
Ort::Value inputs[] = {{{tensors}}};
auto answers = session.Run(Ort::RunOptions{{nullptr}}, names, inputs, {len(inputs)}, wanted, 1);
const float* logits = answers[0].GetTensorData<float>();"""


def _kotlin(inputs: list[str], output: str, task: TaskShape) -> str:
    pairs = ", ".join(
        f'"{name}" to tensor({variable})' for name, variable in zip(inputs, _variables(inputs), strict=True)
    )
    row = "Array<Array<FloatArray>>" if task.per_token else "Array<FloatArray>"
    return f"""val environment = OrtEnvironment.getEnvironment()
val options = OrtSession.SessionOptions().apply {{
    setIntraOpNumThreads(1)
    setCPUArenaAllocator(false)
    setMemoryPatternOptimization(false)
}}
val session = environment.createSession(context.assets.open("model.onnx").readBytes(), options)
fun tensor(values: LongArray) = OnnxTensor.createTensor(environment, arrayOf(values))
val logits = session.run(mapOf({pairs})).use {{
    (it["{output}"].get().value as {row})[0]
}}"""


def _swift(inputs: list[str], output: str) -> str:
    pairs = ", ".join(
        f'"{name}": tensor({variable})' for name, variable in zip(inputs, _variables(inputs), strict=True)
    )
    return f"""import OnnxRuntimeBindings

let environment = try ORTEnv(loggingLevel: .warning)
let path = Bundle.main.path(forResource: "model", ofType: "onnx")!
let session = try ORTSession(env: environment, modelPath: path, sessionOptions: nil)
func tensor(_ values: [Int64]) throws -> ORTValue {{
    let data = values.withUnsafeBytes {{ NSMutableData(bytes: $0.baseAddress, length: $0.count) }}
    return try ORTValue(tensorData: data, elementType: .int64, shape: [1, NSNumber(value: values.count)])
}}
let answers = try session.run(
    withInputs: [{pairs}], outputNames: ["{output}"], runOptions: nil)
let logits = try answers["{output}"]!.tensorData() as Data  // float32"""
