"""The student, a Chinese BERT, and the teacher, a checkpoint's text encoders or a BERT, from published weights."""
