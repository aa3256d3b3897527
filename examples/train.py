"""A training loop in small: fits a straight line by gradient descent, with the standard library only.

    python3 train.py [--epochs N] [--lr RATE] [--seed N]

Exits with 1 when the loss does not go down, which a large --lr shows.
"""

import argparse
import math
import random
import sys
import time


def main():
    """Train and print a line an epoch; the exit code."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--lr", type=float, default=0.1, help="learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    random.seed(options.seed)
    xs = [random.uniform(-1, 1) for _ in range(2000)]
    ys = [3 * x + 1 + random.gauss(0, 0.1) for x in xs]
    slope, offset, first = 0.0, 0.0, None
    print(f"training: epochs={options.epochs} lr={options.lr:g} seed={options.seed}", flush=True)
    for epoch in range(1, options.epochs + 1):
        began = time.monotonic()
        errors = [slope * x + offset - y for x, y in zip(xs, ys)]
        loss = sum(error * error for error in errors) / len(errors)
        first = loss if first is None else first
        slope -= options.lr * 2 * sum(error * x for error, x in zip(errors, xs)) / len(xs)
        offset -= options.lr * 2 * sum(errors) / len(errors)
        bar = "#" * (20 * epoch // options.epochs)
        took = (time.monotonic() - began) * 1000
        print(f"epoch {epoch:3}/{options.epochs} [{bar:20}] loss {loss:.4f}  {took:.1f} ms", flush=True)
        if not math.isfinite(loss) or loss > 10 * first:
            print("the loss grows: try a smaller --lr", flush=True)
            return 1
    print(f"done: y = {slope:.2f} x + {offset:.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
