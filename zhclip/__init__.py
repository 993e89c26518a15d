"""What an aligned text encoder is: its file, its tokens and its output structure. Shared by the trainer and the nodes."""
