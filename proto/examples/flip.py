#!/usr/bin/env python3
"""Flips a behavior in the middle of a running load and reads the effect back.

Asks a running `fracas proxy` for a lease of `20:delay` on one of its proxies, while requests go through that proxy
all the time, and prints what they took before, during and after, beside what the proxy says it did.

    python3 flip.py --proxy default --delay 200ms
    python3 flip.py --proxy default --fracas ../../target/release/fracas     # `fracas load` makes the load

Needs grpcio, grpcio-tools and protobuf; the stubs are generated from ../fracas/v1 into a temporary directory.
`behavior` below can be imported and used in any test.
"""

import argparse
import contextlib
import http.client
import importlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import grpc

PROTO_ROOT = pathlib.Path(__file__).resolve().parent.parent
DEADLINE_S = 5.0
SAMPLES_MAX = 1_000_000


def load_stubs():
    """Generates the stubs and returns (proxy_pb2, proxy_pb2_grpc, rule_pb2)."""
    from grpc_tools import protoc

    import grpc_tools

    directory = tempfile.TemporaryDirectory(prefix="fracas-stubs-")
    # Modules are read at import, so the files may go afterwards.
    with directory as out:
        files = sorted(str(path) for path in PROTO_ROOT.glob("fracas/v1/*.proto"))
        well_known = pathlib.Path(grpc_tools.__file__).parent / "_proto"
        arguments = ["protoc", f"-I{PROTO_ROOT}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
        if protoc.main(arguments + files) != 0:
            raise RuntimeError("the stubs could not be generated; the lines above say why")
        sys.path.insert(0, out)
        try:
            names = ("proxy_pb2", "proxy_pb2_grpc", "rule_pb2")
            return tuple(importlib.import_module(f"fracas.v1.{name}") for name in names)
        finally:
            sys.path.remove(out)


proxy_pb2, proxy_pb2_grpc, rule_pb2 = load_stubs()


@contextlib.contextmanager
def behavior(stub, proxy, mix, options=None, ttl_s=5.0, owner="flip.py"):
    """Holds a lease of `mix` on `proxy` while the block runs; yields the AcquireLeaseResponse.

    `options` is by behavior: `{"delay": {"time": "200ms"}}`. A thread renews the lease three times per `ttl_s`, so
    the fault ends at most `ttl_s` after this process dies. Raises RuntimeError at the end of the block if the lease
    was lost in the middle of it, since what was measured is then not what was asked for.
    """
    request = proxy_pb2.AcquireLeaseRequest(
        proxy=proxy,
        rules=rule_pb2.RuleSet(
            mix=mix,
            options={name: rule_pb2.BehaviorOptions(values=values) for name, values in (options or {}).items()},
        ),
        owner=f"{owner}, pid {os.getpid()}",
        request_id=str(uuid.uuid4()),
    )
    request.ttl.FromNanoseconds(round(ttl_s * 1e9))
    acquired = stub.AcquireLease(request, timeout=DEADLINE_S)
    lease_id = acquired.lease.id
    finished = threading.Event()
    lost = []

    def renew():
        while not finished.wait(ttl_s / 3):
            try:
                stub.RenewLease(
                    proxy_pb2.RenewLeaseRequest(lease_id=lease_id, request_id=str(uuid.uuid4())), timeout=ttl_s / 3
                )
            except grpc.RpcError as error:
                # One late answer is not the end: there are two more tries within the time to live.
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    lost.append(error.details())
                    return

    renewer = threading.Thread(target=renew, name="renew-lease", daemon=True)
    renewer.start()
    try:
        yield acquired
    finally:
        finished.set()
        renewer.join()
        try:
            stub.ReleaseLease(
                proxy_pb2.ReleaseLeaseRequest(lease_id=lease_id, request_id=str(uuid.uuid4())), timeout=DEADLINE_S
            )
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
            lost.append(error.details())
    if lost:
        raise RuntimeError(f"the lease on {proxy} ended before its block did: {lost[0]}")


class RoundTrips:
    """Sends GET requests through the proxy, one after the other, from a thread, and notes what each took."""

    def __init__(self, address, path="/"):
        self.host, _, port = address.rpartition(":")
        self.port = int(port)
        self.path = path
        self.samples = []  # (sent_s, took_s), of time.monotonic()
        self.errors = 0
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._run, name="round-trips", daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._finished.set()
        self._thread.join()

    def _run(self):
        connection = None
        while not self._finished.is_set() and len(self.samples) < SAMPLES_MAX:
            sent = time.monotonic()
            try:
                if connection is None:
                    connection = http.client.HTTPConnection(self.host.strip("[]"), self.port, timeout=DEADLINE_S)
                connection.request("GET", self.path)
                connection.getresponse().read()
                self.samples.append((sent, time.monotonic() - sent))
            except (OSError, http.client.HTTPException):
                self.errors += 1
                if connection is not None:
                    connection.close()
                connection = None
                self._finished.wait(0.05)

    def took_between(self, begin, end):
        """What the requests sent in [begin, end) took, in seconds, sorted."""
        return sorted(took for sent, took in list(self.samples) if begin <= sent < end)


@contextlib.contextmanager
def fracas_load(binary, url, seconds, rate):
    """Runs `fracas load` beside the block; it ends by itself, or is interrupted when the block fails."""
    process = subprocess.Popen([binary, "load", url, "-c", "16", "-r", rate, "-d", f"{seconds}s"])
    try:
        yield
        process.wait(timeout=seconds + 10)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=10)


