"""Lists on command lines: words and numbers with commas between them."""


def names(text: str) -> list[str]:
    """The words."""
    return text.split(",")


def numbers(text: str) -> list[int]:
    """The numbers. Raises ValueError for what is none."""
    return [int(number) for number in text.split(",")]
