"""The same work in the pools of Python's library, and loops under its progress bars.

    python3 peers.py NAME SIZE

Says `ready`; then each line on stdin is a round, answered by its seconds (see programs.lua).
"""
import concurrent.futures
import multiprocessing
import statistics
import sys
import time

clock = time.perf_counter


def add(pair):
    return pair[0] + pair[1]


def imap(size):
    """20,000 tiny tasks, one message each."""
    pool = multiprocessing.Pool(2)

    def measure():
        start = clock()
        total = sum(pool.imap_unordered(add, [(i, 1) for i in range(size)], chunksize=1))
        assert total == size * (size + 1) // 2
        return clock() - start
    return measure


def futures(size):
    """The same by submit."""
    pool = concurrent.futures.ProcessPoolExecutor(2)

    def measure():
        start = clock()
        total = sum(f.result() for f in [pool.submit(add, (i, 1)) for i in range(size)])
        assert total == size * (size + 1) // 2
        return clock() - start
    return measure


def increment(x):
    return x + 1


def pool_map(size):
    """A map over small integers, with the chunks that the pool chooses."""
    pool = multiprocessing.Pool(2)
    items = list(range(size))

    def measure():
        start = clock()
        results = pool.map(increment, items)
        seconds = clock() - start
        assert len(results) == size and results[-1] == size
        return seconds
    return measure


def futures_map(size, chunk):
    """The same; here the user chooses."""
    pool = concurrent.futures.ProcessPoolExecutor(2)
    items = list(range(size))

    def measure():
        start = clock()
        results = list(pool.map(increment, items, chunksize=chunk))
        seconds = clock() - start
        assert len(results) == size and results[-1] == size
        return seconds
    return measure


def answer():
    return 42


def roundtrips(size, call):
    """The median time of a call."""
    def measure():
        times = []
        for _ in range(size):
            start = clock()
            assert call() == 42
            times.append(clock() - start)
        return statistics.median(times)
    return measure


def pool_latency(size):
    """One task to a pool that waits, and back."""
    pool = multiprocessing.Pool(2)
    return roundtrips(size, lambda: pool.apply(answer))


def futures_latency(size):
    pool = concurrent.futures.ProcessPoolExecutor(2)
    return roundtrips(size, lambda: pool.submit(answer).result())


def floats(size):
    return [i * 0.1 for i in range(1, size + 1)]


def text(size):
    return b"0123456789abcdef" * (size // 16)


def pool_result(size, make):
    """A large result."""
    pool = multiprocessing.Pool(2)

    def measure():
        start = clock()
        result = pool.apply(make, (size,))
        seconds = clock() - start
        assert len(result) == size
        return seconds
    return measure


def pool_floats(size):
    return pool_result(size, floats)


def pool_text_result(size):
    return pool_result(size, text)


def pool_text_argument(size):
    """A large argument, made and sent."""
    pool = multiprocessing.Pool(2)

    def measure():
        start = clock()
        assert pool.apply(len, (text(size),)) == size
        return clock() - start
    return measure


def serve(measure):
    print("ready", flush=True)
    for _ in sys.stdin:
        print(measure(), flush=True)


if __name__ == "__main__":
    try:
        made = globals()[sys.argv[1]](*map(int, sys.argv[2:]))
    except ImportError as problem:
        sys.exit(print(problem))
    serve(made)
