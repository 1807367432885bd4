#!/usr/bin/env bash
# Install, update or repair speakeasyd in /opt/speakeasyd, and as a service of the system. Safe to run again, also after a failure.
#
#   sudo contrib/systemd/install.sh [OPTION...]
#     --python FILE    the Python to use, 3.11 or newer; default: python3
#     --extras LIST    default: bundled,server (the small model and the page)
#     --dry-run        only print what would be done
#     other options go to `speakeasyd service install`: --inbox DIR, --outbox DIR
#   sudo contrib/systemd/install.sh --uninstall      keeps /srv/speakeasyd, /var/lib/speakeasyd and /etc/speakeasyd
set -euo pipefail

source_tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
program=/opt/speakeasyd
venv=$program/venv
command=/usr/local/bin/speakeasyd
extras=bundled,server
python=python3
service=()
dry=
action=install

usage() {
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

fail() {
    printf 'install.sh: %s\n' "$@" >&2
    exit 1
}

run() {
    printf '+ %s\n' "$*"
    [ -n "$dry" ] || "$@"
}

while [ $# -gt 0 ]; do
    case $1 in
        --python | --extras | --inbox | --outbox) [ $# -ge 2 ] || usage ;;
    esac
    case $1 in
        --python) python=$2; shift ;;
        --extras) extras=$2; shift ;;
        --inbox | --outbox) service+=("$1" "$2"); shift ;;
        --dry-run) dry=yes ;;
        --uninstall) action=uninstall ;;
        *) usage ;;
    esac
    shift
done

if [ -z "$dry" ] && [ "$(id -u)" != 0 ]; then
    fail "must run as root: sudo $0"
fi

if [ "$action" = uninstall ]; then
    run "$venv/bin/speakeasyd" service uninstall --system
    if [ "$(readlink "$command")" = "$venv/bin/speakeasyd" ]; then run rm -f "$command"; fi
    run rm -rf "$program"
    echo "speakeasyd is uninstalled. Its configuration, ledger, inbox and outbox are kept."
    exit 0
fi

# Check the requirements before anything is changed.
command -v "$python" >/dev/null || fail "$python not found; install Python 3.11 or newer, or give its path: --python FILE"
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])') || fail "$python does not run"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    fail "$python is Python $version; 3.11 or newer is needed: --python FILE"
"$python" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$python has no venv module; on Debian and Ubuntu: apt install python$version-venv" "then run this script again"

# An incomplete virtual environment, or one of another Python version, is replaced.
if [ -e "$venv" ] && ! { "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
    [ "$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')" = "$version" ]; }; then
    run rm -rf "$venv"
fi
run install -d -m 0755 "$program"
if [ ! -e "$venv" ]; then
    run "$python" -m venv "$venv" || {
        rm -rf "$venv"
        fail "the virtual environment $venv could not be created; it was removed"
    }
fi
run "$venv/bin/python" -m pip install --quiet --upgrade "$source_tree[$extras]" ||
    fail "the program could not be installed; remove the cause, then run this script again"

# A command of that name that somebody put there stays.
[ -e "$command" ] || [ -L "$command" ] || run ln -s "$venv/bin/speakeasyd" "$command"

run "$venv/bin/speakeasyd" service install --system "${service[@]}"

cat <<'DONE'

To allow a user to use the inbox: sudo usermod --append --groups speakeasyd NAME
Status:    speakeasyd status     (as root or as a member of the group)
Control:   sudo -u speakeasyd speakeasyd pause
Page:      http://127.0.0.1:8642/ (on this machine)
DONE
