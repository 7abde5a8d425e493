#!/usr/bin/env bash
# Copies this folder into the claim 'models' and starts 'qwen3-8b-eagle3' there as a Job.
# Arguments go to every kubectl:  ./submit.sh --context=NAME
# 'models' must hold the models that the recipe names, as a hub cache in its folder hub/.
# Results are in the claim's folder runs/qwen3-8b-eagle3/.
set -euo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")"

kubectl --namespace=research "$@" apply --filename=loader.yaml
trap 'kubectl --namespace=research "$@" delete --filename=loader.yaml --ignore-not-found' EXIT
kubectl --namespace=research "$@" wait --for=condition=Ready --timeout=30m pod/speculators-qwen3-8b-eagle3-loader
tar -c -f - recipe*.yaml files package |
  kubectl --namespace=research "$@" exec --stdin speculators-qwen3-8b-eagle3-loader -- sh -c 'rm -rf /job/files /job/package /job/recipe.lock.yaml && mkdir -p /job/runs && tar -x -f - -C /job'
# A volume may be on one node at a time: the loader goes before the job comes.
kubectl --namespace=research "$@" delete --filename=loader.yaml
kubectl --namespace=research "$@" apply --filename=network-policy.yaml
# Not apply: beside a job that is there already it would do nothing, and say so quietly.
kubectl --namespace=research "$@" create --filename=job.yaml
