"""The train stage: gradient descent from the ridge map towards the cached targets."""
