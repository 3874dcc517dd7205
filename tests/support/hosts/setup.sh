#!/bin/sh
# Runs once inside a new root file system: what makes a Debian installation a host of a test fleet.
set -eu

# units that make no sense in a container, or would reach the machine's kernel
for unit in systemd-udevd.service systemd-udev-trigger.service systemd-udevd-control.socket systemd-udevd-kernel.socket \
    systemd-modules-load.service systemd-sysctl.service systemd-random-seed.service systemd-timesyncd.service \
    systemd-networkd.service systemd-networkd-wait-online.service systemd-resolved.service \
    systemd-hwdb-update.service systemd-remount-fs.service systemd-binfmt.service proc-sys-fs-binfmt_misc.automount \
    sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount sys-fs-fuse-connections.mount \
    dev-hugepages.mount dev-mqueue.mount getty.target console-getty.service getty@tty1.service systemd-logind.service \
    systemd-firstboot.service systemd-machine-id-commit.service systemd-pcrphase.service \
    systemd-pcrphase-sysinit.service systemd-pcrphase-initrd.service \
    systemd-update-utmp.service systemd-update-utmp-runlevel.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer e2scrub_reap.service; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done

mkdir -p /etc/systemd/system.conf.d /etc/systemd/journald.conf.d
cat >/etc/systemd/system.conf.d/10-container.conf <<'CONF'
[Manager]
RuntimeWatchdogSec=off
RebootWatchdogSec=off
DefaultTimeoutStopSec=10s
CONF
cat >/etc/systemd/journald.conf.d/10-container.conf <<'CONF'
[Journal]
Storage=volatile
RuntimeMaxUse=16M
CONF

# Each host makes its own SSH key and machine id when it first boots.
rm -f /etc/ssh/ssh_host_* /var/lib/dbus/machine-id
: >/etc/machine-id
cat >/etc/systemd/system/ssh-hostkeys.service <<'UNIT'
[Unit]
Description=Make this host's SSH key
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N "" -f /etc/ssh/ssh_host_ed25519_key

[Install]
WantedBy=multi-user.target
UNIT
cat >/etc/ssh/sshd_config.d/10-fleet.conf <<'CONF'
PasswordAuthentication no
HostKey /etc/ssh/ssh_host_ed25519_key
MaxStartups 100
MaxSessions 50
CONF
systemctl enable --quiet ssh-hostkeys.service ssh.service

useradd --create-home --shell /bin/bash deploy
install -d -m 700 -o deploy -g deploy /home/deploy/.ssh
echo 'deploy ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/deploy
chmod 440 /etc/sudoers.d/deploy

# Nothing of the machine that built it stays: neither its mirror nor its name.
rm -f /etc/apt/sources.list /etc/hostname /etc/resolv.conf
