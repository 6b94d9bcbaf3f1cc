#!/usr/bin/env bash
# Builds the guest of the `vm` suite: Debian with systemd, sshd and the peers that drive a runtime, as OUT/{disk.ext4,vmlinuz,initrd,key}.
#
# Runs as an ordinary user (user namespaces of mmdebstrap); needs mmdebstrap, uidmap, e2fsprogs and openssh-client.
# Usage: image.sh OUT. What is there already, made by this same script, is kept.
set -euo pipefail
out=$1
suite=trixie
# podman, containerd and docker drive our runtime; crun is what it is measured against.
peers=podman,containerd,docker.io,docker-cli,crun,conmon,uidmap,slirp4netns,fuse-overlayfs,dbus-user-session
stamp=$(sha256sum "$0" | cut -c1-64)-$suite
if [ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi
work=$(mktemp -d "${TMPDIR:-/tmp}/wherry-guest.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$out"
ssh-keygen -q -t ed25519 -N '' -C wherry-vm -f "$work/key"

cat > "$work/customize" <<EOF
set -eu
root=\$1
echo wherry-guest > "\$root/etc/hostname"
echo '/dev/vda / ext4 rw,noatime 0 1' > "\$root/etc/fstab"
mkdir -p "\$root/root/.ssh" "\$root/etc/systemd/network"
cp "$work/key.pub" "\$root/root/.ssh/authorized_keys"
printf '[Match]\nName=en*\n[Network]\nDHCP=yes\n' > "\$root/etc/systemd/network/uplink.network"
# Only the host key that is needed, and nothing at boot that a test does not use.
rm -f "\$root"/etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -f "\$root/etc/ssh/ssh_host_ed25519_key"
chroot "\$root" systemctl enable systemd-networkd ssh
chroot "\$root" systemctl disable docker.service docker.socket containerd.service podman.service podman.socket podman-auto-update.timer \
    podman-restart.service podman-clean-transient.service
chroot "\$root" systemctl mask systemd-timesyncd apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
    e2scrub_all.timer fstrim.timer man-db.timer getty@tty1.service systemd-networkd-wait-online.service
echo 'MODULES=list' > "\$root/etc/initramfs-tools/conf.d/modules"
printf 'virtio_pci\nvirtio_blk\next4\n' > "\$root/etc/initramfs-tools/modules"
chroot "\$root" update-initramfs -u
cp "\$root"/boot/vmlinuz-* "$work/vmlinuz"
cp "\$root"/boot/initrd.img-* "$work/initrd"
rm -rf "\$root"/boot/* "\$root"/var/cache/apt/* "\$root"/var/lib/apt/lists/* "\$root"/usr/share/doc "\$root"/usr/share/man \
    "\$root"/usr/share/locale
# A bind mount does not show what is mounted below, /proc among it.
mkdir "$work/view"
mount --bind "\$root" "$work/view"
mke2fs -q -t ext4 -L root -O ^has_journal -d "$work/view" "$work/disk.ext4" 2600M
umount "$work/view"
EOF
# Inside the user namespace of mmdebstrap, files of this user are somebody else's.
chmod 0777 "$work"
chmod a+r "$work"/*
mmdebstrap --mode=unshare --variant=apt --format=null --skip=output/dev \
    --include=systemd-sysv,systemd-resolved,dbus,udev,openssh-server,linux-image-cloud-amd64,initramfs-tools,iproute2,procps,kmod,ca-certificates,"$peers" \
    --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/man/*' \
    --customize-hook="sh $work/customize \"\$1\"" "$suite" - > /dev/null
cp --sparse=always "$work"/{disk.ext4,vmlinuz,initrd,key} "$out/"
chmod 600 "$out/key"
echo "$stamp" > "$out/stamp"
