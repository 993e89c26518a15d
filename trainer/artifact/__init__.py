"""The encoder's file: exported from a trained run or converted from a published encoder, and published on a hub."""
