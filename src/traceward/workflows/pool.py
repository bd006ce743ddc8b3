"""Worker processes for the stages of runs: each starts as soon as those it waits for are done.

The workers do all the work; this process only orders the stages and shows how far they are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Protocol

from traceward.environment import quieten
from traceward.errors import RunError
from traceward.training.run_directory import RunDirectory
from traceward.workflows.stages import do_stage, gpu_present, run_stage


@dataclass(frozen=True, slots=True)
class Job:
    """A stage in its run directory, and the names of the jobs that it waits for. `about` tells it from its like."""

    directory: Path
    stage: str
    waits: tuple[str, ...] = ()
    about: str = ""

    @property
    def done(self) -> bool:
        """Whether its part is there."""
        return RunDirectory(self.directory).part(part_name(self.stage)) is not None


class Progress(Protocol):
    """Is told what happens to jobs."""

    def start(self, name: str, job: Job) -> None:
        """A job has begun."""

    def update(self) -> None:
        """Time has passed."""

    def finish(self, name: str) -> None:
        """A job is done."""


def part_name(stage: str) -> str:
    """The part that a stage leaves when it is done."""
    return stage.replace(":", "-")


def work(
    jobs: Mapping[str, Job],
    progress: Progress,
    *,
    workers: int = 0,
    before: Callable[[Job], None] | None = None,
    after: Callable[[str], None] | None = None,
    failed: Callable[[str, Exception], None] | None = None,
) -> None:
    """Run every job that is not done. `before` is called just before a job starts, `after` when it is done.

    workers: 0 = one per core, two at most, and one where there is a GPU.   failed: hears of a job that raised, and the
    others go on, but for those that wait for it; left out, the error ends all. A worker that is killed always does.
    """
    done = {name for name, job in jobs.items() if job.done}
    waiting = [name for name in jobs if name not in done]
    if not waiting:
        return
    most = min(workers or min(2, os.cpu_count() or 1), len(waiting))
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // most))
    os.environ["OMP_NUM_THREADS"] = str(threads)  # inherited: OpenMP reads it when a worker starts
    running: dict[Future[None], str] = {}
    # No fork: the libraries below hold threads.
    with ProcessPoolExecutor(most, mp_context=get_context("spawn"), initializer=quieten) as pool:
        try:
            if not workers and pool.submit(gpu_present).result():
                most = 1  # a GPU is not shared
            while True:
                for name in [n for n in waiting if done.issuperset(jobs[n].waits)][: most - len(running)]:
                    waiting.remove(name)
                    job = jobs[name]
                    if before is not None:
                        before(job)
                    running[pool.submit(run_stage, str(job.directory), job.stage, threads, os.getpid())] = name
                    progress.start(name, job)
                if not running:  # what still waits, waits for a job that failed
                    return
                for future in wait(running, timeout=0.5, return_when=FIRST_COMPLETED).done:
                    _settle(future, running[future], done, failed)
                    name = running.pop(future)
                    progress.finish(name)
                    if after is not None and name in done:
                        after(name)
                progress.update()
        except BrokenProcessPool as error:
            names = ", ".join(sorted(running.values()))
            raise RunError(
                f"worker process must live: got one killed during {names}, often for memory; run the same command again"
                " to go on, with run.workers=1 if memory is short"
            ) from error
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def work_together(
    jobs: Mapping[str, Job], progress: Progress, *, failed: Callable[[str, Exception], None] | None = None
) -> None:
    """Run every job that is not done, one after another, in this process and those launched beside it: each job is the
    work of all. None may wait for a later one. `failed` as for `work`; it must do the same in every process."""
    done = {name for name, job in jobs.items() if job.done}
    for name, job in jobs.items():
        if name in done or not done.issuperset(job.waits):
            continue
        progress.start(name, job)
        try:
            do_stage(RunDirectory(job.directory), job.stage)
        except Exception as error:
            if failed is None:
                raise
            failed(name, error)
        else:
            done.add(name)
        progress.finish(name)


def in_worker(function: Callable[..., None], *arguments: object) -> None:
    """Call a function in a process of its own: what needs torch stays out of this one."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=quieten) as pool:
        pool.submit(function, *arguments).result()


def _settle(future: Future[None], name: str, done: set[str], failed: Callable[[str, Exception], None] | None) -> None:
    """Take a finished job's outcome; an error is told or raised."""
    try:
        future.result()
    except BrokenProcessPool:
        raise
    except Exception as error:
        if failed is None:
            raise
        failed(name, error)
    else:
        done.add(name)
