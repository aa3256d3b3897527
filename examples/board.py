"""Writes a curve for TensorBoard, a point every second: the error of gradient descent on a small problem.

    python3 board.py --steps 600 --folder runs/first

Needs tensorboard and nothing else of its kind: the events are written with its own classes.
"""

from __future__ import annotations

import argparse
import time

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter


def main() -> None:
    """Write, until all steps are done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600, help="how many points (default: 600)")
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between them (default: 1)")
    parser.add_argument("--folder", default="runs/first", help="where the events go (default: runs/first)")
    args = parser.parse_args()
    writer = EventFileWriter(args.folder, flush_secs=1)
    x, y = 1.0, -1.0
    for step in range(args.steps):
        error = 3 * x * x + y * y
        value = Summary.Value(tag="error", simple_value=error)
        writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=[value])))
        writer.flush()
        x, y = x - 0.05 * 6 * x, y - 0.05 * 2 * y
        print(f"step {step}  error {error:.6f}", flush=True)
        time.sleep(args.pause)
    writer.close()


if __name__ == "__main__":
    main()
