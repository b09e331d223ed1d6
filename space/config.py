"""What one trial is made of: a student's architecture and the recipe that trains it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Bits = Literal[2, 4, 8]
BlockSize = Literal[16, 32, 64, 128]
# 0: activations stay float32. 4: activations are rounded to int8 per block, the only level that reaches
# the int8 dot-product kernels of ONNX Runtime on ARM.
AccuracyLevel = Literal[0, 4]
VocabularyScore = Literal["attention_sum", "attention_mean", "frequency"]
Quantization = Literal["aware", "post_training"]
Clipping = Literal["none", "auto", "searched", "learned"]
Schedule = Literal["joint", "stagewise"]
TeacherKind = Literal["study", "finetuned", "meta"]
ExampleWeighting = Literal["none", "domain_expertise"]
Augmentation = Literal["all", "none", "random", "masked", "learned"]


class StudentConfig(BaseModel):
    """Architecture and bit-widths of a student: all that fixes its bytes and its latency.

    This base holds what every family shares, the embedding stage; a family's own class
    (`space/families/`) adds the rest.

    Attributes:
        family: name of the student family.
        vocabulary_keep: kept share of the teacher's vocabulary, in (0, 1] (EI-BERT's hard token pruning).
        vocabulary_score: which entries are kept: those whose occurrences receive most attention from the teacher in
            `attention_sum`, or in the `attention_mean` over occurrences (EI-BERT leaves open which), or those of the
            highest `frequency`. It fixes the bytes of `vocab.txt`, but not those of the model. A tenth of the
            vocabulary splits texts of SST-2 into 31.5, 54.4 and 30.7 pieces on average: the mean keeps rare words,
            while nine tenths of what the other two keep is the same.
        embedding_width: width of the factorised embedding (ALBERT), before it is projected.
        embedding_bits: bits of a word embedding's entry.
        block_size: weights that share one float32 scale.
        accuracy_level: `MatMulNBits` accuracy level of every quantised product.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    vocabulary_keep: float = Field(gt=0, le=1)
    vocabulary_score: VocabularyScore = "attention_sum"
    embedding_width: int = Field(ge=16, le=1024, multiple_of=16)
    embedding_bits: Bits
    block_size: BlockSize
    accuracy_level: AccuracyLevel

    def summary(self) -> str:
        """The architecture in a few words, for tables."""
        raise NotImplementedError


