"""Gradient descent from the ridge map towards the cached targets: the loop, its loss and its checkpoints. It hands on
`trained_student`."""
