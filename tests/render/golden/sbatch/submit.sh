#!/usr/bin/env bash
# Queues the stages of the recipe 'qwen3-8b-eagle3', each after the one before it has ended well.
# Arguments go to every sbatch:  ./submit.sh --account=NAME --constraint=GPU
#
# Run it on a node that reaches the registry: images are fetched here, once, by digest, because
# compute nodes often have no way out.  This folder and the store must be on a file system that all
# nodes share, and all jobs on one kind of processor: outputs depend on it.
# The same command again continues: finished stages are found in the store.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
mkdir -p images logs runs

fetch() {  # a fetch that was cut short leaves no image
  if [[ ! -f $1 ]]; then apptainer pull --force "$1.partial" "$2"; mv -- "$1.partial" "$1"; fi
}
fetch images/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.sif docker://registry.example:5000/trainer@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
fetch images/c1c9f6fd5c109ba7f0546a59f5b2f15fb87f64c77782e90a27b648b42a8e67c3.sif docker://vllm/vllm-openai@sha256:c1c9f6fd5c109ba7f0546a59f5b2f15fb87f64c77782e90a27b648b42a8e67c3
fetch images/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde0.sif docker://registry.example/b@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcde0

job=$(sbatch --parsable "$@" 1-verifier.sbatch)
echo "verifier: job ${job%%;*}"
job=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:${job%%;*}" "$@" 2-prompts.sbatch)
echo "prompts: job ${job%%;*}"
job=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:${job%%;*}" "$@" 3-responses.sbatch)
echo "responses: job ${job%%;*}"
job=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:${job%%;*}" "$@" 4-hidden_states.sbatch)
echo "hidden_states: job ${job%%;*}"
job=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:${job%%;*}" "$@" 5-training.sbatch)
echo "training: job ${job%%;*}"
job=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:${job%%;*}" "$@" 6-package.sbatch)
echo "package: job ${job%%;*}"
job=$(sbatch --parsable --kill-on-invalid-dep=yes --dependency="afterok:${job%%;*}" "$@" 7-benchmark.sbatch)
echo "benchmark: job ${job%%;*}"
