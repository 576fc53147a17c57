"""Choosing on the Spark that is embedded in Beam's job server: the local runner's bytes."""

import os

import job_servers
import pytest
from demo_runs import outputs
from kills import with_root

CHOOSE = ("--pool", "demo:400", "--recipe", "clip_score_l14_30_percent", "--select-only", "--out")


@pytest.mark.long
def test_spark_makes_the_local_bytes(curate, tmp_path):
    try:
        jar = job_servers.spark()
    except job_servers.MissingError as error:
        pytest.skip(str(error))
    options = ["--spark_job_server_jar", jar] if jar else []
    done = curate(*CHOOSE, tmp_path / "spark", "--runner", "spark", *options, env=with_root(os.environ))
    assert done.returncode == 0, done.stderr
    assert curate(*CHOOSE, tmp_path / "local", env=with_root(os.environ)).returncode == 0
    assert outputs(tmp_path / "spark") == outputs(tmp_path / "local")
