"""The training loop of generator and tokenizer alike: step, log, checkpoint, resume exactly."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from lightningdit_jax.checkpoint import BestCheckpoint, TrainingCheckpoints
from lightningdit_jax.config import TrainConfig
from lightningdit_jax.parallel.ending import Preempted
from lightningdit_jax.parallel.multihost import from_main_process, gather_text
from lightningdit_jax.parallel.run_ahead import RunAhead
from lightningdit_jax.progress import Progress, duration
from lightningdit_jax.training.nonfinite import advice_for, cause_of
from lightningdit_jax.training.restore import restore_state
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.writer import EVALUATION, MetricWriter

Evaluator = Callable[[int, TrainState], Mapping[str, float]]


class DataIterator(Protocol):
    """What the loop needs of a Grain iterator; the state is a small JSON value."""

    def __next__(self) -> dict[str, np.ndarray]: ...
    def get_state(self) -> dict: ...
    def set_state(self, state: dict) -> None: ...


class NonFiniteError(FloatingPointError):
    """A loss or gradient was NaN or infinite and the policy says stop."""


class Loop:
    """Runs `step_fn` up to train.num_steps, from the newest checkpoint if there is one.

    step_fn(state, batch) -> (state, metrics): compiled; metrics are scalars with `finite` and
    `grad_norm`. to_device: host batch of this process -> global arrays. abstract_state: shapes and
    shardings of the state, for restoring. meta: what checkpoints say of themselves.
    find_unfit: names the records, of this process's rows of the batch that comes next at a state of
    the iterator, that no step stays finite with; asked on all processes when one was not.
    say: prints a line, on the main process only. evaluator(step, state) -> numbers, called on all
    processes every train.evaluate_every_steps and at the end; best: where the weights with the
    lowest train.best_metric go. preempted(step): whether to save and end after this step.

    Data position and the metrics of the unfinished logging window are part of a checkpoint, so a
    killed and restarted run writes the same records and ends with the same bits.
    """

    def __init__(
        self,
        *,
        step_fn: Callable[[TrainState, Any], tuple[TrainState, dict]],
        init_state: Callable[[], TrainState],
        abstract_state: TrainState,
        iterator: DataIterator,
        find_unfit: Callable[[dict], Sequence[str]],
        to_device: Callable[[dict], Any],
        config: TrainConfig,
        checkpoints: TrainingCheckpoints,
        workdir: str,
        meta: dict,
        is_main: bool,
        say: Callable[[str], None],
        evaluator: Evaluator | None = None,
        best: BestCheckpoint | None = None,
        preempted: Callable[[int], bool] = lambda step: False,
    ):
        self._step_fn, self._init_state, self._abstract = step_fn, init_state, abstract_state
        self._iterator: Iterator = iterator
        self._find_unfit = find_unfit
        self._to_device, self._config, self._checkpoints = to_device, config, checkpoints
        self._workdir, self._meta, self._is_main, self._say = workdir, meta, is_main, say
        self._evaluator, self._best, self._preempted = evaluator, best, preempted
        self._window: list[dict[str, float]] = []
        self._nonfinite = 0

    def run(self) -> TrainState:
        """Trains to the end and returns the last state, which is checkpointed.

        Raises NonFiniteError, naming the step, under the policy `stop` or after max_nonfinite, and
        Preempted once the state is saved.
        """
        began = time.perf_counter()
        state, step = self._start()
        writer = MetricWriter(self._workdir, start_step=step) if self._is_main else None
        try:
            state = self._run(state, step, writer)
            self._checkpoints.wait()
        finally:
            if writer:
                writer.close()
        total = duration(time.perf_counter() - began)
        self._say(f"trained {self._config.num_steps:,} steps in {total}")
        return state

    def _run(self, state: TrainState, step: int, writer: MetricWriter | None) -> TrainState:
        config = self._config
        progress = Progress(
            "step", config.num_steps, done=step, images=config.batch_size, decimals=0
        )
        ahead = RunAhead()  # so a bad loss is noticed some steps late
        first, began = True, time.perf_counter()
        # A run that was ended between a checkpoint and its evaluation makes up for it.
        if self._evaluates(step) and not from_main_process(
            writer is not None and writer.evaluated(step)
        ):
            self._evaluate(step, state, writer, progress)
        while step < config.num_steps:
            position = self._iterator.get_state()
            state, metrics = self._step_fn(state, self._to_device(next(self._iterator)))
            step += 1
            ahead.add((step, position, metrics))
            ends = self._preempted(step)
            logs = step % config.log_every_steps == 0 or step == config.num_steps
            saves = step % config.checkpoint_every_steps == 0 or step == config.num_steps or ends
            evaluates = self._evaluates(step)
            if first:
                jax.block_until_ready(metrics)
                self._say(f"first step, with compilation: {time.perf_counter() - began:.1f}s")
                if not logs:
                    progress.mark(step)  # compilation does not count as training
                first = False
            bad_step = self._drain(ahead, everything=logs or saves or evaluates)
            if bad_step is not None:
                ahead = RunAhead()
                state, step = self._rollback(bad_step)
                if writer:
                    writer.rewind(step)
                progress.mark(step)
                if ends:
                    raise Preempted(step)
                continue
            if logs:
                self._log(step, writer, progress)
            if saves:
                self._save(step, state)
            if ends:
                self._checkpoints.wait()
                self._say(f"saved step {step:,} and ending, as SIGTERM asks; restart to go on")
                raise Preempted(step)
            if evaluates:
                self._evaluate(step, state, writer, progress)
        return state

    def _start(self) -> tuple[TrainState, int]:
        if self._checkpoints.latest_step() is not None:
            state, step, loop = restore_state(self._checkpoints, self._abstract, self._say)
            self._iterator.set_state(loop["data"])
            self._window, self._nonfinite = loop["window"], loop["nonfinite"]
            self._say(f"resumed from step {step:,} in {self._checkpoints.directory}")
            return state, step
        state = self._init_state()
        if self._config.nonfinite == "rollback":
            self._save(0, state)
        return state, 0

    def _save(self, step: int, state: TrainState) -> None:
        loop = {
            "data": self._iterator.get_state(),
            "window": self._window,
            "nonfinite": self._nonfinite,
        }
        self._checkpoints.save(
            step, state.items(), {"meta": {**self._meta, "step": step}, "loop": loop}
        )

    def _drain(self, ahead: RunAhead, *, everything: bool) -> int | None:
        """Reads metrics of finished steps; returns a non-finite one that asks for a rollback."""
        for step, position, metrics in ahead.due(everything=everything):
            values = {name: value.item() for name, value in jax.device_get(metrics).items()}
            if values.pop("finite"):
                self._window.append(values)
                continue
            self._nonfinite += 1
            policy, most = self._config.nonfinite, self._config.max_nonfinite
            jax.block_until_ready(list(ahead))  # processes meet while nothing else runs
            unfit = self._unfit_records(position)
            what = (
                f"step {step:,}: loss {values['loss']}, gradient norm {values['grad_norm']}: "
                f"not finite, {cause_of(unfit)}"
            )
            if policy == "stop" or self._nonfinite > most:
                self._checkpoints.wait()
                count = "" if policy == "stop" else f" config.train.max_nonfinite is {most}."
                kept = self._checkpoints.latest_step()
                kept = "No checkpoint" if kept is None else f"The checkpoint of step {kept:,}"
                raise NonFiniteError(
                    f"{what}.{count} {kept} is kept. Restarting repeats this step; "
                    f"{advice_for(unfit, policy)}"
                )
            self._say(f"{what}. {policy}; {advice_for(unfit, policy)}")
            if policy == "rollback":
                return step
        return None

    def _unfit_records(self, position: dict) -> list[str]:
        """Those of all processes, in the order of the batch."""
        texts = gather_text("\n".join(self._find_unfit(position)))
        return [line for text in texts for line in text.splitlines()]

    def _rollback(self, bad_step: int) -> tuple[TrainState, int]:
        """The last checkpoint's weights with the data after the bad batch."""
        state, step, loop = restore_state(self._checkpoints, self._abstract, self._say)
        self._window = loop["window"]
        self._say(f"rolled back from step {bad_step:,} to {step:,}; the data goes on")
        return state, step

    def _evaluates(self, step: int) -> bool:
        every = self._config.evaluate_every_steps
        if self._evaluator is None or every == 0 or step == 0:
            return False
        return step % every == 0 or step == self._config.num_steps

    def _evaluate(
        self, step: int, state: TrainState, writer: MetricWriter | None, progress: Progress
    ) -> None:
        """Evaluates, keeps the weights if they are the best, then writes the record.

        The record comes last: what has one needs no evaluation after a restart.
        """
        began = time.perf_counter()
        numbers = self._evaluator(step, state)
        if self._best:
            self._keep_if_best(step, state, numbers)
        if writer:
            writer.write(step, {f"{EVALUATION}{name}": value for name, value in numbers.items()})
        terms = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        self._say(f"step {step:,}: {terms}  ({duration(time.perf_counter() - began)})")
        progress.mark(step)  # evaluation does not count as training

    def _keep_if_best(self, step: int, state: TrainState, numbers: Mapping[str, float]) -> None:
        metric = self._best.metric
        if metric not in numbers:
            raise ValueError(
                f"config.train.best_metric is '{metric}', but the evaluation gives "
                f"{', '.join(sorted(numbers))}"
            )
        weights = {"params": state.params, **state.averages}
        value = float(from_main_process(numbers[metric]))
        if self._best.offer(step, value, weights, self._meta):
            self._say(f"step {step:,}: the best {metric} so far")

    def _log(self, step: int, writer: MetricWriter | None, progress: Progress) -> None:
        names = self._window[0] if self._window else ()
        scalars = {n: float(np.mean([record[n] for record in self._window])) for n in names}
        if self._nonfinite:
            scalars["nonfinite_steps"] = self._nonfinite
        terms = "  ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        rate = progress.rate(step)
        progress.mark(step)
        self._window = []
        if writer:
            writer.write(step, {**scalars, "images_per_second": rate})
            self._say(progress.line(step, rate, terms))
