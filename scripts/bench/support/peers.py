"""The same work in the pools of Python's library, and loops under its progress bars.

    python3 peers.py NAME SIZE

Says `ready`; then each line on stdin is a round, answered by its seconds (see programs.lua).
"""
import concurrent.futures
import gc
import multiprocessing
import pickle
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


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


def queued(size, pool, submit, end):
    """Bytes of this process for each task that waits behind two which sleep."""
    def measure():
        made = pool(2)
        held = [submit(made, time.sleep, 60) for _ in range(2)]
        held += [submit(made, add, (i, 1)) for i in range(100)]
        time.sleep(0.5)  # what is sent ahead has gone
        gc.collect()
        before = resident()
        held += [submit(made, add, (i, 1)) for i in range(size)]
        gc.collect()
        used = resident() - before
        end(made)
        return used / size
    return measure


def pool_queued(size):
    return queued(size, multiprocessing.Pool, lambda pool, f, *args: pool.apply_async(f, args),
                  lambda pool: pool.terminate())


def futures_queued(size):
    def end(pool):
        for child in multiprocessing.active_children():
            child.kill()
        pool.shutdown()
    return queued(size, concurrent.futures.ProcessPoolExecutor, lambda pool, f, *args: pool.submit(f, *args), end)


def pool_cycle(size):
    """A pool is made, gives a result, and is closed."""
    def measure():
        start = clock()
        pool = multiprocessing.Pool(size)
        assert pool.apply(answer) == 42
        pool.close()
        pool.join()
        return clock() - start
    return measure


def futures_cycle(size):
    def measure():
        start = clock()
        with concurrent.futures.ProcessPoolExecutor(size) as pool:
            assert pool.submit(answer).result() == 42
        return clock() - start
    return measure


def iterate(size, wrap):
    """Seconds of one iteration of a loop under a bar."""
    def measure():
        start = clock()
        for _ in wrap(range(size)):
            pass
        return (clock() - start) / size
    return measure


def tqdm(size):
    import tqdm
    return iterate(size, tqdm.tqdm)


def atpbar(size):
    import atpbar
    return iterate(size, lambda items: atpbar.atpbar(items, name="bar"))


def pool_waiting(milliseconds):
    """The share of a core that the parent uses while a task sleeps."""
    pool = multiprocessing.Pool(2)

    def measure():
        start, used = clock(), time.process_time()
        pool.apply(time.sleep, (milliseconds / 1e3,))
        return (time.process_time() - used) / (clock() - start)
    return measure


def spin(seconds):
    end = clock() + seconds
    while clock() < end:
        pass
    return seconds


def pool_order(size):
    """Short tasks and two long ones, the long ones last."""
    pool = multiprocessing.Pool(2)
    times = [1e-3] * size + [size * 1e-3] * 2

    def measure():
        start = clock()
        assert len(list(pool.imap_unordered(spin, times))) == size + 2
        return clock() - start
    return measure


def shared_memory(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))


def collect(count):
    """Garbage, and collections of it, beside a little that lives."""
    global live
    live = [[i, i] for i in range(10000)]
    for _ in range(count):
        for i in range(100000):
            [i, [i]]
        gc.collect()
    return len(live)


def pool_sharing(mebibytes):
    """Memory of a pool over a large heap of small objects that is frozen, by that of the parent alone."""
    heap = [[i] for i in range(mebibytes * 2 ** 20 // 104)]

    def measure():
        gc.freeze()
        before = shared_memory("self")
        with multiprocessing.Pool(4) as pool:
            pool.map(collect, [5] * 8, chunksize=1)
            after = sum(shared_memory(child.pid) for child in multiprocessing.active_children())
            assert heap
            return (after + shared_memory("self")) / before
    return measure


def tree(depth):
    if depth == 0:
        return {"leaf": True}
    return {"left": tree(depth - 1), "right": tree(depth - 1), "value": depth}


def cpu_time(call, *args):
    gc.collect()
    start = time.process_time()
    result = call(*args)
    return time.process_time() - start, result


def pickled(size):
    """The values of codec.lua: seconds of encoding and decoding, for each piece."""
    depth = size.bit_length() - 1 - 8
    values = [
        ([i * 7 for i in range(1, size + 1)], size),
        (floats(size), size),
        ([{"id": i, "name": f"item {i}", "x": i * 0.5, "y": i * 0.25} for i in range(1, size // 10 + 1)], size // 10),
        (tree(depth), 2 ** (depth + 1) - 1)]

    def measure():
        answers = []
        for value, count in values:
            encoding, encoded = cpu_time(pickle.dumps, value, 5)
            decoding, _ = cpu_time(pickle.loads, encoded)
            answers += [encoding / count, decoding / count]
        return " ".join(map(str, answers))
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
