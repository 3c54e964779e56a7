"""What a test does at the same time."""

import threading
from concurrent.futures import Future


def in_thread(function, *arguments):
    """Call a function in a thread; return what waits for its result, or raises what it raised."""
    future = Future()

    def run():
        try:
            future.set_result(function(*arguments))
        except Exception as error:  # noqa: BLE001  # it is the test's
            future.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def result():
        thread.join(30)
        return future.result(0)

    result.is_waiting = thread.is_alive
    return result
