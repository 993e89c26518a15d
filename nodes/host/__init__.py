"""The modules that use ComfyUI's internals: its CLIP, its MODEL and its model management.

They import comfy.sd, which ComfyUI's start need not wait for: import them inside a node's functions.
"""
