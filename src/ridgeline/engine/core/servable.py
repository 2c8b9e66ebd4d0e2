"""What could never be served, however long it waited."""

from ridgeline.engine.core.plan import Geometry
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.protocol import Refusal


def refuse_unservable(spec: SequenceSpec, geometry: Geometry) -> None:
    """Raise a `Refusal` for a prompt without tokens, or one that does not fit with its answer."""
    if not spec.prompt:
        raise Refusal("invalid_request", "The prompt has no tokens.", param="prompt")
    limit = geometry.longest_sequence_tokens
    asked = len(spec.prompt) + spec.max_tokens
    if asked > limit:
        raise Refusal(
            "context_length_exceeded",
            f"Prompt ({len(spec.prompt)} tokens) and max_tokens ({spec.max_tokens}) make {asked} "
            f"tokens, but at most {limit} fit into the context.",
            param="max_tokens" if len(spec.prompt) < limit else "messages",
        )
