"""All that knows ComfyUI from inside: its CLIP, its MODEL, its model management. The nodes ask it for plain values.

It imports comfy.sd, which a start of ComfyUI should not wait for on our account: import it where a node executes.
"""

from .attention import Agreement, attention_agreement, require_fit
from .bert import SKIP_LAYER
from .clip import encoder_of, has_lora, is_aligned, layer_in_use, load_clip, load_in_place_of, place, tokenizer_of
from .progress import steps
from .sentences import same_width, sentence_vectors
from .teacher import Teacher
