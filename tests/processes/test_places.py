"""Where a process joins others, by what the command line, JAX's variables and clusters say."""

import importlib.util

import pytest

from vtl.errors import UserError
from vtl.places import Place, find_place, local_gpus

NOWHERE = Place(None, None, None)
"""What nobody asked for; as an answer, what JAX finds itself."""

JAX = {"JAX_COORDINATOR_ADDRESS": "a:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "3"}
SALLOC = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_TASKS_PER_NODE": "2(x2)"}
SBATCH = SALLOC | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SRUN = SALLOC | {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_PROCID": "2", "SLURM_LOCALID": "0"}
OPEN_MPI_5 = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "1"}
OPEN_MPI_4 = OPEN_MPI_5 | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"}
KUBERNETES = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}


@pytest.mark.parametrize(
    ("asked", "environment", "place"),
    [
        (NOWHERE, {}, None),
        (Place("a:1", 2, 0), {}, Place("a:1", 2, 0)),
        (Place("[fe80::1]:65535", 1, 0), {}, Place("[fe80::1]:65535", 1, 0)),
        (NOWHERE, JAX, Place("a:1", 4, 3)),
        (Place("b:2", 2, 1), JAX, Place("b:2", 2, 1)),
        (NOWHERE, dict.fromkeys(JAX, ""), None),
        (NOWHERE, SRUN, NOWHERE),
        (NOWHERE, SRUN | {"SLURM_NTASKS": "1"}, None),
        (NOWHERE, SALLOC, None),
        (NOWHERE, SBATCH, None),
        (Place("a:1", None, None), SRUN, Place("a:1", 4, 2)),
        (Place("a:1", 2, 0), SRUN, Place("a:1", 2, 0)),
        (NOWHERE, {"JAX_COORDINATOR_ADDRESS": "a:1"} | SRUN, Place("a:1", 4, 2)),
        (NOWHERE, OPEN_MPI_4, NOWHERE),
        (NOWHERE, OPEN_MPI_4 | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
        (Place("a:1", None, None), OPEN_MPI_5, Place("a:1", 4, 1)),
        (NOWHERE, OPEN_MPI_5 | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ],
)
def test_where_a_process_joins_others(asked, environment, place):
    assert find_place(asked, environment) == place


@pytest.mark.parametrize("environment", [KUBERNETES, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}])
@pytest.mark.parametrize("has_package", [True, False])
def test_a_kubernetes_job_is_one_where_its_package_is_installed(
    monkeypatch, environment, has_package
):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: has_package or None)
    is_job = has_package and "JOB_COMPLETION_INDEX" in environment
    assert find_place(NOWHERE, environment) == (NOWHERE if is_job else None)


@pytest.mark.parametrize(
    ("asked", "environment"),
    [
        (Place("a:1", None, None), {}),
        (Place("a:1", 2, None), {}),
        (Place(None, 2, 0), {}),
        (Place(None, 2, None), JAX),
        (NOWHERE, {"JAX_PROCESS_ID": "0"}),
        (NOWHERE, JAX | {"JAX_NUM_PROCESSES": ""}),
    ],
)
def test_what_is_incomplete_is_told_what_belongs_to_it(asked, environment):
    with pytest.raises(UserError, match="many processes need --coordinator=HOST:PORT"):
        find_place(asked, environment)


@pytest.mark.parametrize(
    ("place", "told"),
    [
        (Place("a", 2, 0), "process 0 of 2 at a is no place"),
        (Place(":1", 2, 0), "process 0 of 2 at :1 is no place"),
        (Place("a:0", 2, 0), "process 0 of 2 at a:0 is no place"),
        (Place("a:65536", 2, 0), "process 0 of 2 at a:65536 is no place"),
        (Place("a:port", 2, 0), "process 0 of 2 at a:port is no place"),
        (Place("a:1", 2, 2), "process 2 of 2 at a:1 is no place"),
        (Place("a:1", 2, -1), "process -1 of 2 at a:1 is no place"),
        (Place("a:1", 0, 0), "process 0 of 0 at a:1 is no place"),
    ],
)
def test_what_is_wrong_is_told_as_it_was_given(place, told):
    with pytest.raises(UserError) as error:
        find_place(place, {})
    first, second = str(error.value).splitlines()
    assert first == told
    assert second.startswith("Give the first process's HOST:PORT")


def test_a_number_that_is_none_is_told_as_it_was_given():
    with pytest.raises(UserError, match=r"process 3 of 4\.0 at a:1 is no place"):
        find_place(NOWHERE, JAX | {"JAX_NUM_PROCESSES": "4.0"})


def test_open_mpi_5_does_not_say_where_the_first_process_is():
    with pytest.raises(UserError, match="not where the first one is\nGive --coordinator=HOST"):
        find_place(NOWHERE, OPEN_MPI_5)


@pytest.mark.parametrize(
    ("environment", "gpus"),
    [
        ({}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, None),
        ({"SLURM_TASKS_PER_NODE": "2"}, None),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_TASKS_PER_NODE": "2", "SLURM_LOCALID": "1"}, [1]),
        (
            {
                "CUDA_VISIBLE_DEVICES": "4,5,6,7",
                "SLURM_TASKS_PER_NODE": "2(x3)",
                "SLURM_LOCALID": "1",
            },
            [2, 3],
        ),
        ({"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_TASKS_PER_NODE": "1(x2)"}, [0, 1]),
        (
            {
                "CUDA_VISIBLE_DEVICES": "0,1,2,3",
                "SLURM_TASKS_PER_NODE": "2(x2),4",
                "SLURM_NODEID": "2",
                "SLURM_LOCALID": "3",
            },
            [3],
        ),
        ({"CUDA_VISIBLE_DEVICES": "3", "SLURM_TASKS_PER_NODE": "4", "SLURM_LOCALID": "3"}, [0]),
        (
            {
                "CUDA_VISIBLE_DEVICES": "0,1",
                "SLURM_TASKS_PER_NODE": "2",
                "JAX_LOCAL_DEVICE_IDS": "0",
            },
            None,
        ),
    ],
)
def test_tasks_of_a_node_share_its_gpus(environment, gpus):
    assert local_gpus(environment) == gpus
