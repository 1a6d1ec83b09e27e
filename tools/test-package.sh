#!/usr/bin/env bash
# The Debian package from its build to its purge, on this machine: built twice alike, checked by lintian, installed,
# started by the init script, called, reloaded, rotated, upgraded under 50 streams, drained, run under the unit's
# restrictions, removed, purged. Exits 0 only if all of it went as it should.
#
#   tools/test-package.sh [--on-this-machine]
#
# It needs root and installs, changes and purges the package cc-relay, so it refuses to run outside a container unless
# told, and wherever the package is installed already. It ends only what it started, and cleans up however it ends.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
SOURCE=$PWD

if [[ ${1:-} != --on-this-machine && ! -e /.dockerenv && ! -e /run/.containerenv ]]; then
    echo "error: this is no container; --on-this-machine says that the package may be installed and purged here" >&2
    exit 1
fi
if ((EUID != 0)); then
    echo "error: not root" >&2
    exit 1
fi
if dpkg-query --show --showformat='${db:Status-Abbrev}' cc-relay 2>/dev/null | grep -q '^[hi]\|^rc'; then
    echo "error: cc-relay is installed here, or its configuration is left: purge it first" >&2
    exit 1
fi
if [[ -e /var/lib/cc-relay ]] || getent passwd _cc-relay >/dev/null; then
    echo "error: _cc-relay or its home is left of an installation: somebody may need it" >&2
    exit 1
fi

# Not below /tmp: the unit has a /tmp of its own.
WORK=$(mktemp -d -p /run cc-relay-test.XXXXXX)
POLICY=/usr/sbin/policy-rc.d
own_policy= # not empty: the file there is this test's

