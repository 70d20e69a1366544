"""The training loop of generator and tokenizer alike: step, log, checkpoint, resume exactly."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lightningdit_jax.config import HELD_OUT
from lightningdit_jax.errors import counted
from lightningdit_jax.host_memory import release_freed_memory
from lightningdit_jax.interruption import INTERRUPTION
from lightningdit_jax.parallel.ending import Preempted
from lightningdit_jax.parallel.multihost import from_main_process, gather_text, is_main_process
from lightningdit_jax.parallel.run_ahead import RunAhead
from lightningdit_jax.progress import Progress, duration
from lightningdit_jax.storage_errors import StorageError
from lightningdit_jax.training.best_checkpoint import BestCheckpoint
from lightningdit_jax.training.held_out import is_of_bin
from lightningdit_jax.training.nonfinite import NonFiniteSteps
from lightningdit_jax.training.pictures import PICTURE, picture_path
from lightningdit_jax.training.profile import ProfileWindow
from lightningdit_jax.training.restore import restore_state
from lightningdit_jax.training.run_record import Run
from lightningdit_jax.training.spike_steps import SpikeSteps
from lightningdit_jax.training.state import TrainState
from lightningdit_jax.training.writer import EVALUATION, MetricWriter

UNSAID = ("weight_norm", "update_norm")  # in records alone: lines are long enough
# Step, position of its batch in the data, metrics.
Dispatched = tuple[int, dict, dict[str, jax.Array]]


class Loop:
    """Takes the steps of a run up to train.num_steps, from the newest checkpoint if there is one.

    Data position and the metrics of the unfinished logging window are part of a checkpoint, so a
    killed and restarted run writes the same records and ends with the same bits.
    """

    def __init__(self, run: Run):
        self._run, self._config, self._say = run, run.config, run.say
        self._window: list[dict[str, float]] = []
        self._nonfinite = NonFiniteSteps(run.config, run.checkpoints, run.say)
        self._spikes = SpikeSteps(run.config, run.checkpoints, run.say)
        self._evaluators = {HELD_OUT: run.held_out, EVALUATION: run.evaluator}

    def run(self) -> TrainState:
        """Trains to the end and returns the last state, which is checkpointed.

        Raises NonFiniteError, naming the step, under the policy `stop` or after max_nonfinite,
        SpikesError after max_spikes, and Preempted once the state is saved.
        """
        began, num_steps = time.perf_counter(), self._config.num_steps
        state, step = self._start()
        writer = self._writer(step) if is_main_process() else None
        profile = ProfileWindow(self._config.profile_steps, self._run.workdir, self._say)
        try:
            state = self._train(state, step, writer, profile)
            self._run.checkpoints.wait()
        finally:
            profile.stop()
            if writer:
                writer.close()
        if step >= num_steps:
            self._say(
                f"this run was finished already, at step {step:,} of {num_steps:,}; "
                "a larger --config.train.num_steps goes on with it"
            )
            return state
        total = duration(time.perf_counter() - began)
        self._say(f"trained {counted(num_steps, 'step')} in {total}")
        return state

    def _writer(self, step: int) -> MetricWriter:
        run = self._run
        given = run.meta.get("config", {})
        return MetricWriter(run.workdir, start_step=step, writers=run.config.writers, config=given)

    def _train(
        self, state: TrainState, step: int, writer: MetricWriter | None, profile: ProfileWindow
    ) -> TrainState:
        config, feed = self._config, self._run.feed
        progress = Progress(
            "step", config.num_steps, done=step, images=config.batch_size, decimals=0
        )
        ahead: RunAhead[Dispatched] = RunAhead()  # so a bad loss is noticed some steps late
        first, silent, began = True, True, time.perf_counter()
        # A run that was ended between a checkpoint and its evaluation makes up for it.
        for prefix in self._evaluates(step):
            if not from_main_process(writer is not None and writer.has(step, prefix)):
                self._evaluate(prefix, step, state, writer, progress)
        if self._pictures(step):
            path = picture_path(self._run.workdir, step)
            if not from_main_process(writer is not None and path.exists()):
                self._draw(step, state, writer, progress)
        if step < config.num_steps:
            self._say("compiling the train step, a minute or two where the model is large")
        # The order below is what makes a restart exact. Where it says why, it may not change.
        while step < config.num_steps:
            profile.before(step + 1, list(ahead))
            # Before next(): this position names the batch, should its step not be finite.
            position = feed.iterator.get_state()
            with progress.waiting(), self._saving(step, state, ahead):
                batch = next(feed.iterator)
            batch = feed.to_device(batch)
            # All that a step needs lies on the devices now. What it would fetch or send behind our
            # back, every time anew, is refused.
            with jax.transfer_guard("disallow"):
                state, metrics = self._run.step_fn(state, batch)
            step += 1
            ahead.add((step, position, metrics))
            # Asked after every step, before any way out of this turn: all processes ask alike.
            ends = self._run.preempted(step)
            logs = step % config.log_every_steps == 0 or step == config.num_steps
            saves = step % config.checkpoint_every_steps == 0 or step == config.num_steps or ends
            evaluates, pictured = self._evaluates(step), self._pictures(step)
            snaps = self._is_due(config.snapshot_every_steps, step)
            if first:
                jax.block_until_ready(metrics)
                self._say(f"first step, with compilation: {time.perf_counter() - began:.1f}s")
                if not logs:
                    progress.mark(step)  # compilation does not count as training
                first = False
            profile.after(step, metrics)
            # Before logging, saving and evaluating: what they tell of is known to be finite, and
            # all of it is in the window. The data then stands right behind the last step.
            everything = bool(logs or saves or snaps or evaluates or pictured)
            bad_step = self._drain(ahead, everything=everything)
            if bad_step is not None:
                ahead = RunAhead()
                state, step = self._rollback(bad_step)
                if writer:
                    writer.rewind(step)
                progress.mark(step)
                if ends:
                    raise Preempted(step)
                continue
            # Before saving: a checkpoint holds what the records up to its step do not.
            if logs:
                self._log(step, writer, progress)
                self._run.checkpoints.check()
                silent = False
            elif silent and progress.is_due():  # nothing was said yet, and the first log is far
                self._say(self._line(step - len(ahead), progress, self._means()))
            if snaps:
                assert self._run.snapshots is not None  # or it is not due
                self._run.snapshots.save(step, state.averages, self._meta(state))
            if saves:
                self._save(step, state)
            # Before evaluating, which takes longer than is left; the restart makes up for it.
            if ends:
                self._run.checkpoints.wait()
                asked = INTERRUPTION.asked.name if INTERRUPTION.asked else "SIGTERM"
                self._say(f"saved step {step:,} and ending, as {asked} asks; restart to go on")
                raise Preempted(step)
            # After saving: no step is lost with an evaluation that fails.
            with self._saving(step, state, ahead):
                for prefix in evaluates:
                    self._evaluate(prefix, step, state, writer, progress)
                if pictured:
                    self._draw(step, state, writer, progress)
        return state

    @contextlib.contextmanager
    def _saving(self, step: int, state: TrainState, ahead: RunAhead[Dispatched]) -> Iterator[None]:
        """Saves the last step, as SIGTERM would, before an error within ends the run.

        What cannot be read (a damaged image, dead workers, a disk) takes no step with it. Of
        several processes one alone may meet it, and the others would not save with it.
        """
        try:
            yield
        except StorageError:  # where it writes, no more can be written
            raise
        except Exception:
            saved = self._run.checkpoints.latest_step() or 0
            alone = jax.process_count() == 1
            if alone and step > saved and self._drain(ahead, everything=True) is None:
                self._save(step, state)
                self._run.checkpoints.wait()
                self._say(f"saved step {step:,}, the last before an error")
            raise

    def _start(self) -> tuple[TrainState, int]:
        if self._run.checkpoints.latest_step() is not None:
            state, step, loop = self._restored()
            self._run.feed.iterator.set_state(loop["data"])
            self._nonfinite.count = loop["nonfinite"]
            if self._config.spikes != "off":
                self._spikes.count = loop.get("spikes", 0)  # none where it was off till here
            self._say(f"resumed from step {step:,} in {self._run.checkpoints.directory}")
            return state, step
        if self._run.snapshots is not None:
            self._run.snapshots.forget_after(0)
        state = self._run.init_state()
        if "rollback" in (self._config.nonfinite, self._config.spikes):
            self._save(0, state)
        return state, 0

    def _restored(self) -> tuple[TrainState, int, dict]:
        state, step, loop = restore_state(
            self._run.checkpoints, self._run.abstract_state, self._say
        )
        if self._run.snapshots is not None:
            self._run.snapshots.forget_after(step)
        self._window = loop["window"]
        return state, step, loop

    def _save(self, step: int, state: TrainState) -> None:
        loop = {
            "data": self._run.feed.iterator.get_state(),
            "window": self._window,
            "nonfinite": self._nonfinite.count,
        }
        if self._config.spikes != "off":
            loop["spikes"] = self._spikes.count
        if self._run.snapshots is not None:
            self._run.snapshots.wait()  # or a run that goes on from here would lack some
        meta = {**self._meta(state), "step": step}
        self._run.checkpoints.save(step, state.items(), {"meta": meta, "loop": loop})
        release_freed_memory()  # of the checkpoint before, or of compiling

    def _meta(self, state: TrainState) -> dict[str, Any]:
        return {**self._run.meta, **self._run.described(state)}

    def _drain(self, ahead: RunAhead[Dispatched], *, everything: bool) -> int | None:
        """Reads metrics of finished steps; returns one that asks for a rollback."""
        for step, position, metrics in ahead.due(everything=everything):
            values = {name: value.item() for name, value in jax.device_get(metrics).items()}
            if values.pop("finite"):
                goes_back = self._spikes.meet(step, values)
                if goes_back is None:
                    self._window.append(values)
                elif goes_back:
                    jax.block_until_ready(list(ahead))
                    return step
                continue
            jax.block_until_ready(list(ahead))  # processes meet while nothing else runs
            if self._nonfinite.meet(step, values, self._unfit_records(position)):
                return step
        return None

    def _unfit_records(self, position: dict) -> list[str]:
        """Those of all processes, in the order of the batch."""
        texts = gather_text("\n".join(self._run.feed.find_unfit(position)))
        return [line for text in texts for line in text.splitlines()]

    def _rollback(self, bad_step: int) -> tuple[TrainState, int]:
        """The last checkpoint's weights with the data after the bad batch."""
        state, step, _ = self._restored()
        self._say(f"rolled back from step {bad_step:,} to {step:,}; the data goes on")
        return state, step

    def _evaluates(self, step: int) -> list[str]:
        """Which evaluations are due at a step, by what the names in their records begin with."""
        config = self._config
        every = {HELD_OUT: config.validate_every_steps, EVALUATION: config.evaluate_every_steps}
        return [
            prefix
            for prefix, steps in every.items()
            if self._evaluators[prefix] is not None and self._is_due(steps, step)
        ]

    def _evaluate(
        self,
        prefix: str,
        step: int,
        state: TrainState,
        writer: MetricWriter | None,
        progress: Progress,
    ) -> None:
        """Evaluates, says the numbers, keeps the weights if they are the best, writes the record.

        The record comes last: what has one needs no evaluation after a restart.
        """
        began = time.perf_counter()
        evaluator, best = self._evaluators[prefix], self._run.best
        assert evaluator is not None  # or it is not due
        numbers = evaluator(step, state)
        shown = {name: value for name, value in numbers.items() if not is_of_bin(name)}
        terms = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
        what = "held out  " if prefix == HELD_OUT else ""
        self._say(f"step {step:,}: {what}{terms}  ({duration(time.perf_counter() - began)})")
        if best is not None and best.metric.startswith(HELD_OUT) == (prefix == HELD_OUT):
            self._keep_if_best(best, step, state, numbers)
        if writer:
            writer.write(step, {f"{prefix}{name}": value for name, value in numbers.items()})
        progress.mark(step)  # evaluation does not count as training

    def _pictures(self, step: int) -> bool:
        """Whether a picture is due at a step."""
        return self._is_due(self._config.picture_every_steps, step)

    def _is_due(self, every: int, step: int) -> bool:
        """Whether what comes every so many steps (0: never) and at the end is due at a step."""
        return bool(every and step) and (step % every == 0 or step == self._config.num_steps)

    def _draw(
        self, step: int, state: TrainState, writer: MetricWriter | None, progress: Progress
    ) -> None:
        began, path = time.perf_counter(), picture_path(self._run.workdir, step)
        assert self._run.picture is not None  # or it is not due
        image = self._run.picture(path, state)
        self._say(f"step {step:,}: {path}  ({duration(time.perf_counter() - began)})")
        if writer:
            writer.picture(step, PICTURE, image)
        progress.mark(step)  # nor do pictures

    def _keep_if_best(
        self, best: BestCheckpoint, step: int, state: TrainState, numbers: Mapping[str, float]
    ) -> None:
        name = best.metric.removeprefix(HELD_OUT)
        if name not in numbers:
            raise ValueError(
                f"config.train.best_metric is '{best.metric}', but the evaluation gives "
                f"{', '.join(sorted(numbers))}"
            )
        weights = {"params": state.params, **state.averages}
        weights |= {kept: state.companions[kept] for kept in self._run.kept}
        value = float(from_main_process(numbers[name]))
        if best.offer(step, value, weights, self._meta(state)):
            self._say(f"step {step:,}: the best {best.metric} so far")

    def _log(self, step: int, writer: MetricWriter | None, progress: Progress) -> None:
        scalars = self._means()
        if self._nonfinite.count:
            scalars["nonfinite_steps"] = self._nonfinite.count
        if self._spikes.count:
            scalars["spikes"] = self._spikes.count
        timed, line = self._timed(step, progress), self._line(step, progress, scalars)
        progress.mark(step)
        self._window = []
        if writer:
            self._say(line)  # before writing, which may fail
            writer.write(step, {**scalars, **timed})

    def _means(self) -> dict[str, float]:
        """Those of the steps since the last record whose metrics are read."""
        names = self._window[0] if self._window else ()
        return {n: float(np.mean([record[n] for record in self._window])) for n in names}

    def _timed(self, step: int, progress: Progress) -> dict[str, float]:
        """What a clock says of the steps since the last mark, by the names of TIMED."""
        rate = progress.rate(step)
        timed = {"images_per_second": rate, "data_wait": progress.waited_share()}
        return timed | ({"mfu": rate / self._run.peak_rate} if self._run.peak_rate else {})

    def _line(self, step: int, progress: Progress, scalars: Mapping[str, float]) -> str:
        timed = self._timed(step, progress)
        names = sorted(scalars.keys() - set(UNSAID), key=lambda name: (name != "loss", name))
        terms = "  ".join(f"{name} {scalars[name]:.4g}" for name in names)
        shares = f"MFU {timed['mfu']:.1%}  " if "mfu" in timed else ""
        shares += f"data wait {timed['data_wait']:.0%}"
        return progress.line(step, timed["images_per_second"], terms, shares=shares)
