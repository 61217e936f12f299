"""Threads: a block of one thread leaves the process as it was, also when blocks of several threads overlap."""

import threading

import torch
from threadpoolctl import threadpool_info

from temimagenet.device import single_threaded


def _counts():
    return torch.get_num_threads(), sorted((i["filepath"], i["num_threads"]) for i in threadpool_info())


def test_overlapping_blocks_restore_what_was_there():
    torch.set_num_threads(2)
    before = _counts()
    seen = []
    first_is_in, second_is_in = threading.Event(), threading.Event()

    def first():
        with single_threaded():
            first_is_in.set()
            second_is_in.wait(5.0)
        seen.append(torch.get_num_threads())

    def second():
        first_is_in.wait(5.0)
        with single_threaded():
            second_is_in.set()
            one.join()
            assert all(i["num_threads"] == 1 for i in threadpool_info() if i["user_api"] == "blas")

    one, two = threading.Thread(target=first), threading.Thread(target=second)
    one.start()
    two.start()
    one.join()
    two.join()
    # The thread that left first has its own number back, too, and so have those to come.
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2, 2]
    assert _counts() == before
