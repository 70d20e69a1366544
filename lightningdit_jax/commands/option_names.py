"""Messages of the library in the words of a script, which has options and no config."""

import re


def in_options(error: Exception, **arguments: str) -> str:
    """The message with `config.data.corrupt` as `--corrupt`, and so every key.

    arguments: what the script calls a key that it takes without an option, path="FOLDER".
    """

    def renamed(key: re.Match) -> str:
        return arguments.get(key[1], "--" + key[1].replace("_", "-"))

    return re.sub(r"(?:--)?config\.\w+\.(\w+)", renamed, str(error))
