"""launch/jobset.sh and the manifest that it makes: its fields, what they say together, and what arrives in a pod."""

import copy
import re
import socket
import subprocess
import sys

import pytest
import yaml

from tests.launch.stand_ins import LAUNCH, RECORDER, asked, install, run

RUN = ("--config", "configs/finetune_ad.py", "--workdir", "/shared/runs/ad")

#: The fields that the manifest uses, as published: jobset.x-k8s.io/v1alpha2 (kubernetes-sigs/jobset, release 0.9), Job
#: and Pod of Kubernetes 1.31. A type, a pattern, or what a list or a mapping holds; nothing else may be there.
NUMBER, LABEL = int, re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
POD = {
    "restartPolicy": re.compile("Never"),
    "terminationGracePeriodSeconds": NUMBER,
    "containers": [
        {
            "name": LABEL,
            "image": str,
            "command": [str],
            "args": [str],
            "env": [{"name": re.compile("[A-Z_]+"), "value": str, "valueFrom": {"fieldRef": {"fieldPath": str}}}],
            "resources": {"limits": {"nvidia.com/gpu": NUMBER}},
            "volumeMounts": [{"name": LABEL, "mountPath": re.compile("/.*")}],
        }
    ],
    "volumes": [{"name": LABEL, "persistentVolumeClaim": {"claimName": LABEL}}],
}
JOB = {
    "completionMode": re.compile("Indexed|NonIndexed"),
    "parallelism": NUMBER,
    "completions": NUMBER,
    "backoffLimit": NUMBER,
    "podFailurePolicy": {
        "rules": [
            {
                "action": re.compile("FailJob|FailIndex|Ignore|Count"),
                "onExitCodes": {"containerName": LABEL, "operator": re.compile("In|NotIn"), "values": [NUMBER]},
                "onPodConditions": [{"type": re.compile("DisruptionTarget"), "status": re.compile("True|False")}],
            }
        ]
    },
    "template": {"spec": POD},
}
JOBSET = {
    "apiVersion": re.compile("jobset.x-k8s.io/v1alpha2"),
    "kind": re.compile("JobSet"),
    "metadata": {"name": LABEL},
    "spec": {
        "network": {"enableDNSHostnames": bool},
        "coordinator": {"replicatedJob": LABEL, "jobIndex": NUMBER, "podIndex": NUMBER},
        "failurePolicy": {
            "maxRestarts": NUMBER,
            "rules": [
                {
                    "name": re.compile("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?"),
                    "action": re.compile("FailJobSet|RestartJobSet|RestartJobSetAndIgnoreMaxRestarts"),
                    "onJobFailureReasons": [re.compile("BackoffLimitExceeded|DeadlineExceeded|PodFailurePolicy")],
                }
            ],
        },
        "replicatedJobs": [{"name": LABEL, "replicas": NUMBER, "template": {"spec": JOB}}],
    },
}


def problems(value, schema, where=""):
    """Yield where a value is not as the schema has it."""
    if isinstance(schema, dict) and isinstance(value, dict):
        for key, inner in value.items():
            if key not in schema:
                yield f"{where}.{key}: no such field"
            else:
                yield from problems(inner, schema[key], f"{where}.{key}")
    elif isinstance(schema, list) and isinstance(value, list):
        for i, inner in enumerate(value):
            yield from problems(inner, schema[0], f"{where}[{i}]")
    elif isinstance(schema, re.Pattern):
        if not (isinstance(value, str) and schema.fullmatch(value)):
            yield f"{where}: {value!r}"
    elif isinstance(schema, dict | list) or type(value) is not schema:
        yield f"{where}: {value!r}"


@pytest.fixture
def someone(tmp_path):
    env = install(tmp_path / "bin", kubectl=RECORDER)
    return env | {"NAME": "mae", "IMAGE": "registry.example/jaxneuro:0.1", "CLAIM": "shared", "PODS": "4", "GPUS": "2"}


@pytest.fixture
def manifest(someone):
    status, out, err = run("jobset.sh", *RUN, env=someone | {"DRY_RUN": "1"})
    assert (status, err) == (0, "")
    assert asked(someone, "kubectl") == []
    return yaml.safe_load(out)


def job(manifest):
    return manifest["spec"]["replicatedJobs"][0]["template"]["spec"]


def container(manifest):
    return job(manifest)["template"]["spec"]["containers"][0]


def expand(text, variables):
    """Expand as Kubernetes does: $(NAME) if it is known, $$ to $, anything else as it is."""
    return re.sub(r"\$\$|\$\(([^)]*)\)", lambda m: "$" if m[0] == "$$" else variables.get(m[1], m[0]), text)


