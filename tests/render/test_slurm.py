"""Slurm scripts: golden texts, and what bash and stand-ins for Slurm and Apptainer make of them.

To accept changed scripts: ``SPECULATORS_ACCEPT_GOLDEN=1 pytest tests/render``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speculators.errors import RecipeError
from speculators.recipe.recipe import require_recipe
from speculators.render import slurm
from speculators.render.jobs import Options, jobs_of
from tests.render.rendered import (
    SMOLLM,
    compare_golden,
    cpu_images,
    cuda_images,
    on_gpus,
    required,
    stand_in,
)

GOLDEN = Path(__file__).parent / "golden" / "sbatch"
OPTIONS = Options(partition="gpu", home="/shared/speculators")
#: Says how it was called: one line an argument would not do, for arguments may have newlines.
APPTAINER = 'printf "%s\\0" "$@" > "$SEEN/argv"; env -0 > "$SEEN/env"'
#: Awkward in a shell, legal in a file name; ':' and ',' the script itself refuses.
AWKWARD = st.text(st.sampled_from("a b'\"$(`\\!*?[]{}~;&|<>#%\n-é)"), min_size=1, max_size=12)


def scripts(options: Options = OPTIONS) -> dict[str, str]:
    recipe = on_gpus()
    return slurm.scripts(recipe, jobs_of(recipe, cuda_images()), options)


def start(script: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a batch script as Slurm would in ``folder``, with an Apptainer that only says how it was called."""
    stand_in(folder.parent / "bin", "apptainer", APPTAINER)
    env = {
        "PATH": f"{folder.parent / 'bin'}:{os.environ['PATH']}",
        "HOME": str(folder.parent),
        "SLURM_SUBMIT_DIR": str(folder),
        "SEEN": str(folder.parent),
        **environ,
    }
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True, check=False)


def seen(folder: Path) -> tuple[list[str], dict[str, str]]:
    argv = (folder / "argv").read_text().split("\0")[:-1]
    env = dict(pair.partition("=")[::2] for pair in (folder / "env").read_text().split("\0")[:-1])
    return argv, env


def test_the_scripts_are_the_golden_ones() -> None:
    compare_golden(GOLDEN, scripts())


def test_a_job_asks_for_gpus_only_where_it_computes_on_them() -> None:
    asking = [name for name, text in scripts().items() if "--gpus-per-node=2" in text]
    assert asking == [
        "2-prompts.sbatch",
        "3-responses.sbatch",
        "4-hidden_states.sbatch",
        "5-training.sbatch",
        "7-benchmark.sbatch",
    ]


def test_what_nobody_named_is_left_to_the_site() -> None:
    recipe = require_recipe(SMOLLM)
    text = slurm.scripts(recipe, jobs_of(recipe, cpu_images()), Options())["5-training.sbatch"]
    for word in ("--gpus", "--mem", "--time", "--partition", "--nv", "HF_HUB_CACHE"):
        assert word not in text
    assert "${SPECULATORS_HOME:-" in text


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=AWKWARD, home=AWKWARD)
def test_awkward_folders_reach_the_container_whole(tmp_path: Path, name: str, home: str) -> None:
    root = tmp_path / "tree"
    shutil.rmtree(root, ignore_errors=True)
    folder = root / f"job {name}"
    folder.mkdir(parents=True)
    store = f"{root}/store {home}"
    script = scripts(Options(home=store))["5-training.sbatch"]
    done = start(script, folder, HF_TOKEN="hush")
    assert (done.returncode, done.stderr) == (0, "")
    argv, env = seen(root)
    assert argv[argv.index("--pwd") + 1] == str(folder)
    assert [argv[at + 1] for at, word in enumerate(argv) if word == "--bind"] == [
        str(folder),
        store,
        f"{folder}/package:/opt/speculators:ro",
        f"{root}/.cache/huggingface/hub:{root}/.cache/huggingface/hub:ro",
    ]
    assert env["APPTAINERENV_SPECULATORS_HOME"] == store
    assert (Path(store) / "home").is_dir()


