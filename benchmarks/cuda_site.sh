#!/usr/bin/env bash
# Makes the folder to carry to a GPU host without a network: the tracked files of this checkout, and
# the packages that a torch image does not have. There, in the folder:
#   PYTHONPATH=site:trefoil python3 -m benchmarks.cuda      (run it in trefoil/)
# usage: [PYTHON=...] bash benchmarks/cuda_site.sh DIR [PYTHON_VERSION]
#   PYTHON_VERSION: the host's, 3.12 if not given; PYTHON: .venv/bin/python of this checkout
set -eu
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
OUT=${1:?usage: bash benchmarks/cuda_site.sh DIR [PYTHON_VERSION]}
VERSION=${2:-3.12}
NEEDED="cffi cryptography googleapis-common-protos grpcio grpcio-health-checking grpcio-reflection protobuf psutil pycparser soundfile
 click click-default-group pluggy python-dateutil six sqlite-fts4 sqlite-utils tabulate tqdm
 opentelemetry-api opentelemetry-sdk opentelemetry-proto opentelemetry-semantic-conventions
 opentelemetry-exporter-otlp-common opentelemetry-exporter-otlp-proto-common opentelemetry-exporter-otlp-proto-grpc"

rm -rf "$OUT/site" "$OUT/trefoil"
mkdir -p "$OUT/site" "$OUT/trefoil"
git -C "$ROOT" archive HEAD | tar -x -C "$OUT/trefoil" --exclude=docs/screenshots --exclude=installers

# In the versions of this environment; what is not installed here is not needed there.
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
mapfile -t pinned < <("$PYTHON" - $NEEDED <<'LIST'
import sys
from importlib import metadata
for name in sys.argv[1:]:
    try:
        print(f"{name}=={metadata.version(name)}")
    except metadata.PackageNotFoundError:
        pass
LIST
)
platforms=()
for tag in manylinux2014_x86_64 manylinux_2_17_x86_64 manylinux_2_27_x86_64 manylinux_2_28_x86_64 manylinux_2_34_x86_64; do
  platforms+=(--platform "$tag")
done
python3 -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --only-binary=:all: \
  --python-version "$VERSION" --implementation cp "${platforms[@]}" --target "$OUT/site" "${pinned[@]}"
# First on the path, so that no other `google` package of the host gets in between.
touch "$OUT/site/google/__init__.py"
du -sm "$OUT" | cut -f1 | sed 's/$/ MB/'
