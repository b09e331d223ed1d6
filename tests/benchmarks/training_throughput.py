"""Examples per second of training, against the Hugging Face `Trainer`: the same student, teacher, losses and data.

    [SHOEBOX_DATA=DIR] python tests/benchmarks/training_throughput.py [--examples 1024] [--runs 5] [--threads 1]

DIR holds `sst2/train.parquet`; without it the text is the built-in grammar's. Needs `accelerate`, which the `Trainer`
does (`pip install -e '.[benchmark]'`). Three ways to train the same quantised student take turns:

- `Trainer, teacher at every step`: what distillation with the `Trainer` usually is. A subclass computes the loss; the
  frozen teacher answers under `no_grad`, in bfloat16 where the processor is fast in it. Batches are padded to their
  longest text and grouped by length, AdamW is fused.
- `Trainer, cached answers`: the same with the teacher's answers kept in memory, so that no teacher runs.
- `Shoebox`: `runners.distill`.

Student and losses are Shoebox's in all three, quantiser and its speed included, and all texts are tokenised before, so
that only the loops differ. Ratios are of runs that followed one another; those of processor seconds hold on a machine
that others use too. Every run pays for making model and optimiser, so that short epochs flatter whoever makes them
faster: take 1,000 examples or more.

Measured on sst2 with `--examples 1280 --runs 5` (2026-11-22, one core of an AMD EPYC virtual machine, a CI run on the
other): 748 examples per second, 3.6 times as many as with the teacher at every step (3.51 to 3.77, by the clock and by
processor seconds) and 1.66 times as many as with cached answers (1.61 to 1.68). The first is won by not running the
teacher, the second by products in bfloat16 (`space.product`) and by doing less around a step.
Of the pieces that a student reads, padding is 6.9 % on sst2 (first 20,000 texts) and 2.5 % on mrpc.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from runners.batches import Encoded, encode, shuffled_batches
from runners.distill import Course, Distillation
from runners.distill.loop import WEIGHT_DECAY
from runners.distill.losses import CrossDistillation
from runners.distill.schedules import WARMUP
from runners.lessons import Lessons
from runners.plan import FidelitySpec
from runners.precision import autocast
from runners.prepared import TaughtTask, prepare
from runners.task import Examples
from runners.teacher.model import find_model, load_tokenizer
from runners.teacher.prepare import load_teacher
from search.study_file import load_study_file
from space import Recipe
from space.families import Student, build_student, parse_config
from space.shape import TaskShape

CPU = torch.device("cpu")
WAYS = ("Trainer, teacher at every step", "Trainer, cached answers", "Shoebox")
CONFIG = {
    "family": "transformer",
    "vocabulary_keep": 0.2,
    "embedding_width": 96,
    "embedding_bits": 4,
    "block_size": 32,
    "accuracy_level": 4,
    "width": 192,
    "heads": 4,
    "activation": "gelu",
    "layers": [{"ffn_width": 512, "token_keep": 1.0, "attention_bits": 4, "ffn_bits": 4}] * 3,
}
RECIPE = Recipe(
    learning_rate=1e-3,
    label_weight=0.3,
    logit_weight=1.0,
    hidden_weight=1.0,
    temperature=2.0,
    teacher_learning_rate=0.0,
    initialization="random",
)


@dataclass(frozen=True, eq=False)
class Subject:
    """What all ways train on.

    Attributes:
        study: name of the study that brings data and teacher.
        shape, entries: of the student, and of its vocabulary.
        taught: the task and what its teacher answered.
        lessons: the texts with the teacher's answers.
        rows: the same texts for a `Trainer`, in the pieces of student and teacher.
        teacher: the torch teacher.
        student_tokenizer, teacher_tokenizer: for padding.
        batch_size: of all ways.
    """

    study: str
    shape: TaskShape
    entries: int
    taught: TaughtTask
    lessons: Lessons
    rows: list[dict[str, Any]]
    teacher: nn.Module
    student_tokenizer: Any
    teacher_tokenizer: Any
    batch_size: int

    def student(self) -> Student:
        torch.manual_seed(0)
        return build_student(parse_config(CONFIG), self.shape, self.entries)


class TrainedModel(nn.Module):
    """A student with its losses: what a `Trainer` trains."""

    def __init__(self, subject: Subject) -> None:
        super().__init__()
        self.student = subject.student()
        taught = subject.taught
        self.objective = CrossDistillation(
            self.student.width, taught.teacher, RECIPE, regression=taught.task.regression
        )
        # Else the Trainer takes them for parameters to train, as Shoebox does not.
        self.objective.task_layer.requires_grad_(False)
        self.student.head.requires_grad_(False)

    def forward(self, inputs: dict[str, Tensor], hidden: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        pooled, _ = self.student.encode_layers(**inputs)
        loss: Tensor = self.objective(pooled, hidden, logits, labels)
        return loss


def load(options: argparse.Namespace) -> Subject:
    """The data, and the teacher's answers from the cache or made now."""
    folder = os.environ.get("SHOEBOX_DATA")
    found = Path(folder) / "sst2" if folder else None
    if found is not None and found.is_dir():
        file = load_study_file("sst2", {"data": str(found)})
    else:
        file = load_study_file("quickstart")
    prepared = prepare(file.plan())
    ((name, taught),) = prepared.tasks.items()
    teacher, task = taught.teacher, taught.task
    count = min(options.examples, len(task.train))
    texts = Examples(task.train.texts[:count], None, task.train.labels[:count])
    size = prepared.vocabulary.size(parse_config(CONFIG).vocabulary_keep)
    whole = prepared.encoded_train(name, size)
    own = Encoded(whole.ids[: whole.starts[count]], None, whole.starts[: count + 1], whole.pad)
    tokenizer, _ = load_tokenizer(find_model(file.teacher.model), file.teacher.model)
    teachers = encode(tokenizer, texts, task.max_length)
    hidden = np.asarray(teacher.train_hidden[:count], np.float16)
    lessons = Lessons(own, teacher.train_logits[:count], hidden, texts.labels)

    def pieces(encoded: Encoded, row: int) -> list[int]:
        return encoded.ids[encoded.starts[row] : encoded.starts[row + 1]].tolist()

    rows = [
        {
            "input_ids": pieces(own, row),
            "teacher_ids": pieces(teachers, row),
            "labels": int(texts.labels[row]),
            "logits": np.array(lessons.logits[row]),
            "hidden": np.array(lessons.hidden[row], np.float32),
        }
        for row in range(count)
    ]
    from transformers import PreTrainedTokenizerFast

    student_tokenizer = PreTrainedTokenizerFast(tokenizer_object=prepared.tokenizer(name, size), pad_token="[PAD]")
    student_tokenizer.model_input_names = ["input_ids", "attention_mask"]
    restored = load_teacher(teacher).eval().requires_grad_(False)
    return Subject(
        file.name,
        prepared.shape,
        size,
        taught,
        lessons,
        rows,
        restored,
        student_tokenizer,
        tokenizer,
        options.batch_size,
    )


