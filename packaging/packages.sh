# shellcheck shell=bash
# Sourced by quickstart and run-tests: which Debian packages are missing, and installing them.
# The list is packaging/debian-packages. The caller has set -euo pipefail and is in the project's root.

# packages_in SET...: the names in these sets, one a line.
packages_in() {
  local sets=" $* "
  local set name
  while read -r set name _; do
    if [[ -n $name && $sets == *" $set "* ]]; then echo "$name"; fi
  done < packaging/debian-packages
}

# packages_missing SET...: those of them that are not installed, one a line.
packages_missing() {
  local name
  for name in $(packages_in "$@"); do
    if [[ $(dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2> /dev/null) != ii* ]]; then echo "$name"; fi
  done
}

# packages_check_system: ends the program with an explanation where apt packages cannot be installed.
packages_check_system() {
  local ID='' ID_LIKE='' VERSION_ID='' PRETTY_NAME='this system'
  if [[ -r /etc/os-release ]]; then . /etc/os-release; fi
  if [[ " $ID $ID_LIKE " != *" debian "* ]] || ! command -v apt-get > /dev/null; then
    echo "$0: made for Debian 12 (bookworm); this is $PRETTY_NAME." >&2
    echo "Try it in a container or virtual machine with Debian 12." >&2
    exit 1
  fi
  if [[ $ID != debian || $VERSION_ID != 12 ]]; then
    echo "Note: tested on Debian 12; this is $PRETTY_NAME, whose packages may differ."
  fi
}

# packages_install ASK SET...: installs what is missing of these sets. Before it uses sudo it shows the
# command and, if ASK is "yes", asks. Appends what it installed to build/installed-packages.
packages_install() {
  local ask=$1
  shift
  local missing
  mapfile -t missing < <(packages_missing "$@")
  if ((${#missing[@]} == 0)); then
    echo "All $(packages_in "$@" | wc -l) Debian packages are installed already."
    return
  fi
  local as_root=()
  if ((EUID != 0)); then as_root=(sudo); fi
  local update=("${as_root[@]}" apt-get update -q)
  local install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}")
  echo "${#missing[@]} Debian packages are missing. To be run:"
  echo "  ${update[*]}"
  echo "  ${install[*]}"
  if ((EUID != 0)); then
    if ! command -v sudo > /dev/null; then
      echo "$0: you are not root and there is no sudo: run these two as root, then $0 again." >&2
      exit 1
    fi
    if [[ $ask == yes ]]; then packages_ask; fi
  fi
  "${update[@]}"
  "${install[@]}"
  mkdir -p build
  printf '%s\n' "${missing[@]}" >> build/installed-packages
}

packages_ask() {
  if [[ ! -t 0 ]]; then
    echo "$0: standard input is not a terminal, so nobody can be asked: give --yes, or run these two yourself." >&2
    exit 1
  fi
  local answer
  read -r -p "Run them? [y/N] " answer
  if [[ $answer != [yY]* ]]; then
    echo "Nothing was installed."
    exit 1
  fi
}
