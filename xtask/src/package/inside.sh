# Run by `cargo xtask package --check` in a bare Debian that is thrown away: install, serve, upgrade, remove.
set -euo pipefail

step() { echo "package: $*"; }
die() { echo "package: $*" >&2; exit 1; }

# Every file there is, apart from what dpkg writes for itself and copies that passwd's programs keep.
files() {
    find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /tmp -o -path /work \
        -o -path /var/lib/dpkg -o -path /var/log -o -path /var/cache \) -prune -o -print |
        grep -vxE '/etc/(passwd|group|shadow|gshadow)-|/etc/\.pwd\.lock|/var/lib/systemd.*' | sort
}
pids() { # of processes whose program is ours, this shell's own way: there is no pgrep here
    local exe
    for exe in /proc/[0-9]*/exe; do
        case "$(readlink "$exe" 2>/dev/null || true)" in
        /usr/bin/portway*) exe=${exe%/exe}; echo "${exe#/proc/}" ;;
        esac
    done
}
workers() {
    local pid
    for pid in $(pids); do
        if tr '\0' ' ' </proc/"$pid"/cmdline | grep -q ' worker'; then echo "$pid"; fi
    done
}
until_true() { # up to ten seconds
    local _
    for _ in $(seq 100); do
        if "$@" >/dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    return 1
}

files >/tmp/before
cp /etc/passwd /etc/group /tmp/

step install
dpkg -i /work/portway.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; die "dpkg -i failed"; }
getent passwd portway >/dev/null || die "no user portway"
getent group portway >/dev/null || die "no group portway"
[ "$(stat -c '%a %U' /var/lib/portway)" = "700 root" ] || die "/var/lib/portway: $(stat -c '%a %U' /var/lib/portway)"
[ "$(stat -c '%a %U' /run/portway/workers)" = "700 root" ] || die "the workers' folder is open"
portway --version >/dev/null
zcat /usr/share/man/man1/portway.1.gz | grep -q '^.SH' || die "portway.1 is no man page"
bash -c 'source /usr/share/bash-completion/completions/portway; complete -p portway' >/dev/null || die "no completion"

step serve
start() { portway daemon >>/tmp/daemon.log 2>&1 & daemon=$!; }
start
until_true portway status || { cat /tmp/daemon.log; die "the daemon does not answer"; }
# The service: sends back what it gets, for as long as it gets something.
perl -MIO::Socket::INET -e '
    my $listener = IO::Socket::INET->new(LocalAddr => "127.0.0.1:7000", Listen => 8, ReuseAddr => 1) or die;
    while (my $peer = $listener->accept) {
        next if fork;
        while (sysread($peer, my $bytes, 4096)) { syswrite($peer, $bytes) }
        exit;
    }' &
service=$!
until_true bash -c 'exec 3<>/dev/tcp/127.0.0.1/7000' || die "the service does not start"
portway device add "pid:$$" web listen=tcp:127.0.0.1:8080 connect=tcp:127.0.0.1:7000 >/dev/null
until_true bash -c 'exec 3<>/dev/tcp/127.0.0.1/8080' || die "the port is closed"
exec 4<>/dev/tcp/127.0.0.1/8080
echo first >&4 && IFS= read -r -t 10 answer <&4 && [ "$answer" = first ] || die "no answer through the device"
worker=$(workers)
[ -n "$worker" ] || die "no worker"
[ "$(awk '/^Uid:/ {print $2}' "/proc/$worker/status")" = "$(id -u portway)" ] || die "the worker is not portway's"

step upgrade
kill "$daemon" && wait "$daemon" || true
dpkg -i /work/portway.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; die "dpkg -i failed the second time"; }
echo between >&4 && IFS= read -r -t 10 answer <&4 && [ "$answer" = between ] || die "the upgrade cost a connection"
start
until_true portway status || { cat /tmp/daemon.log; die "the daemon does not answer after the upgrade"; }
echo after >&4 && IFS= read -r -t 10 answer <&4 && [ "$answer" = after ] || die "the new daemon cost a connection"
portway device list | grep -q 'web .*active' || die "the device is gone: $(portway device list)"
exec 4>&-

step remove
kill "$daemon" && wait "$daemon" || true
[ -n "$(workers)" ] || die "the worker went with the daemon"
dpkg -P portway >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; die "dpkg -P failed"; }
kill "$service" && wait "$service" 2>/dev/null || true
gone() { [ -z "$(pids)" ]; }
until_true gone || die "processes are left: $(pids)"
files >/tmp/after
diff /tmp/before /tmp/after || die "these files are left (>) or lost (<)"
diff /tmp/passwd /etc/passwd && diff /tmp/group /etc/group || die "users are left"
[ ! -e /run/portway ] || die "/run/portway is left"
step "installed, served, upgraded and removed without a trace"