def train_with_trainer(subject: Subject, cached: bool, folder: str) -> None:
    """One epoch with the `Trainer`."""
    from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

    pad_student = DataCollatorWithPadding(subject.student_tokenizer)
    pad_teacher = DataCollatorWithPadding(subject.teacher_tokenizer)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = dict(pad_student([{"input_ids": row["input_ids"]} for row in rows]))
        batch["labels"] = torch.tensor([row["labels"] for row in rows])
        if cached:
            for name in ("logits", "hidden"):
                batch[name] = torch.from_numpy(np.stack([row[name] for row in rows]))
        else:
            taught = pad_teacher([{"input_ids": row["teacher_ids"]} for row in rows])
            batch["teacher_ids"], batch["teacher_mask"] = taught["input_ids"], taught["attention_mask"]
        return batch

    class DistillationTrainer(Trainer):
        def compute_loss(
            self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if cached:
                logits, hidden = inputs["logits"], inputs["hidden"]
            else:
                with torch.no_grad(), autocast(CPU):
                    asked = {"input_ids": inputs["teacher_ids"], "attention_mask": inputs["teacher_mask"]}
                    logits, hidden = subject.teacher(asked)
            own = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            return model(own, hidden, logits, inputs["labels"])

    arguments = TrainingArguments(
        output_dir=folder,
        num_train_epochs=1,
        per_device_train_batch_size=subject.batch_size,
        learning_rate=RECIPE.learning_rate,
        weight_decay=WEIGHT_DECAY,
        warmup_steps=WARMUP,  # below 1: a share of the steps
        optim="adamw_torch_fused",
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    rows: Any = subject.rows
    trainer = DistillationTrainer(TrainedModel(subject), arguments, train_dataset=rows, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def train_with_shoebox(subject: Subject) -> None:
    """One epoch with `runners.distill`."""
    taught, fidelity = subject.taught, FidelitySpec(epochs=1, batch_size=subject.batch_size)
    course = Course([subject.lessons], [], taught.teacher, taught.task.regression)
    Distillation(subject.student(), [course], RECIPE, fidelity, [], 0, CPU).run()


def timed(way: str, subject: Subject, folder: str) -> tuple[float, float]:
    """Wall seconds and processor seconds of one epoch, model and optimiser made on the way."""
    wall, spent = time.perf_counter(), time.process_time()
    if way == "Shoebox":
        train_with_shoebox(subject)
    else:
        train_with_trainer(subject, way.endswith("cached answers"), folder)
    return time.perf_counter() - wall, time.process_time() - spent


def padding_share(lengths: np.ndarray, batch_size: int) -> float:
    """Of all pieces that the student reads, those that are padding."""
    batches = list(shuffled_batches(lengths, batch_size, np.random.default_rng(0)))
    read = sum(len(rows) * int(lengths[rows].max()) for rows in batches)
    return 1 - int(lengths.sum()) / read


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1024, help="texts of an epoch")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    options = parser.parse_args()
    try:
        import accelerate  # noqa: F401
    except ImportError:
        parser.exit(2, "The Trainer needs accelerate: pip install -e '.[benchmark]'\n")
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(options.threads)
    subject = load(options)
    lengths, count = subject.lessons.encoded.lengths, len(subject.lessons)
    padding = padding_share(lengths, options.batch_size)
    print(
        f"{count} texts of {subject.study}, mean {lengths.mean():.1f} pieces, padding {padding:.1%}; batches of "
        f"{options.batch_size}, {options.threads} thread(s), load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )
    print(
        f"The teacher's answers were made once, with its fine-tuning, in {subject.taught.teacher.seconds:.0f} s "
        f"for {len(subject.taught.task.train)} texts; every trial of a study reads them."
    )
    walls: dict[str, list[float]] = {way: [] for way in WAYS}
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for run in range(-1, options.runs):  # the first warms up
            for way in WAYS:
                wall, processor = timed(way, subject, folder)
                if run >= 0:
                    walls[way].append(count / wall)
                    spent[way].append(count / processor)
    print("| training | examples/s: median | least | most | per processor second | Shoebox is faster by |")
    print("|---|---|---|---|---|---|")
    for way in WAYS:
        ratios = [own / other for own, other in zip(walls["Shoebox"], walls[way], strict=True)]
        by_processor = [own / other for own, other in zip(spent["Shoebox"], spent[way], strict=True)]
        figures = f"{statistics.median(walls[way]):.0f} | {min(walls[way]):.0f} | {max(walls[way]):.0f}"
        print(
            f"| {way} | {figures} | {statistics.median(spent[way]):.0f} | {_told(ratios)}; "
            f"by processor seconds {_told(by_processor)} |"
        )


def _told(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
