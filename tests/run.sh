#!/usr/bin/env bash
# Proves a checkout: formatting, lints, purity, unit, property and doc tests, simulations, and end-to-end tests of real
# processes in network namespaces. Installs what is missing from the distribution. Ends with 0 only if everything held.
#
#   tests/run.sh            everything
#   tests/run.sh --no-lab   all but the end-to-end tests, which need root
set -euo pipefail
cd "$(dirname "$0")/.."

lab=yes
case "${1-}" in
"") ;;
--no-lab) lab=no ;;
*)
    echo "usage: tests/run.sh [--no-lab]" >&2
    exit 2
    ;;
esac

skipped=()
started=$SECONDS
current="the preparations"
trap 'code=$?; if [ $code -ne 0 ]; then echo "FAILED: $current (after $((SECONDS - started)) s)" >&2; fi' EXIT

# What takes far longer than it ever did hangs, and is ended with its children.
hangs_after=2400
at_a_terminal=()
if [ -t 0 ]; then
    # Else an interrupt from the keyboard would not reach it.
    at_a_terminal=(--foreground)
fi

step() {
    current=$1
    shift
    local begin=$SECONDS
    echo "== $current"
    timeout --kill-after=20 "${at_a_terminal[@]}" $hangs_after "$@" || {
        local code=$?
        [ $code -ne 124 ] || echo "$current: ended after $hangs_after s, something in it hangs" >&2
        return $code
    }
    echo "== $current: $((SECONDS - begin)) s"
}

as_root=()
if [ "$(id -u)" -ne 0 ] && sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
fi
is_root() { [ "$(id -u)" -eq 0 ] || [ ${#as_root[@]} -gt 0 ]; }

# need COMMAND PACKAGE: installs the package when the command is missing.
need() {
    command -v "$1" >/dev/null && return
    if is_root && command -v apt-get >/dev/null; then
        "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$2" >/dev/null
    fi
    command -v "$1" >/dev/null && return
    echo "$1 is missing and cannot be installed here; install the package $2" >&2
    return 1
}

if ! command -v cargo >/dev/null; then
    echo "cargo is missing: install the Rust toolchain, see https://rustup.rs" >&2
    exit 1
fi
need cc gcc
# Version orders, package recipes and the bill of materials are held against the real tools.
if is_root && command -v apt-get >/dev/null; then
    need dpkg-deb dpkg
    need rpm rpm
    need rpmbuild rpm
    # Repositories are signed and read by the real thing; apt itself brings gpgv or sqv.
    need gpg gnupg
    need python3 python3
    # The fleet store is tested on a PostgreSQL of the test's own; most of its programs lie outside the path.
    postgresql() { command -v initdb || ls /usr/lib/postgresql/*/bin/initdb; }
    postgresql >/dev/null 2>&1 || need initdb postgresql 2>/dev/null || postgresql >/dev/null 2>&1 ||
        skipped+=("PostgreSQL: it cannot be installed here, so the fleet store was tested on SQLite alone")
    need setpriv util-linux
    # Thousands of real version numbers come from apt's lists.
    ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || "${as_root[@]}" apt-get update -qq
fi
if [ $lab = yes ]; then
    if is_root; then
        # Both come with iproute2; on some systems they lie where only root looks.
        PATH=$PATH:/usr/sbin:/sbin
        need ip iproute2
        need tc iproute2
        # upswarm's own package, and a process without rights.
        need objdump binutils
        need setpriv util-linux
        need adduser adduser
        # A proxy as offices have them.
        need tinyproxy tinyproxy
        # Wall clocks that are wrong.
        need faketime faketime
        need systemd-analyze systemd
        need tmux tmux
        # The console in a real browser.
        need chromedriver chromium-driver
        need chromium chromium
    elif [ -n "${CI-}" ]; then
        echo "the end-to-end tests need root (or sudo without a password) for network namespaces" >&2
        exit 1
    else
        lab=no
        skipped+=("end-to-end tests: they need root, for network namespaces")
    fi
else
    skipped+=("end-to-end tests: --no-lab")
fi

step "format" cargo fmt --all --check
# All in one profile, and each selection of packages with one set of features: nothing is compiled twice.
step "lints" cargo clippy --locked --release --workspace --all-targets -- -D warnings
# All at once, so that the large crate and its tests are compiled beside each other; what follows only runs.
step "program and tests" cargo build --locked --release --workspace --all-targets
step "unit, property and doc tests" cargo test --locked --release --workspace --exclude upswarm-tests
step "dependencies and purity" cargo test --locked --release -p upswarm-node -p upswarm-tests --test dependencies --test structure
if cargo deny --version >/dev/null 2>&1; then
    step "advisories" cargo deny check
else
    skipped+=("advisories: cargo-deny is not installed (licences and the list of passed-over advisories were checked)")
fi
built=${CARGO_TARGET_DIR:-target}/release
for scenario in running cold; do
    for seed in 1 2; do
        step "simulation: 40 machines, $scenario, seed $seed" \
            "$built/upswarm-simulations" --nodes 40 --mib 64 --scenario $scenario --seed $seed
    done
done
step "simulation: a pause of 1,000 machines in 25 sites" \
    "$built/upswarm-simulations" --sites 25 --nodes 40 --scenario pause --seed 1
step "simulation: a rollout to 1,000 devices that stops by itself" \
    "$built/upswarm-simulations" --sites 1000 --nodes 1 --scenario rollout-fails --seed 1
if [ $lab = yes ]; then
    host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
    if [ ${#as_root[@]} -gt 0 ]; then
        export "CARGO_TARGET_${host}_RUNNER=sudo -n -E"
    fi
    # They share the cores and print figures: one at a time.
    step "end-to-end tests" env CI=1 cargo test --locked --release -p upswarm-node -p upswarm-tests --no-fail-fast \
        --test network --test first_day --test journey --test heads --test reuse --test survival --test tampering --test bad_input --test terminal --test package --test apart --test recipes --test obstacles --test machine --test inventory --test pause --test proxy --test disk --test clocks --test many_payloads --test warm_start \
        --test repositories --test update_point --test ceremonies --test faults --test cases --test limits --test idle --test console --test backup --test thin_wan \
        -- --test-threads=1 --nocapture
fi

current="the end"
for what in "${skipped[@]}"; do
    echo "SKIPPED: $what"
done
echo "everything held, in $((SECONDS - started)) s"
