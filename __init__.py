"""ZhCLIP as a ComfyUI node pack: this file only registers it."""

try:
    import comfy_api.latest  # noqa: F401
except ImportError:  # pytest and tools import the root of a repository too, where there is no ComfyUI
    pass
else:
    from .nodes.extension import comfy_entrypoint

    WEB_DIRECTORY = "./web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
