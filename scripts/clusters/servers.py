"""Servers of Spark, Dask and Ray on the loopback, for the scripts that make the records of lesson 41. Each ends with its block."""
import os, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')  # before torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
os.environ |= {'PYSPARK_PYTHON': sys.executable, 'PYSPARK_DRIVER_PYTHON': sys.executable, 'SPARK_LOCAL_IP': '127.0.0.1',
               'RAY_AUTH_MODE': 'disabled', 'RAY_USAGE_STATS_ENABLED': '0', 'RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO': '0',
               'RAY_raylet_start_wait_time_s': '60'}
os.environ.pop('SPARK_HOME', None)

WAIT = 300.  # seconds for a server to be there: a busy machine is no fault


@contextmanager
def spark_session(master):
    from pyspark.sql import SparkSession
    settings = {'spark.ui.enabled': 'false', 'spark.driver.host': '127.0.0.1', 'spark.driver.bindAddress': '127.0.0.1',
                'spark.executor.memory': '1g', 'spark.driver.memory': '1g', 'spark.ui.showConsoleProgress': 'false'}
    builder = SparkSession.builder.master(master).appName('cnn_tricks')
    for k, v in settings.items(): builder = builder.config(k, v)
    spark = builder.getOrCreate()
    spark.sparkContext.setLogLevel('OFF')
    try: yield spark
    finally: spark.stop()


def answers(port):
    with socket.socket() as s: return s.connect_ex(('127.0.0.1', port)) == 0


def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@contextmanager
def spark_daemons(folder, workers=2):
    "A standalone master and its workers on the loopback -> its address. All of them are ended, whatever happens."
    import pyspark
    home, port = Path(pyspark.__file__).parent, free_port()
    main, env = 'org.apache.spark.deploy', os.environ | {'SPARK_HOME': str(home), 'SPARK_DAEMON_MEMORY': '256m'}
    master, running = f'spark://127.0.0.1:{port}', []

    def start(*command):
        log = open(folder/f'daemon{len(running)}.log', 'wb')
        running.append(subprocess.Popen([home/'bin'/'spark-class', *command], env=env, stdout=log, stderr=log))
    try:
        start(f'{main}.master.Master', '--host', '127.0.0.1', '--port', str(port), '--webui-port', str(free_port()))
        until(lambda: answers(port), 'the master', running)
        for i in range(workers):
            start(f'{main}.worker.Worker', '--host', '127.0.0.1', '--cores', '1', '--memory', '1g', '--webui-port',
                  str(free_port()), '--work-dir', str(folder/f'worker{i}'), master)
        there = lambda i: b'Successfully registered' in (folder/f'daemon{i + 1}.log').read_bytes()
        until(lambda: all(map(there, range(workers))), 'the workers', running)
        yield master
    finally:
        for p in running: p.terminate()
        for p in running:
            try: p.wait(20)
            except subprocess.TimeoutExpired: p.kill(), p.wait()


def until(there, what, running):
    start = time.monotonic()
    while not there():
        if any(p.poll() is not None for p in running) or time.monotonic() - start > WAIT:
            raise RuntimeError(f'{what} did not start within {WAIT:.0f} s')
        time.sleep(0.2)


@contextmanager
def dask_cluster(workers=2):
    from distributed import Client, LocalCluster
    with LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, host='127.0.0.1', dashboard_address=None,
                      silence_logs=50) as cluster, Client(cluster) as client: yield client


@contextmanager
def ray_cluster(cpus=2, tries=5):
    """A connection to a new Ray cluster of this machine. Its node waits 15 s for its own helpers and then dies, which is
    too short for a busy machine; so it is tried again."""
    import ray
    try:
        for left in reversed(range(tries)):
            try:
                ray.init(num_cpus=cpus, include_dashboard=False, object_store_memory=200 << 20, log_to_driver=False,
                         logging_level='ERROR', configure_logging=False, _node_ip_address='127.0.0.1')
                break
            except Exception:
                ray.shutdown()
                if not left: raise
        yield ray
    finally: ray.shutdown()
