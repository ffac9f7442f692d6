# What an editor has a shell do that it reaches by standard input: a server is started that outlives it.
say() {
    echo "4f2a: $1"
}
say start
if ! command -v python3 >/dev/null; then
    say "no python3"
    exit 1
fi
log=$(mktemp)
cat >"$log.py" <<'PROGRAM'
import http.server, socketserver, sys
server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
print(f"port {server.server_address[1]}", flush=True)
server.serve_forever()
PROGRAM
cd "$HOME" || exit 1
setsid nohup python3 "$log.py" >"$log" 2>/dev/null </dev/null &
until grep -q '^port ' "$log"; do sleep 0.05; done
echo "listeningOn==$(sed -n 's/^port //p' "$log")=="
say end
# The connection is the editor's window; it goes on until that closes.
cat >/dev/null
