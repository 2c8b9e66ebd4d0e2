"""Fields that chat completions and completions have in common, with their ranges."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from ridgeline.api.validation import shown

MAX_ANSWERS = 16
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16
MAX_STOP_CHARACTERS = 1024
MAX_BIASES = 1024
INT64 = 2**63

INTERACTIVE_TIERS = ("auto", "default", "priority", "fast", "scale")
BATCH_TIERS = ("flex", "batch")


def refused(sentence: str) -> PydanticCustomError:
    """A validation error whose text ends the sentence that begins with the field's name."""
    # Braces would be taken for a format of pydantic's.
    return PydanticCustomError("refused", "{sentence}", {"sentence": sentence})


class Schema(BaseModel):
    """A body, or an object in one: nothing is converted, nothing unknown passes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


def _stop_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _check_stop(stops: list[str] | None) -> list[str] | None:
    for stop in stops or ():
        if not stop:
            raise refused("must not have an empty string in it.")
        if len(stop) > MAX_STOP_CHARACTERS:
            raise refused(
                f"may have strings of at most {MAX_STOP_CHARACTERS} characters, but has one of {len(stop)}."
            )
    return stops


def _check_bias(value: object) -> object:
    """JSON has only strings for keys, so token ids come as such."""
    if not isinstance(value, dict):
        return value
    if len(value) > MAX_BIASES:
        raise refused(f"may have at most {MAX_BIASES} entries, but has {len(value)}.")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        if not (isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 10):
            raise refused(f"must have token ids as keys, but has {shown(key)}.")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            raise refused(f"must have values from -100 to 100, but has {shown(bias)} for token {key}.")
        biases[int(key)] = float(bias)
    return biases


StopStrings = Annotated[
    Annotated[list[str], Field(max_length=MAX_STOP_STRINGS)] | None,
    BeforeValidator(_stop_list),
    AfterValidator(_check_stop),
]
LogitBias = Annotated[dict[int, float] | None, BeforeValidator(_check_bias)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]


class StreamOptions(Schema):
    """How a stream is sent. `include_obfuscation` may only be false: nothing is padded here."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Generation(Schema):
    """Everything about drawing and ending an answer; null stands for the default throughout."""

    model: Annotated[str, Field(min_length=1, max_length=512)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    seed: Annotated[int, Field(ge=-INT64, lt=INT64)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: LogitBias = None
    stop: StopStrings = None
    stop_token_ids: Annotated[list[TokenId], Field(max_length=1024)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    ignore_eos: bool | None = None
    return_token_ids: bool | None = None
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    service_tier: Literal["auto", "default", "priority", "fast", "scale", "flex", "batch"] | None = None
    allow_smaller_model: bool | None = None
