"""The encoders as PyTorch modules: the student, a Chinese BERT with a map behind it, and the teacher, a checkpoint's
text encoders or a BERT, all read strictly from published weights. It hands on `Student`, `Teacher` and what of the
student is frozen."""
