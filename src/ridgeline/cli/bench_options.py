"""The options of `ridgeline bench`, in the order in which its help lists them."""

from pathlib import Path
from typing import Annotated

from ridgeline.cli.params import option

Model = Annotated[
    str | None, option("--model", "Model to ask; the server's first if not given.", metavar="NAME")
]

# What is asked.
Workload = Annotated[
    str | None,
    option(
        "--workload",
        "chat, summarise or write: lengths, turns and pauses as people have them.",
        metavar="NAME",
        show_default=False,
    ),
]
TraceFile = Annotated[
    Path | None,
    option("--trace", "Replay a trace: JSON lines as Mooncake's.", metavar="FILE", show_default=False),
]
TraceScale = Annotated[
    float, option("--trace-scale", "Multiply the trace's lengths.", metavar="RATIO", min=0.0001)
]
SpeedUp = Annotated[
    float,
    option(
        "--speed-up",
        "Divide a workload's pauses, or a trace's times; the report says what that distorts.",
        metavar="N",
        min=0.001,
    ),
]
Context = Annotated[
    int | None,
    option(
        "--context",
        "Tokens of the model's context, if the server does not say: what exceeds it is left out.",
        metavar="N",
        min=16,
        show_default=False,
    ),
]
Turns = Annotated[
    int | None,
    option(
        "--turns",
        "Questions in each conversation.",
        metavar="N",
        min=1,
        show_default="1, or the workload's",
    ),
]
SystemTokens = Annotated[
    int | None,
    option(
        "--system-tokens",
        "About this many tokens of system prompt, the same for all.",
        metavar="N",
        min=0,
        show_default="0, or the workload's",
    ),
]
InputTokens = Annotated[
    int | None,
    option(
        "--input-tokens",
        "About this many in each question.",
        metavar="N",
        min=1,
        show_default="128, or the workload's",
    ),
]
OutputTokens = Annotated[
    int | None,
    option(
        "--output-tokens",
        "At most this many in each answer.",
        metavar="N",
        min=1,
        show_default="64, or the workload's",
    ),
]
Think = Annotated[
    float | None,
    option(
        "--think",
        "Seconds from an answer to the next question.",
        metavar="SECONDS",
        min=0,
        show_default="0, or the workload's",
    ),
]
IgnoreEos = Annotated[
    bool | None,
    option(
        "--ignore-eos/--no-ignore-eos",
        "Make every answer as long as allowed (vLLM's parameter, and ours).",
        show_default="yes with --workload and --trace",
    ),
]
Prompts = Annotated[
    Path | None,
    option(
        "--prompts",
        "JSON lines with 'prompt' or 'messages', instead of made ones.",
        metavar="FILE",
        show_default=False,
    ),
]
Temperature = Annotated[float, option("--temperature", "0 is greedy.", metavar="T", min=0)]
Seed = Annotated[int, option("--seed", "Of questions and arrival times.", metavar="N")]

# How much at once.
Concurrency = Annotated[
    int | None,
    option(
        "--concurrency", "Closed loop: this many users at once (8 unless --rate).", metavar="USERS", min=1
    ),
]
Rate = Annotated[
    float | None,
    option(
        "--rate",
        "Open loop: conversations begun per second, at Poisson times.",
        metavar="PER_SECOND",
        min=0.001,
    ),
]
Conversations = Annotated[
    int | None,
    option(
        "--conversations", "How many are measured.", metavar="N", min=1, show_default="32; all of a trace"
    ),
]
Duration = Annotated[
    float | None,
    option("--duration", "Begin no conversation after this many seconds.", metavar="SECONDS", min=0.1),
]
Warmup = Annotated[int, option("--warmup", "Conversations run first and in no figure.", metavar="N", min=0)]
Ramped = Annotated[
    bool, option("--ramp", "Raise the rate or the users in steps until the server is saturated.")
]
RampFactor = Annotated[
    float, option("--ramp-factor", "From one step of the ramp to the next.", metavar="RATIO", min=1.01)
]
RampSeconds = Annotated[float, option("--ramp-seconds", "Length of each step.", metavar="SECONDS", min=1)]
RampSteps = Annotated[int, option("--ramp-steps", "At most this many.", metavar="N", min=1)]

# What is told.
TtftTarget = Annotated[
    float | None,
    option("--ttft-target", "Seconds; part of goodput.", metavar="SECONDS", min=0, show_default=False),
]
ItlTarget = Annotated[
    float | None,
    option(
        "--itl-target", "Seconds per token; part of goodput.", metavar="SECONDS", min=0, show_default=False
    ),
]
Html = Annotated[
    Path | None,
    option("--html", "Also write the report with plots to this file.", metavar="FILE", show_default=False),
]
Timeout = Annotated[
    float, option("--timeout", "Seconds until a request has failed.", metavar="SECONDS", min=1)
]
