#!/usr/bin/env bash
# Install speakeasyd as a systemd service, or bring an installed one up to date. Safe to run again.
#
#   sudo contrib/systemd/install.sh [--extras bundled,gpu] [--dry-run]
#   sudo contrib/systemd/install.sh --uninstall      keeps /srv/speakeasyd, /var/lib/speakeasyd and /etc/speakeasyd
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_tree=$(cd "$here/../.." && pwd)
extras=bundled
dry=
action=install

while [ $# -gt 0 ]; do
    case $1 in
        --extras) extras=$2; shift ;;
        --dry-run) dry=yes ;;
        --uninstall) action=uninstall ;;
        *) sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
    shift
done

run() {
    printf '+ %s\n' "$*"
    [ -n "$dry" ] || "$@"
}

if [ -z "$dry" ] && [ "$(id -u)" != 0 ]; then
    echo "install.sh must run as root: sudo $0" >&2
    exit 1
fi

if [ "$action" = uninstall ]; then
    run systemctl disable --now speakeasyd.service || true
    run rm -rf /etc/systemd/system/speakeasyd.service /opt/speakeasyd
    run systemctl daemon-reload
    echo "speakeasyd is gone; its folders /srv/speakeasyd, /var/lib/speakeasyd and /etc/speakeasyd are kept."
    exit 0
fi

getent group speakeasyd >/dev/null || run groupadd --system speakeasyd
getent passwd speakeasyd >/dev/null ||
    run useradd --system --gid speakeasyd --home-dir /var/lib/speakeasyd --shell /usr/sbin/nologin speakeasyd
for group in video render; do # whoever may use a GPU on this system
    if getent group "$group" >/dev/null; then run usermod --append --groups "$group" speakeasyd; fi
done

run install -d -m 0755 /opt/speakeasyd /etc/speakeasyd /srv/speakeasyd
run install -d -m 2775 -o speakeasyd -g speakeasyd /srv/speakeasyd/inbox /srv/speakeasyd/outbox
[ -x /opt/speakeasyd/venv/bin/python ] || run python3 -m venv /opt/speakeasyd/venv
run /opt/speakeasyd/venv/bin/python -m pip install --quiet --upgrade "$source_tree[$extras]"
run install -m 0644 "$source_tree/README.md" /opt/speakeasyd/README.md
[ -e /etc/speakeasyd/speakeasyd.toml ] ||
    run install -m 0644 "$here/speakeasyd.toml" /etc/speakeasyd/speakeasyd.toml
run install -m 0644 "$here/speakeasyd.service" /etc/systemd/system/speakeasyd.service
run systemctl daemon-reload
run systemctl enable speakeasyd.service
run systemctl restart speakeasyd.service

cat <<'DONE'

speakeasyd runs. Drop audio into /srv/speakeasyd/inbox; people who may do so belong to the group speakeasyd:
    sudo usermod --append --groups speakeasyd NAME
How is it?    systemctl status speakeasyd     journalctl -u speakeasyd -f
              /opt/speakeasyd/venv/bin/speakeasyd status --state /var/lib/speakeasyd
DONE