class Recipe(BaseModel):
    """How a student is trained: EI-BERT's cross-distillation (Wang et al. 2025, arXiv 2507.04636).

    The student's loss is `a CE + b tau^2 KL(p_T || p_S) + c MSE(P h_S, h_T)`, its logits are
    `W_T (P h_S) + b_T` with the teacher's task layer `W_T, b_T` and a learned projection `P`. For regression,
    CE and KL become squared errors to the label and to the teacher's output.

    Attributes:
        learning_rate: peak learning rate of the student (AdamW).
        label_weight: a, weight of the loss on labels.
        logit_weight: b, weight of the loss on the teacher's logits.
        hidden_weight: c, weight of the loss on the teacher's pooled hidden state.
        temperature: tau.
        teacher_learning_rate: learning rate of the teacher's task layer under the mutual loss
            `a CE + b tau^2 KL(p_S || p_T)`; 0 is plain distillation from cached answers.
        teacher_update: what of the teacher learns where its learning rate is not 0. `task_layer`: the encoder stays
            frozen, which costs no teacher forward. `encoder`: all of it, under `L_T = a CE + b tau^2 KL(p_S || p_T) +
            c MSE(P h_S, h_T)`; each step then runs the teacher forward and backward.
        teacher_kind: who teaches: `study`, the teacher of the study's section `teacher`; or one of the kind named, from
            the same model and with the same length of training. Vocabulary and the figures that the student is compared
            with stay those of the study's teacher. `meta` is for tasks with domains; others keep their teacher.
        state_weight: weight of the squared error to the teacher's hidden states of words, over its variance, averaged
            over the student's layers. Needs the teacher's states, which are made once per text; makes steps 7 %
            longer. With `layers`, 1 lowers the divergence from the teacher after a third of an epoch of SST-2 from
            0.249 to 0.243, and raises the correlation on STS-B from 0.785 to 0.803.
        relation_weight: weight of the divergence from the relations between the teacher's states of the words of a
            text (MiniLM, Wang et al. 2020, arXiv 2002.10957).
        initialization: what starts from the teacher: `random` nothing, `teacher` the embeddings (PCA of its
            embedding matrix, XtremeDistil), `layers` also the layers (its weights, projected onto the principal
            components of its hidden states; only of teachers that are laid out like BERT). After a third of an
            epoch of SST-2 the divergence is 0.260 with `teacher` and 0.249 with `layers`; `teacher` reaches 0.266 in
            a whole epoch. Pairs of texts gain most: on STS-B, with `layers` and states, the error of training after
            600 steps is 0.17 in place of 0.73. `pretrained` takes all but the head from an encoder that was distilled
            from the untuned teacher beforehand (the study's section `pretraining`). So far it is no match for
            `layers` where texts are compared: what a fine-tuned teacher compares by is not in the untuned one. On
            STS-B, with 70,000 texts seen in pre-training, the correlation is 0.45 (0.51 with its `similarity_weight`
            at 1) against 0.81 from `layers`, on CoLA 0.12 against 0.16; on MRPC both stay below the share of the
            larger class (one seed each). `supernet` takes all from a student of the largest sizes that was trained
            beforehand for the task at all sizes at once (the study's section `supernet`).
            A student of a family without layers like the teacher's (`Family.initializations`) takes of `layers` the
            embeddings.
        schedule: in which order the losses are learned: `joint` all at once, `stagewise` one after another, in stages
            that unfreeze the student from its top down (XtremeDistil, Mukherjee & Awadallah 2020, arXiv 2004.05686; see
            `runners.distill.schedules`), in as many steps altogether. On little text and without transfer text it does
            not pay: on 5,000 sentences of WikiAnn (en), a recurrent student of 1.15 MB has, after 12 epochs, entity F1
            0.577 with `joint` and 0.565 with stages on states and logits (one seed; the teacher has 0.700).
        example_weighting: how much the teacher's answers to a text of the train split count: `none` all alike,
            `domain_expertise` by `(1 + w) / (exp((p_T(y) - 1)^2) + 1)`, with mean 1: more where the teacher gives the
            label a high probability and where the text is like those of all domains (Meta-KD, Pan et al. 2021, arXiv
            2012.01266). The loss on labels is not weighed: a label is right where the teacher is wrong. Transfer text
            counts 1.
        transfer_share: share of the examples that is drawn from the study's transfer text.
        augmentation: which augmented texts are among the transfer text: those made by a method that the study's
            `transfer.augment` names (`runners.transfer.spec.AugmentSpec`), `none` of them, or `all`, as many of each as
            the study has. With `none`, a study without transfer sources has the train split alone, which makes an epoch
            shorter.
        task_exponent: of several tasks, a task with n texts gets batches in proportion to n to this power: 1 as many as
            it has texts for, 0 the same for all. 0.5 keeps large tasks from drowning small ones.
        head_bias: of tasks that classify. `trained`: as it was learned. `balanced`: fitted once after training, so that
            the student's answers part the classes of the train split best, each class counting as much as any other
            (`runners.head_bias`). A teacher that learns too draws its answers together, towards the larger class: on
            MRPC students say "paraphrase" of 86 % of the validation pairs, of which 68 % are.
        quantization: when weights are rounded to their bits: `aware` at every step of training, `post_training` (the
            paper's way) once at its end, after training in full precision; what that costs stands in the metrics.
        clipping: how the scale of a block of weights is chosen: `none` by its largest entry, `searched` as the one of
            nine multiples of that with the least squared error, `learned` from there on by gradient (LSQ, Esser et al.
            2020, arXiv 1902.08153), `auto` as `searched` for weights of 2 bits and as `none` for others. With
            `post_training` nothing can be learned: `learned` is then `searched`. On 10,000 examples of SST-2, two
            layers and blocks of 32, the divergence from the teacher is 0.313 with `none`, 0.302 with `searched` and
            0.304 with `learned` at 2 bits; 0.285, 0.292 and 0.299 at 4 (two seeds, one of `learned`). `learned` makes
            steps 17 % longer, `searched` 3 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    learning_rate: float = Field(gt=0, le=1)
    label_weight: float = Field(ge=0)
    logit_weight: float = Field(ge=0)
    hidden_weight: float = Field(ge=0)
    temperature: float = Field(ge=0.1, le=100)
    teacher_learning_rate: float = Field(ge=0, le=1)
    teacher_update: Literal["task_layer", "encoder"] = "task_layer"
    teacher_kind: TeacherKind = "study"
    state_weight: float = Field(default=0.0, ge=0)
    relation_weight: float = Field(default=0.0, ge=0)
    initialization: Literal["random", "teacher", "layers", "pretrained", "supernet"]
    schedule: Schedule = "joint"
    example_weighting: ExampleWeighting = "none"
    transfer_share: float = Field(default=0.0, ge=0, lt=1)
    augmentation: Augmentation = "all"
    task_exponent: float = Field(default=0.5, ge=0, le=1)
    head_bias: Literal["trained", "balanced"] = "trained"
    quantization: Quantization = "aware"
    clipping: Clipping = "none"

    @property
    def updates_encoder(self) -> bool:
        """Whether the teacher's encoder is trained beside the student."""
        return self.teacher_learning_rate > 0 and self.teacher_update == "encoder"

    @property
    def learns_words(self) -> bool:
        """Whether the teacher's hidden states of words are needed."""
        return self.state_weight > 0 or self.relation_weight > 0