def describe(name, took):
    """One line for a phase: how many, percentiles, share of slow ones."""
    if not took:
        return f"{name:<7} no reply"
    at = lambda share: took[min(len(took) - 1, int(share * len(took)))] * 1e3
    return f"{name:<7} {len(took):>7} replies  p50 {at(0.50):8.2f} ms  p90 {at(0.90):8.2f} ms  p99 {at(0.99):8.2f} ms"


def rule_figures(stub, proxy, lease_id):
    """The RuleStats of a lease, from GetProxyStats."""
    stats = stub.GetProxyStats(proxy_pb2.GetProxyStatsRequest(proxy=proxy), timeout=DEADLINE_S).stats
    return [rule for rule in stats.rules if rule.lease_id == lease_id]


def flip(stub, proxy, mix, options, phase_s, trips):
    """Measures `phase_s` before, during and after the behavior; prints them and what the proxy says."""
    begin = time.monotonic()
    time.sleep(phase_s)
    asked = time.monotonic()
    with behavior(stub, proxy, mix, options) as acquired:
        on = time.monotonic()
        change = acquired.change
        print(
            f"{mix} on {proxy}: generation {change.generation}, on {change.workers} workers "
            f"after {change.apply_time.ToNanoseconds() / 1e6:.3f} ms"
        )
        time.sleep(phase_s)
        figures = rule_figures(stub, proxy, acquired.lease.id)
        off = time.monotonic()
    released = time.monotonic()
    time.sleep(phase_s)
    end = time.monotonic()

    print(describe("before", trips.took_between(begin, asked)))
    print(describe("during", trips.took_between(on, off)))
    print(describe("after", trips.took_between(released, end)))
    for rule in figures:
        share = 100 * rule.acted / rule.matched if rule.matched else 0.0
        line = f"proxy says: {rule.rule} acted on {rule.acted} of {rule.matched} ({share:.2f} %)"
        if rule.lateness.count:
            line += f", later than asked by p50 {rule.lateness.p50_ns / 1e3:.0f} µs, p99 {rule.lateness.p99_ns / 1e3:.0f} µs"
        print(line)
    if trips.errors:
        print(f"{trips.errors} requests failed")
    return sum(rule.acted for rule in figures)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--api", default="127.0.0.1:7401", help="where ProxyService listens")
    parser.add_argument("--proxy", default="default", help="name of the proxy")
    parser.add_argument("--mix", default="20:delay", help="what to do to the traffic")
    parser.add_argument("--delay", default="200ms", help="how long a delay is, when the mix has one")
    parser.add_argument("--phase", type=float, default=3.0, help="seconds before, during and after")
    parser.add_argument("--path", default="/", help="path of the requests")
    parser.add_argument("--fracas", help="path of the fracas binary: makes more load with `fracas load`")
    parser.add_argument("--rate", default="500/s", help="rate of `fracas load`")
    arguments = parser.parse_args()

    options = {"delay": {"time": arguments.delay}} if "delay" in arguments.mix else None
    with grpc.insecure_channel(arguments.api) as channel, contextlib.ExitStack() as running:
        stub = proxy_pb2_grpc.ProxyServiceStub(channel)
        try:
            proxy = stub.GetProxy(proxy_pb2.GetProxyRequest(name=arguments.proxy), timeout=DEADLINE_S).proxy
            if arguments.fracas:
                url = f"http://{proxy.listen}{arguments.path}"
                seconds = int(3 * arguments.phase) + 2
                running.enter_context(fracas_load(arguments.fracas, url, seconds, arguments.rate))
            trips = running.enter_context(RoundTrips(proxy.listen, arguments.path))
            acted = flip(stub, arguments.proxy, arguments.mix, options, arguments.phase, trips)
        except grpc.RpcError as error:
            print(f"{arguments.api}: {error.code().name}: {error.details()}", file=sys.stderr)
            return 1
    if acted == 0:
        print("the behavior acted on nothing; check that the traffic goes through this proxy", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
