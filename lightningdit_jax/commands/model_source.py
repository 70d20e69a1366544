"""Which checkpoint a mode takes its model from, and what is said where it holds none such."""

from typing import TYPE_CHECKING

from etils import epath

if TYPE_CHECKING:
    from lightningdit_jax.assembly.registry import Role
    from lightningdit_jax.config import Config


def model_source(mode: str, config: "Config", workdir: str) -> tuple[str, str]:
    """A checkpoint's path, and the key that names another one; empty where the model is config's.

    mode: as MODES has it.
    """
    evaluates, tokenizer = mode == "evaluate", config.kind == "vavae"
    draws = evaluates and not tokenizer and config.evaluate.seeds
    if mode in ("sample", "sweep", "page") or draws:
        return config.sample.checkpoint or workdir, "sample.checkpoint"
    if mode == "extract" or (evaluates and tokenizer):
        return config.extract.checkpoint or workdir, "extract.checkpoint"
    return "", ""


def check_model(path: str, key: str, mode: str, config: "Config", given: str) -> None:
    """Raises FileNotFoundError or ValueError unless the checkpoint is there and of the mode's kind.

    path, key: of model_source. given: --config, as it was written: a run may be meant, which it is.
    """
    from lightningdit_jax.assembly.loading import WrongKindError, check_kind
    from lightningdit_jax.assembly.registry import Role

    role = Role.GENERATOR if key == "sample.checkpoint" else Role.TOKENIZER
    try:
        check_kind(path, role)
    except (FileNotFoundError, WrongKindError) as error:
        advice = "" if config.value(key) else _advice(path, key, role, mode, config, given)
        raise type(error)(f"{error}{advice}") from error


def _advice(path: str, key: str, role: "Role", mode: str, config: "Config", given: str) -> str:
    """What to do where a workdir holds no model for the mode."""
    from lightningdit_jax.assembly.registry import Role
    from lightningdit_jax.assembly.workdir import CONFIG_FILE

    theirs = Role.TOKENIZER if config.kind == "vavae" else Role.GENERATOR
    if theirs is not role:
        beside = f", and this one as --config.sample.tokenizer={given}"
        return (
            f"; --config={given} is of a {theirs.value}, and --mode={mode} takes a {role.value}: "
            f"give the run of one as --config{beside if role is Role.GENERATOR else ''}"
        )
    if given != path and (epath.Path(given) / CONFIG_FILE).exists():
        return (
            f"; --config={given} gives the settings of that run alone: add --config.{key}={given} "
            "to take its weights"
        )
    return ""
