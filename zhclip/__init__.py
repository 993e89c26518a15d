"""What an aligned text encoder is: its file, its tokens, its output. Shared by the trainer and the nodes."""
