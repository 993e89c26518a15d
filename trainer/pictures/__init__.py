"""The same prompts painted through several encoders and one Stable Diffusion 1.5, and compared with English."""