def test_a_secret_goes_by_the_environment_and_is_never_an_argument(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    script = scripts(Options())["3-responses.sbatch"]
    assert start(script, tmp_path / "job", HF_TOKEN="hush '$(x)").returncode == 0
    argv, env = seen(tmp_path)
    assert env["APPTAINERENV_HF_TOKEN"] == "hush '$(x)"
    assert not any("hush" in word for word in argv)


def test_a_secret_that_was_not_exported_stops_the_job(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    done = start(scripts(Options())["3-responses.sbatch"], tmp_path / "job")
    assert done.returncode != 0
    assert "HF_TOKEN: export it where you submit" in done.stderr


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_a_folder_that_apptainer_would_split_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = start(scripts(Options())["1-verifier.sbatch"], tmp_path / name, HF_TOKEN="x")
    assert done.returncode == 2
    assert "cannot be bound" in done.stderr
    assert not (tmp_path / "argv").exists()


def submit(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run submit.sh in ``folder`` with stand-ins that write down what they are asked."""
    for name, text in scripts().items():
        (folder / name).write_text(text)
    bin_ = folder.parent / "bin"
    stand_in(bin_, "sbatch", 'echo "$*" >> "$SEEN/queue"; wc -l < "$SEEN/queue" | sed "s/$/;cluster/"')
    # pull --force FILE ADDRESS
    stand_in(bin_, "apptainer", 'echo "$4" >> "$SEEN/pulled"; [[ ! -e $SEEN/offline ]]; echo image > "$3"')
    env = {"PATH": f"{bin_}:{os.environ['PATH']}", "SEEN": str(folder.parent)}
    command = ["bash", str(folder / "submit.sh"), *words]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, cwd="/")


def test_each_job_waits_for_the_one_before_it(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    done = submit(tmp_path / "job", "--account=a b")
    assert done.returncode == 0, done.stderr
    queue = (tmp_path / "queue").read_text().splitlines()
    assert queue[0] == "--parsable --account=a b 1-verifier.sbatch"
    assert [line.split("afterok:")[1].split()[0] for line in queue[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert done.stdout.splitlines()[-1] == "benchmark: job 7"
    assert (tmp_path / "job" / "logs").is_dir()  # Slurm makes no folder for its log, and then no log


def test_images_are_fetched_once_by_digest_and_never_half(tmp_path: Path) -> None:
    (tmp_path / "job").mkdir()
    (tmp_path / "offline").touch()
    assert submit(tmp_path / "job").returncode != 0
    assert not (tmp_path / "queue").exists()
    assert list((tmp_path / "job" / "images").glob("*.sif")) == []
    (tmp_path / "offline").unlink()
    for _ in range(2):
        assert submit(tmp_path / "job").returncode == 0
    pulled = (tmp_path / "pulled").read_text().splitlines()[1:]
    assert sorted(pulled) == sorted({f"docker://{image}" for image in (job.image for job in jobs())})
    for name, text in scripts().items():
        if name.endswith(".sbatch"):
            (used,) = [word for word in text.split() if word.endswith(".sif")]
            assert (tmp_path / "job" / used).is_file()


def jobs() -> list:
    return jobs_of(on_gpus(), cuda_images())


@pytest.mark.parametrize(
    "options", [Options(partition="gpu; rm -rf /"), Options(home="store"), Options(hub="~/hub")]
)
def test_options_that_a_job_would_misread_are_refused(options: Options) -> None:
    with pytest.raises(RecipeError) as caught:
        scripts(options)
    assert caught.value.rule == "usage"


@pytest.mark.integration
@pytest.mark.parametrize("room", ["sbatch", "k8s"])
def test_shellcheck_finds_nothing(room: str) -> None:
    files = [*GOLDEN.parent.glob(f"{room}/*.s*")]
    assert files
    done = subprocess.run(
        [required("shellcheck", "shellcheck"), *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    assert done.returncode == 0
