"""The same prompts through several encoders and one SD1.5, painted by diffusers and measured. It stands beside the
other rooms, and hands on figures and a page."""
