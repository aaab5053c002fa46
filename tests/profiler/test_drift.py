import jax

from llmpq_jax.profiler.stopwatch import DriftMonitor, Stopwatch, square_product


class Machine:
    """A clock, and a product that takes a given time."""

    def __init__(self):
        self.now_s, self.product_s = 0.0, 1.0

    def monitor(self):
        stopwatch = Stopwatch(
            clock=lambda: self.now_s, warm_ups=0, warm_up_s=0, min_repeats=3
        )
        return DriftMonitor(call=self.work, stopwatch=stopwatch)

    def work(self):
        self.now_s += self.product_s


def test_the_slowest_and_the_fastest_are_kept():
    machine = Machine()
    monitor = machine.monitor()
    for machine.product_s in (1.0, 2.0, 0.5, 1.0):
        machine.now_s += 100
        monitor.check()
    assert (monitor.slowest, monitor.fastest) == (2.0, 0.5)


def test_a_steady_machine_has_not_drifted():
    machine = Machine()
    monitor = machine.monitor()
    machine.now_s += 100
    monitor.check()
    assert (monitor.slowest, monitor.fastest) == (1.0, 1.0)


def test_it_does_not_time_the_product_all_the_time():
    machine = Machine()
    monitor = machine.monitor()
    before_s = machine.now_s
    for _ in range(10):
        monitor.check()
    assert machine.now_s == before_s


def test_the_product_runs_on_the_device():
    product = square_product(jax.devices()[1])()
    assert isinstance(product, jax.Array)
    assert product.devices() == {jax.devices()[1]}
