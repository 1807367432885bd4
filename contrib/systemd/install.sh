#!/usr/bin/env bash
# Install, update or repair speakeasyd as a systemd service. Safe to run again, also after a failure.
#
#   sudo contrib/systemd/install.sh [OPTION...]
#     --python FILE    the Python to use, 3.11 or newer; default: python3
#     --extras LIST    default: bundled,server (the small model and the page)
#     --inbox DIR      also let the service read and write this folder; can be repeated
#     --outbox DIR     the same for a folder of transcripts; can be repeated
#     --dry-run        only print what would be done
#   sudo contrib/systemd/install.sh --uninstall      keeps /srv/speakeasyd, /var/lib/speakeasyd and /etc/speakeasyd
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_tree=$(cd "$here/../.." && pwd)
program=/opt/speakeasyd
venv=$program/venv
command=/usr/local/bin/speakeasyd
config=/etc/speakeasyd/speakeasyd.toml
drop_in=/etc/systemd/system/speakeasyd.service.d/folders.conf
extras=bundled,server
python=python3
inboxes=()
outboxes=()
dry=
action=install

usage() {
    sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
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
        --inbox) inboxes+=("$2"); shift ;;
        --outbox) outboxes+=("$2"); shift ;;
        --dry-run) dry=yes ;;
        --uninstall) action=uninstall ;;
        *) usage ;;
    esac
    shift
done

for folder in "${inboxes[@]}" "${outboxes[@]}"; do
    case $folder in
        *[[:space:]\"\\%]*) fail "the path of a folder must not contain spaces, quotes, backslashes or %: $folder" ;;
        /*) ;;
        *) fail "the path of a folder must be absolute: $folder" ;;
    esac
done

if [ -z "$dry" ] && [ "$(id -u)" != 0 ]; then
    fail "must run as root: sudo $0"
fi

if [ "$action" = uninstall ]; then
    run systemctl disable --now speakeasyd.service || true
    if [ "$(readlink "$command")" = "$venv/bin/speakeasyd" ]; then run rm -f "$command"; fi
    run rm -rf /etc/systemd/system/speakeasyd.service "$drop_in" "$program"
    run systemctl daemon-reload
    echo "speakeasyd is uninstalled. The folders /srv/speakeasyd, /var/lib/speakeasyd and /etc/speakeasyd are kept."
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

getent group speakeasyd >/dev/null || run groupadd --system speakeasyd
getent passwd speakeasyd >/dev/null ||
    run useradd --system --gid speakeasyd --home-dir /var/lib/speakeasyd --shell /usr/sbin/nologin speakeasyd
for group in video render; do # the groups that may use a GPU
    if getent group "$group" >/dev/null; then run usermod --append --groups "$group" speakeasyd; fi
done

run install -d -m 0755 /srv/speakeasyd
run install -d -m 2775 -o speakeasyd -g speakeasyd /srv/speakeasyd/inbox /srv/speakeasyd/outbox
for folder in "${inboxes[@]}" "${outboxes[@]}"; do
    [ -d "$folder" ] || run install -d -m 2775 -o speakeasyd -g speakeasyd "$folder"
done

# The configuration may contain secrets, the state folder contains transcripts: only for the service and its group.
run install -d -m 0750 -o root -g speakeasyd /etc/speakeasyd
if [ ! -e "$config" ]; then
    run install -m 0640 -o root -g speakeasyd "$here/speakeasyd.toml" "$config"
    if [ ${#inboxes[@]} -gt 0 ]; then run sed -i "s|^path = .*|path = \"${inboxes[0]}\"|" "$config"; fi
    if [ ${#outboxes[@]} -gt 0 ]; then run sed -i "s|^outbox = .*|outbox = \"${outboxes[0]}\"|" "$config"; fi
fi
run chown -R root:speakeasyd /etc/speakeasyd
run chmod -R o-rwx /etc/speakeasyd
run install -d -m 0750 -o speakeasyd -g speakeasyd /var/lib/speakeasyd
run chmod -R o-rwx /var/lib/speakeasyd

run install -m 0644 "$source_tree/README.md" "$program/README.md"
run install -m 0644 "$here/speakeasyd.service" /etc/systemd/system/speakeasyd.service
if [ ${#inboxes[@]} -gt 0 ] || [ ${#outboxes[@]} -gt 0 ]; then
    run install -d -m 0755 "$(dirname "$drop_in")"
    [ -n "$dry" ] || [ -e "$drop_in" ] || printf '[Service]\n' >"$drop_in"
    for folder in "${inboxes[@]}" "${outboxes[@]}"; do
        if ! grep -qxF "ReadWritePaths=$folder" "$drop_in" 2>/dev/null; then
            printf '+ ReadWritePaths=%s >> %s\n' "$folder" "$drop_in"
            [ -n "$dry" ] || printf 'ReadWritePaths=%s\n' "$folder" >>"$drop_in"
        fi
    done
fi
run systemctl daemon-reload
run systemctl enable speakeasyd.service
run systemctl reset-failed speakeasyd.service 2>/dev/null || true # it may have been started too often
run systemctl restart speakeasyd.service

for folder in "${inboxes[@]}" "${outboxes[@]}"; do
    if [ -z "$dry" ] && ! runuser -u speakeasyd -- test -w "$folder" -a -x "$folder"; then
        echo "The user speakeasyd cannot write to $folder. Run: chgrp speakeasyd $folder && chmod g+rwxs $folder"
    fi
    grep -qsF "\"$folder\"" "$config" || echo "Add $folder to $config, then run: systemctl restart speakeasyd"
done

cat <<'DONE'

speakeasyd is running. Put audio into its inbox (default: /srv/speakeasyd/inbox).
To allow a user to do so: sudo usermod --append --groups speakeasyd NAME
Status:    systemctl status speakeasyd     journalctl -u speakeasyd -f
           speakeasyd status     (as root or as a member of the group)
Control:   sudo -u speakeasyd speakeasyd pause
Page:      http://127.0.0.1:8642/ (on this machine)
DONE
