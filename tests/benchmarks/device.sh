#!/usr/bin/env bash
# All that is to be known of one CUDA card, in at most 8 minutes: the contract of every method on it, the replay of CUDA
# graphs, and the table of times. Tables are printed, figures go to $1 (default: device.json). `REHEARSE=1` runs it with
# small shapes, on a machine without a card too.
set -uo pipefail
cd "$(dirname "$0")/../.."
out=${1:-device.json}
python=${PYTHON:-python}
if [ -n "${REHEARSE:-}" ]; then
    tests=(tests/test_contract.py::test_nan_passes_through_to_its_own_example_only tests/test_cuda_graphs.py)
    table=(--rehearse --seconds 60 --rounds 1 --models resnet50 llama_1b --ways eager compiled)
else
    "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || { echo "no CUDA card" >&2; exit 2; }
    tests=(tests/test_contract.py tests/test_cuda_graphs.py)
    table=(--seconds 290)
fi
timeout 170 "$python" -m pytest -q -p no:cacheprovider "${tests[@]}"
held=$?
timeout 300 "$python" -m tests.benchmarks.device "${table[@]}" --json "$out"
measured=$?
echo "contract: $held, table: $measured (0: as it should be; 124: out of time)"
exit $((held != 0 || measured != 0))
