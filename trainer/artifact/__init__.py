"""The encoder as one file: from a trained run or from a published encoder, read back and compared, and sent to a model
hub. It hands on the safetensors file that the nodes load."""
