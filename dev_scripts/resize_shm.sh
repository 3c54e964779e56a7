#!/usr/bin/env bash
# Remount /dev/shm with another size, to show that getm does not depend on it: dev_scripts/resize_shm.sh 1M
set -euo pipefail

if [[ $# -ne 1 ]]; then
    echo "usage: dev_scripts/resize_shm.sh SIZE    (1M, 64M, 8G, ...)" >&2
    exit 2
fi
if [[ $EUID -ne 0 ]]; then
    echo "dev_scripts/resize_shm.sh: remounting /dev/shm needs root; try: sudo $0 $1" >&2
    exit 1
fi
mount -o "remount,size=$1" /dev/shm
df -h /dev/shm
