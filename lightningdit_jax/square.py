"""What has one side only, and what is said where two are asked for."""

SIDES = ("model.input_size", "tokenizer.resolution", "extract.resolution")
REASON = "latents and images are square here, position tables, noise and crops have one side"


def one_side(key: str, value: object) -> str:
    """What is said of a value of one of SIDES that is no whole number, such as (16, 24)."""
    return f"config.{key} is {value}; expected one whole number: {REASON}"


def explained(error: str) -> str:
    """An error of reading flags or a config file, with the reason where it is of one of SIDES."""
    flags = (f"--config.{key}=" in error for key in SIDES)
    fields = (f"field '{key.partition('.')[2]}'" in error for key in SIDES)
    return f"{error}; {REASON}" if any((*flags, *fields)) else error