def environment(manifest, index, coordinator):
    """Return what a pod's process finds in its environment, in the order in which Kubernetes makes it."""
    annotations = {
        "jobset.sigs.k8s.io/coordinator": coordinator,
        "batch.kubernetes.io/job-completion-index": str(index),
    }
    variables = {}
    for e in container(manifest)["env"]:
        if "valueFrom" in e:
            key = re.fullmatch(r"metadata\.annotations\['(.*)'\]", e["valueFrom"]["fieldRef"]["fieldPath"])[1]
            variables[e["name"]] = annotations[key]
        else:
            variables[e["name"]] = expand(e["value"], variables)
    return variables


def test_every_field_is_one_that_is_published(manifest):
    assert list(problems(manifest, JOBSET)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda m: m["spec"].update(failurePolicies={}), ".spec.failurePolicies: no such field"),
        (lambda m: m["spec"]["failurePolicy"]["rules"][0].update(action="Restart"), ".rules[0].action: 'Restart'"),
        (lambda m: job(m).update(parallelism="4"), ".parallelism: '4'"),
        (lambda m: container(m)["env"][2].update(value=4), ".env[2].value: 4"),
        (lambda m: container(m).update(args="--config"), ".args: '--config'"),
    ],
)
def test_the_check_finds_mistakes(manifest, change, expected):
    wrong = copy.deepcopy(manifest)
    change(wrong)
    assert len(found := list(problems(wrong, JOBSET))) == 1
    assert expected in found[0]


def test_the_fields_fit_together(manifest):
    spec = manifest["spec"]
    assert manifest["metadata"]["name"] == "mae"
    assert (job(manifest)["parallelism"], job(manifest)["completions"]) == (4, 4)
    assert container(manifest)["image"] == "registry.example/jaxneuro:0.1"
    assert container(manifest)["resources"]["limits"] == {"nvidia.com/gpu": 2}
    assert spec["coordinator"] == {"replicatedJob": spec["replicatedJobs"][0]["name"], "jobIndex": 0, "podIndex": 0}
    assert job(manifest)["completionMode"] == "Indexed"  # or there is no index to take JAX_PROCESS_ID from
    assert job(manifest)["template"]["spec"]["volumes"][0]["persistentVolumeClaim"] == {"claimName": "shared"}


