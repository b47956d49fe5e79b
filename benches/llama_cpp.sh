#!/usr/bin/env bash
# Builds llama.cpp's command-line tools and its server, for the CPU and with nothing else, from the source package of llama-cpp-python on PyPI.
# The programs end up in FOLDER/bin, the vocabularies that llama.cpp tests its tokenizers with in FOLDER/models.
#
#   benches/llama_cpp.sh FOLDER [JOBS]
#
# Needs Python 3 with pip and venv, and a C++ compiler. PYTHON names another Python.
set -euo pipefail
version=0.3.36
if [ $# -lt 1 ] || [ $# -gt 2 ]; then
    echo "usage: $0 FOLDER [JOBS]" >&2
    exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
jobs=${2:-2}

"${PYTHON:-python3}" -m venv "$folder/venv"
tools=$folder/venv/bin
"$tools/pip" install --quiet cmake ninja
archive=$folder/llama_cpp_python-$version.tar.gz
if [ ! -e "$archive" ]; then
    # A download of a source package asks its build system for its metadata: hence the build's own needs.
    "$tools/pip" download --quiet --no-deps --no-binary llama-cpp-python --dest "$folder" "llama-cpp-python==$version"
fi
tar -xzf "$archive" -C "$folder"
source=$folder/llama_cpp_python-$version/vendor/llama.cpp

# PyPI's package has no history to take a build number from.
"$tools/cmake" -S "$source" -B "$folder/build" -G Ninja -DCMAKE_MAKE_PROGRAM="$tools/ninja" \
    -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DGGML_OPENMP=OFF -DGGML_BLAS=OFF \
    -DGGML_LLAMAFILE=OFF -DLLAMA_BUILD_NUMBER=0 -DLLAMA_BUILD_COMMIT="$version" -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF >"$folder/cmake.log"
programs=(llama-tokenize llama-simple llama-completion llama-perplexity llama-quantize llama-server)
"$tools/cmake" --build "$folder/build" --parallel "$jobs" --target "${programs[@]}"

mkdir -p "$folder/bin"
for program in "${programs[@]}"; do
    cp "$folder/build/bin/$program" "$folder/bin/"
done
ln -sfn "$source/models" "$folder/models"
echo "$folder/bin: ${programs[*]}"
