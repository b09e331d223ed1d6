"""Learned augmentation: texts resampled by a masked language model, and a selector trained by reinforcement (L2A).

Feng et al. 2021, "Learning to Augment for Data-Scarce Domain BERT Knowledge Distillation" (arXiv 2101.08106): where a
task has few texts, a generator proposes more near those of the task, and a selector, trained by REINFORCE on what they
do to a student, decides which to keep. What the paper leaves open is decided, and said, where it is built.
"""