finish() {
    local status=$? pid
    set +e
    for pid in $(jobs -rp); do
        kill "$pid"
        wait "$pid" 2>/dev/null
    done
    if ((status != 0)); then
        echo "== failed; the last of what the daemon wrote:" >&2
        tail -n 30 /var/log/cc-relay/* "$WORK"/*.log >&2 2>/dev/null
    fi
    # A drain may take its time in earnest, but not here. There was no such user before this test.
    for pid in $(daemons); do
        kill -KILL "$pid"
    done
    if dpkg-query --show cc-relay >/dev/null 2>&1; then
        apt-get -qq purge --yes cc-relay >/dev/null 2>&1 || dpkg --purge --force-all cc-relay >/dev/null 2>&1
    fi
    rm -rf /var/lib/cc-relay
    deluser --system --quiet _cc-relay >/dev/null 2>&1
    if [[ -e $WORK/policy-rc.d ]]; then
        cp --preserve=all "$WORK/policy-rc.d" "$POLICY"
    elif [[ $own_policy ]]; then
        rm -f "$POLICY"
    fi
    rm -rf "$WORK" "$BUILD"
    exit "$status"
}
# The daemon's processes, but for those of whose end nobody takes note.
daemons() { ps -o stat=,pid= --user _cc-relay 2>/dev/null | awk '$1 !~ /^Z/ {print $2}'; }
alive() { [[ $(ps -o stat= --pid "$1") == [!Z]* ]]; }
ended() { ! alive "$1"; }

BUILD=$(mktemp -d)
trap finish EXIT
trap 'exit 1' INT TERM

begin() { printf '\n-- %s (after %d s)\n' "$*" "$SECONDS"; }
fail() {
    echo "error: $*" >&2
    exit 1
}
# within SECONDS WHAT COMMAND...: until the command succeeds.
within() {
    local tenths=$(($1 * 10)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((tenths-- > 0)) || fail "$what: not within its time"
        sleep 0.1
    done
}
free_port() {
    /usr/bin/python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# Not by grep -q in a pipe: it may end before the other has written all, which then fails.
twistd_knows_it() { [[ $(cd / && twistd3 --help) == *" ccrelay "* ]]; }
expect_mode() {
    [[ $(stat --format='%U:%G %a' "$2") == "$1" ]] || fail "$2 is $(stat --format='%U:%G %a' "$2"), not $1"
}

begin "built twice, in two places, with two umasks and time zones: the same bytes"
# What a checkout has of its own.
tar --create --file="$BUILD/source.tar" --exclude='./.[!.]*' --exclude=./build --exclude=./dist --exclude=__pycache__ \
    --exclude='*.egg-info' --exclude=dropin.cache --exclude=node_modules --exclude=./debian/built .
build() { # build FOLDER
    mkdir "$1"
    tar --extract --file="$BUILD/source.tar" --directory "$1"
    (cd "$1" && dpkg-buildpackage -us -uc -b) >"$1.log" 2>&1 || {
        tail -n 40 "$1.log" >&2
        fail "the package does not build"
    }
}
mkdir "$BUILD/one" "$BUILD/two"
build "$BUILD/one/cc-relay"
(umask 0077 && TZ=Asia/Tokyo build "$BUILD/two/another-name")
DEB=$(echo "$BUILD"/one/cc-relay_*_all.deb)
cmp "$DEB" "$BUILD"/two/cc-relay_*_all.deb

begin "lintian"
lintian --allow-root --display-info --fail-on error,warning "$BUILD"/one/cc-relay_*.changes

begin "the unit, as systemd-analyze sees it"
mkdir "$WORK/units"
dpkg-deb --fsys-tarfile "$DEB" | tar --extract --directory "$WORK/units" --strip-components=4 ./lib/systemd/system
systemd-analyze verify --man=no "$WORK/units/cc-relay.service" "$WORK/units/cc-relay.socket" 2>&1 |
    tee "$BUILD/verify.log"
# What it says of a program that is not there yet is no fault of the unit.
! grep -v 'is not executable: No such file or directory' "$BUILD/verify.log" || fail "the unit has faults"
systemd-analyze security --offline=true --no-pager "$WORK/units/cc-relay.service" | grep -E '^(✗|→)'

begin "installed by apt"
# No service of this machine's is started by the installation; the init script's own actions are tried below, by hand.
[[ ! -e $POLICY ]] || cp --preserve=all "$POLICY" "$WORK/policy-rc.d"
own_policy=yes
cat >"$POLICY" <<'POLICY_RC_D'
#!/bin/sh
# While cc-relay's package is tested: a daemon that was started by hand is handed over on an upgrade, and stopped.
case " $*" in *" cc-relay upgrade"* | *" cc-relay stop"*) exit 0 ;; esac
exit 101
POLICY_RC_D
chmod 0755 "$POLICY"
# install_package DEB [OPTION]...: with nobody there to answer a question.
install_package() { apt-get -qq install --yes --no-install-recommends "$@" </dev/null >"$BUILD/apt.log" 2>&1 || {
    cat "$BUILD/apt.log" >&2
    fail "apt-get install"
}; }
# another VERSION: the package as that version, whose configuration file differs from the first one's, is in $deb.
another() {
    local root=$BUILD/$1
    dpkg-deb --raw-extract "$DEB" "$root"
    sed -i "s/^Version: .*/Version: $1/" "$root/DEBIAN/control"
    sed -i "s/^__version__ = .*/__version__ = \"$1\"/" "$root/usr/lib/python3/dist-packages/ccrelay/__init__.py"
    echo '# What only a later version says.' >>"$root/etc/cc-relay.yaml"
    deb=$BUILD/cc-relay_$1_all.deb
    dpkg-deb --root-owner-group --build "$root" "$deb" >/dev/null
    chmod a+r "$deb"
}
chmod -R a+rX "$BUILD"
install_package "$DEB"
expect_mode root:_cc-relay\ 640 /etc/cc-relay.yaml
expect_mode root:root\ 640 /etc/default/cc-relay
expect_mode _cc-relay:_cc-relay\ 750 /var/lib/cc-relay
expect_mode _cc-relay:adm\ 2750 /var/log/cc-relay
twistd_knows_it || fail "twistd does not know the command"
[[ $(/usr/bin/python3 -P -c 'import ccrelay; print(ccrelay.__file__)') == /usr/lib/python3/dist-packages/* ]]
(cd / && twistd3 --pidfile= ccrelay --check --config /etc/cc-relay.yaml 2>/dev/null)

# init ACTION: the script itself, also where systemd would take the action over.
init() { _SYSTEMCTL_SKIP_REDIRECT=1 /etc/init.d/cc-relay "$@"; }
PORT=$(free_port)
# 40 tokens: ten seconds at four a second, which a hand-over takes on a slow machine.
TEXT=$(printf ' rain%.0s' {1..40})
configure() { # configure MODEL [TOKENS A SECOND]
    cat >/etc/cc-relay.yaml <<CONFIG
server: {listen: "127.0.0.1:$PORT", drain_timeout_ms: 60000}
admin: {listen: "unix:/run/cc-relay/admin.sock"}
logging: {output: "/var/log/cc-relay/cc-relay.log"}
providers:
  - name: "simulator"
    type: "simulator"
    models: ["$1"]
    simulator: {text: "$TEXT", tokens_per_second: ${2:-50}}
CONFIG
}
url=http://127.0.0.1:$PORT
# stream: a whole call, its events on standard output.
stream() {
    curl --silent --show-error --fail --no-buffer --max-time 60 "$url/v1/messages" --header 'content-type: application/json' \
        --data '{"model": "m", "max_tokens": 1000, "stream": true, "messages": [{"role": "user", "content": "Hello?"}]}'
}
whole() { grep -q '^event: message_start' "$1" && grep -q '^event: message_stop' "$1"; }
models() { curl --silent --fail "$url/v1/models"; }
serves() { [[ $(models) == *"\"$1\""* ]]; }
# The version that says it of itself, in the process in charge.
runs_version() {
    curl --silent --fail --unix-socket /run/cc-relay/admin.sock http://localhost/status |
        /usr/bin/python3 -c 'import json, sys; sys.exit(json.load(sys.stdin)["daemon"]["version"] != sys.argv[1])' "$1"
}
in_charge() { cat /run/cc-relay/cc-relay.pid; }

begin "started by the init script"
configure first
init status && fail "it runs before it was started"
init start
init status
stream >"$WORK/answer"
whole "$WORK/answer" || fail "no whole stream: $(cat "$WORK/answer")"
expect_mode _cc-relay:adm\ 640 /var/log/cc-relay/cc-relay.log
[[ $(ps -o user= -p "$(in_charge)" | tr -d ' ') == _cc-relay ]]
first=$(in_charge)
init start
[[ $(in_charge) == "$first" ]] || fail "a second start replaced the daemon"

begin "reloaded: what can be used is, what cannot is refused before the daemon hears of it"
configure second
init reload
within 10 "the new configuration" serves second
echo 'providers: [{' >/etc/cc-relay.yaml
init reload 2>"$WORK/refusal" && fail "a broken file was taken"
grep -q 'cc-relay.yaml' "$WORK/refusal"
init restart 2>/dev/null && fail "a restart with a broken file"
serves second || fail "a broken file cost the daemon"
configure second
[[ $(in_charge) == "$first" ]]

begin "logs rotated: both files are cut, and the daemon goes on in the new ones"
lines=$(wc -l </var/log/cc-relay/cc-relay.log)
((lines > 0)) || fail "nothing was logged"
echo "what it once wrote" >>/var/log/cc-relay/stdout
_SYSTEMCTL_SKIP_REDIRECT=1 logrotate --force --state "$WORK/rotation" /etc/logrotate.d/cc-relay
[[ $(wc -l </var/log/cc-relay/cc-relay.log.1) -ge $lines ]] || fail "the rotated log lost lines"
[[ ! -s /var/log/cc-relay/stdout && -s /var/log/cc-relay/stdout.1 ]] || fail "standard output was not rotated"
logged() { stream >/dev/null && grep -q '"outcome"' /var/log/cc-relay/cc-relay.log; }
within 10 "a line in the new log" logged

begin "upgraded under 50 streams and over an edited configuration: nothing is cut, refused or asked"
VERSION=$(dpkg-deb --field "$DEB" Version)
runs_version "$VERSION"
configure third 4
init reload
within 10 "the slower simulator" serves third
another "$VERSION+1"
tools/hold_streams.py "$url" --streams 50 --text "$TEXT" >"$WORK/load" 2>"$WORK/load.log" &
load=$!
within 30 "50 streams at once" grep -q '^open' "$WORK/load"
configure fourth 4
echo "# the administrator's own" >>/etc/cc-relay.yaml
edited=$(</etc/cc-relay.yaml)
install_package "$deb" --option Dpkg::Options::=--force-confold
[[ $(in_charge) != "$first" ]] || fail "the old process is still in charge: $(cat "$BUILD/apt.log")"
alive "$first" || fail "the old process did not wait for its streams"
runs_version "$VERSION+1" || fail "the new version does not run"
serves fourth || fail "it does not serve with the configuration as edited"
# That dpkg had something to decide can be seen by what it has put beside.
[[ $(</etc/cc-relay.yaml) == "$edited" && -e /etc/cc-relay.yaml.dpkg-dist ]] || fail "the edited configuration was lost"
expect_mode root:_cc-relay\ 640 /etc/cc-relay.yaml
kill "$load"
wait "$load" || fail "clients noticed the upgrade: $(cat "$WORK/load" "$WORK/load.log")"
tail -n 1 "$WORK/load"
within 10 "the end of the old process" ended "$first"

begin "stopped right after a hand-over: the process before ends its stream too"
begun() { grep -q '^event: content_block_delta' "$WORK/slow"; }
hold_stream() { # in the background; its process is in $slow
    stream >"$WORK/slow" &
    slow=$!
    within 10 "the beginning of a stream" begun
}
hold_stream
before=$(in_charge)
init upgrade
[[ $(in_charge) != "$before" ]] || fail "the old process is still in charge"
alive "$before" || fail "there was nothing to wait for"
init stop
[[ -z $(daemons) ]] || fail "a process is left: $(ps -f --user _cc-relay)"
wait "$slow" || fail "the stream was cut"
whole "$WORK/slow" || fail "the stream did not end"

begin "stopped: the open stream ends first"
configure fifth 20
init start
hold_stream
init stop
whole "$WORK/slow" || fail "the stop did not wait for the stream"
wait "$slow"
init status && fail "it runs after it was stopped"
init stop
init start
init restart
serves fifth || fail "a restart"
init stop

begin "a port that is taken fails the start, soon and in words"
/usr/bin/python3 -m http.server --bind 127.0.0.1 --directory "$WORK/units" "$PORT" >/dev/null 2>&1 &
taker=$!
within 10 "somebody else on the port" curl --silent "$url/"
init start 2>"$WORK/refusal" && fail "it started on a port that was taken"
grep -q 'did not begin to serve' "$WORK/refusal"
grep -q 'cannot listen' /var/log/cc-relay/cc-relay.log
kill "$taker"
wait "$taker" || true

begin "TLS on both sides under the unit's restrictions"
UNIT=/lib/systemd/system/cc-relay.service
TLS_PORT=$(free_port)
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -keyout "$WORK/key.pem" -out "$WORK/cert.pem" 2>/dev/null
cat >"$WORK/upstream.py" <<'UPSTREAM'
"""A provider by TLS that answers every message with the same one, and says on standard output where it listens."""
import http.server
import json
import ssl
import sys

MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
           "stop_sequence": None, "content": [{"type": "text", "text": "through two tunnels"}],
           "usage": {"input_tokens": 1, "output_tokens": 3}}


class Provider(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        body = json.dumps(MESSAGE).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(*sys.argv[1:])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
UPSTREAM
/usr/bin/python3 "$WORK/upstream.py" "$WORK/cert.pem" "$WORK/key.pem" >"$WORK/upstream.port" 2>"$WORK/upstream.log" &
within 10 "the provider" test -s "$WORK/upstream.port"
cat >"$WORK/tls.yaml" <<CONFIG
server:
  listen: "127.0.0.1:$TLS_PORT"
  tls: {certificate: "$WORK/cert.pem", private_key: "$WORK/key.pem"}
logging: {output: "/var/log/cc-relay/tls.log"}
health: {health_check: {enabled: false}}
providers:
  - {name: "far", type: "anthropic", base_url: "https://localhost:$(cat "$WORK/upstream.port")",
     ca_file: "$WORK/cert.pem", keys: [{key: "dummy"}]}
CONFIG
chmod 0755 "$WORK"
chmod 0644 "$WORK"/*.pem "$WORK/tls.yaml"
tls() {
    curl --silent --show-error --fail --max-time 20 --cacert "$WORK/cert.pem" "https://localhost:$TLS_PORT$1" "${@:2}"
}
confined() { # confined [--set NAME=VALUE]: the daemon, in the background; its process is in $daemon
    INVOCATION_ID=tested tools/under_unit.py "$UNIT" "$@" -- /usr/bin/twistd3 --nodaemon --pidfile= ccrelay --config "$WORK/tls.yaml" \
        >"$WORK/confined.log" 2>&1 &
    daemon=$!
}
confined
within 30 "the daemon under restrictions" tls /health
grep -E '^(not )?applied:' "$WORK/confined.log"
grep -q '^Seccomp:.2' "/proc/$daemon/status" || fail "no filter of system calls is in force"
call=(/v1/messages --header 'content-type: application/json'
    --data '{"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello?"}]}')
answered() { [[ $(tls "${call[@]}") == *'through two tunnels'* ]]; }
answered || fail "no answer by TLS under the unit's restrictions"
kill -USR2 "$daemon"
wait "$daemon" || fail "under restrictions it did not hand over and stop with 0"
answered || fail "no answer by TLS from the process that took over under the unit's restrictions"
# The unit's own command, which the shell takes apart as systemd would.
stop_command=$(sed -n '/^ExecStop=/{:more;/\\$/{N;s/\\\n//;b more};s/^ExecStop=-//p}' "$UNIT")
MAINPID=$(daemons)
export MAINPID INVOCATION_ID=tested
[[ $MAINPID ]] || fail "nobody has taken over"
eval "tools/under_unit.py $UNIT -- $stop_command"
[[ -z $(daemons) ]] || fail "the unit's stop did not wait for the end"
# And what the unit leaves out for TLS's sake, or this proved nothing.
confined --set MemoryDenyWriteExecute=yes
sleep 3
if answered 2>/dev/null; then
    fail "TLS works with MemoryDenyWriteExecute: the unit could have it"
fi
kill "$daemon" 2>/dev/null || true
wait "$daemon" 2>/dev/null || true

begin "the package's own test"
PORT=$(free_port) debian/tests/smoke

# leftovers: every path on this machine that has our name, but for this test's and the checkout's.
leftovers() {
    find / -xdev \( -path "$SOURCE" -o -path "$BUILD" -o -path "$WORK" -o -path /proc -o -path /sys -o -path /home \
        -o -path /root -o -path /tmp -o -path /work -o -path /var/cache/apt \) -prune \
        -o \( -name '*cc-relay*' -o -name '*ccrelay*' -o -name '*cc_relay*' \) -print
}

begin "upgraded and at once removed: both processes end first, and the configuration stays"
configure sixth 4
init start
hold_stream
before=$(in_charge)
# Neither has it to ask this time: no option says what it is to do.
another "$VERSION+2"
install_package "$deb"
[[ $(in_charge) != "$before" ]] || fail "the old process is still in charge"
alive "$before" || fail "there was nothing to wait for"
runs_version "$VERSION+2"
apt-get -qq remove --yes cc-relay >/dev/null 2>&1
[[ -z $(daemons) ]] || fail "a process is left: $(ps -f --user _cc-relay)"
wait "$slow" || fail "the stream was cut"
whole "$WORK/slow" || fail "the stream did not end"
[[ -e /etc/cc-relay.yaml && -e /etc/default/cc-relay ]]
# debhelper has made the init script no longer executable; one that an administrator has changed back has nothing to do.
sh /etc/init.d/cc-relay start
! twistd_knows_it || fail "twistd still knows the command"

begin "purged: nothing is left"
apt-get -qq purge --yes cc-relay >/dev/null 2>&1
left=$(leftovers)
[[ -z $left ]] || fail "left behind: $left"
! getent passwd _cc-relay >/dev/null || fail "the user is left"
[[ $(dpkg-statoverride --list) != *cc-relay* ]] || fail "overrides of modes are left"

begin "purged with somebody's data in the daemon's home: that and its owner stay"
install_package "$DEB"
install -o _cc-relay -m 0600 /dev/null /var/lib/cc-relay/credentials
apt-get -qq purge --yes cc-relay >/dev/null 2>&1
[[ $(leftovers) == $'/var/lib/cc-relay' && -e /var/lib/cc-relay/credentials ]] || fail "left behind: $(leftovers)"
getent passwd _cc-relay >/dev/null || fail "the owner of what is left has gone"
rm -r /var/lib/cc-relay
deluser --system --quiet _cc-relay 2>/dev/null

printf '\nthe package is as it should be\n'