def test_what_happens_at_an_exit(manifest):
    # 75, and a node taken away, fail the Job with the reason PodFailurePolicy, for which the set restarts uncounted.
    sent_away, disrupted = job(manifest)["podFailurePolicy"]["rules"]
    assert (sent_away["action"], sent_away["onExitCodes"]["operator"]) == ("FailJob", "In")
    assert sent_away["onExitCodes"]["values"] == [75]
    assert sent_away["onExitCodes"]["containerName"] == container(manifest)["name"]
    assert (disrupted["action"], disrupted["onPodConditions"][0]["type"]) == ("FailJob", "DisruptionTarget")
    (rule,) = manifest["spec"]["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    # Anything else fails it with BackoffLimitExceeded, at once: all pods restart together, three times.
    assert job(manifest)["backoffLimit"] == 0
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 3
    assert job(manifest)["template"]["spec"]["restartPolicy"] == "Never"


def test_each_pod_knows_its_place(manifest):
    pods = [environment(manifest, i, "mae-workers-0-0.mae") for i in range(4)]
    assert {p["JAX_COORDINATOR_ADDRESS"] for p in pods} == {"mae-workers-0-0.mae:8476"}
    assert {p["JAX_NUM_PROCESSES"] for p in pods} == {"4"}
    assert [p["JAX_PROCESS_ID"] for p in pods] == ["0", "1", "2", "3"]


def test_arguments_arrive_as_they_are(someone):
    strange = (
        "--config.task.classes=('CN', 'AD')", 'say "é" 脳', "$HOME ${NAME} $(COORDINATOR) $$ $", "it's",
        "back\\slash\\n & \\&",
        "new\nline", "tab\there", "", "yes", "1.0", "${ARGS}", "# no comment", ": {}", "*a",
    )  # fmt: skip
    status, _, err = run("jobset.sh", *RUN, *strange, env=someone)
    assert (status, err) == (0, "")
    (call,) = asked(someone, "kubectl")
    assert call["arguments"] == ["create", "-f", "-"]
    made = yaml.safe_load(call["input"])
    assert list(problems(made, JOBSET)) == []
    assert container(made)["command"] == ["jaxneuro"]
    variables = environment(made, 0, "mae-workers-0-0.mae")
    assert [expand(a, variables) for a in container(made)["args"]] == ["train", "--distributed", *RUN, *strange]


def test_other_verbs(someone):
    assert run("jobset.sh", "evaluate", "/shared/runs/ad", env=someone)[0] == 0
    made = yaml.safe_load(asked(someone, "kubectl")[0]["input"])
    assert container(made)["args"] == ["evaluate", "--distributed", "/shared/runs/ad"]


@pytest.mark.parametrize(
    ("arguments", "env", "expected"),
    [
        ((), {}, "found no arguments"),
        (RUN[:2], {}, "found no --workdir"),
        (RUN, {"NAME": ""}, "found no NAME"),
        (RUN, {"IMAGE": ""}, "found no IMAGE"),
        (RUN, {"CLAIM": ""}, "found no CLAIM"),
        (RUN, {"NAME": "Mae_1"}, "NAME: found 'Mae_1'"),
        (RUN, {"NAME": "a" * 26}, "NAME: found 'aaaaaaaaaaaaaaaaaaaaaaaaaa'"),
        (RUN, {"PODS": "0"}, "PODS: found '0'"),
        (RUN, {"GPUS": "two"}, "GPUS: found 'two'"),
        (RUN, {"IMAGE": 'a"b'}, "IMAGE: found 'a\"b'"),
        (RUN, {"CLAIM": "a b"}, "CLAIM: found 'a b'"),
        ((*RUN[:2], "--workdir", "/data/ad"), {}, "--workdir: found '/data/ad'"),
        ((*RUN[:2], "--workdir=runs/ad"), {}, "--workdir: found 'runs/ad'"),
        ((*RUN[:2], "--workdir"), {}, "--workdir: found ''"),
    ],
)
def test_mistakes_are_one_line(someone, arguments, env, expected):
    status, out, err = run("jobset.sh", *arguments, env=someone | env)
    assert (status, out) == (2, "")
    assert err.startswith(f"error: {expected}; expected ")
    assert err.count("\n") == 1
    assert "; try " in err
    assert asked(someone, "kubectl") == []


def test_a_name_stays_a_word(someone):
    assert run("jobset.sh", *RUN, env=someone | {"NAME": "null"})[0] == 0
    made = yaml.safe_load(asked(someone, "kubectl")[0]["input"])
    assert made["metadata"]["name"] == "null"


def test_the_longest_name_makes_a_label(someone):
    # Kubernetes takes 63 characters in a label, and JobSet makes one of the first pod's address.
    name = "a" * 25
    assert run("jobset.sh", *RUN, env=someone | {"NAME": name})[0] == 0
    assert len(f"{name}-workers-0-0.{name}") == 63


#: What `jaxneuro --distributed` does with these variables, and one sum over all processes.
JOINS = """
import os
import jax, jax.numpy as jnp
jax.distributed.initialize(
    os.environ["JAX_COORDINATOR_ADDRESS"], int(os.environ["JAX_NUM_PROCESSES"]), int(os.environ["JAX_PROCESS_ID"]),
    cluster_detection_method="deactivate", initialization_timeout=240,
)
from jax.experimental import multihost_utils
print(int(multihost_utils.process_allgather(jnp.asarray(10 ** jax.process_index())).sum()))
jax.distributed.shutdown()
"""


@pytest.mark.slow
def test_jax_finds_all_that_it_needs(someone):
    _, out, _ = run("jobset.sh", *RUN, env=someone | {"PODS": "2", "DRY_RUN": "1"})
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    pods = []
    try:
        for i in range(2):
            env = environment(yaml.safe_load(out), i, "localhost")
            env["JAX_COORDINATOR_ADDRESS"] = env["JAX_COORDINATOR_ADDRESS"].replace("8476", str(port))
            del env["JAX_COMPILATION_CACHE_DIR"]  # there is no /shared here
            env |= {"JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo", "PYTHONWARNINGS": "error"}
            command = [sys.executable, "-c", JOINS]
            pods.append(subprocess.Popen(command, env=someone | env, stdout=subprocess.PIPE, text=True))
        said = [p.communicate(timeout=300)[0] for p in pods]
    finally:
        for p in pods:
            p.kill()
            p.communicate()
    assert [s.splitlines()[-1] for s in said] == ["11", "11"]  # each of the two gave its part once
    assert [p.returncode for p in pods] == [0, 0]


def test_the_template_names_no_other_variable():
    text = (LAUNCH / "jobset.yaml").read_text()
    assert set(re.findall(r"\$\{([A-Z]+)\}", text)) == {"NAME", "IMAGE", "CLAIM", "PODS", "GPUS", "ARGS"}
