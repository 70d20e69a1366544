"""What has one side only, and what is said where two are asked for."""

SIDES = ("model.input_size", "tokenizer.resolution", "extract.resolution")
REASON = "latents and images are square here, position tables, noise and crops have one side"


def one_side(key: str, value: object) -> str:
    """What is said of a value of one of SIDES that is no whole number, such as (16, 24)."""
    return f"config.{key} is {value}; expected one whole number: {REASON}"
