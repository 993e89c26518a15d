"""A ComfyUI node pack of one node: the painter in place of an SD1.5 checkpoint. Link this folder into custom_nodes."""

from comfy_api.latest import ComfyExtension, io


class PainterLoader(io.ComfyNode):
    """Gives the painter as MODEL and VAE, so that stock nodes paint with it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """No inputs: there is one painter."""
        return io.Schema(
            node_id="PainterLoader",
            display_name="Load Painter (demonstration)",
            category="loaders",
            description="A tiny model that paints coloured shapes, 288 x 288, from an empty latent of 24 x 24. "
            "For demonstrations without SD1.5.",
            inputs=[],
            outputs=[io.Model.Output(display_name="MODEL"), io.Vae.Output(display_name="VAE")],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load the weights of the repository."""
        # Imported here: diffusers is heavy, and ComfyUI imports every pack when it starts.
        from . import model

        return io.NodeOutput(*model.load())


class PainterExtension(ComfyExtension):
    """The pack's contents."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """One node."""
        return [PainterLoader]


async def comfy_entrypoint() -> PainterExtension:
    """ComfyUI's entry."""
    return PainterExtension()
