"""Targets for worker processes."""

from __future__ import annotations

import os
import signal
import time

from skillmeta.errors import UserError
from skillmeta.run.jobs import Job
from skillmeta.run.run import Run


def work(job: Job) -> None:
    """Does what the payload says: fine, fail, user, die_once, die, hold (the first attempt waits to be stopped)."""
    with Run.open(job.folder, {"name": job.name}) as run:
        state = run.restore()
        step = state["step"] if state else 0
        if job.payload == "fail":
            raise RuntimeError("the world is flat")
        if job.payload == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if job.payload == "user":
            raise UserError("fix this")
        while step < 20:
            if run.stop_requested:
                run.checkpoint(step, {"step": step})
                return
            step += 1
            run.log("step", step=step)
            run.report_progress(step / 20, f"step {step}")
            if step == 10:
                run.checkpoint(step, {"step": step})
                if job.payload == "die_once" and state is None:
                    os.kill(os.getpid(), signal.SIGKILL)
                while job.payload == "hold" and state is None and not run.stop_requested:
                    time.sleep(0.02)
        run.finish({"steps": step})
