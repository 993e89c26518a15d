"""The encoders as PyTorch modules: the student, a Chinese BERT with a map behind it, and the teacher, a checkpoint's
text encoders or a BERT, all read strictly from published weights. It hands on `Student`, `Teacher` and what of the
student is frozen."""

from .bert import ANCHOR, bert_of, dimensions_of, load_bert
from .download import Weights, missing_weights
from .freezing import prepare, trunk_depth
from .ragged import spread
from .student import Ridge, Student, load_student
from .teacher import Teacher, caption_length, load_teacher, load_tokenizer, teacher_of
from .tokenizer import load_tokens, tokens_of
from .weights import (
    CHECKPOINTS,
    TOKENIZER_FILES,
    ModelError,
    check_finite,
    read_config,
    read_tensors,
    resolve,
    under_anchor,
)
