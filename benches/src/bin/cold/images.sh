# images.sh DIRECTORY: archives of four programs of this host, as `docker save` writes them.
# Each prints a line with "ready" when it is; those whose programs are not installed are left out.
set -eu
cd "$1"

# root NAME: an empty root file system.
root() {
    mkdir -p "$1/usr/bin" "$1/usr/lib" "$1/usr/lib64" "$1/tmp" "$1/etc" "$1/app" "$1/proc" "$1/sys" "$1/dev"
    ln -s usr/bin "$1/bin"
    ln -s usr/lib "$1/lib"
    ln -s usr/lib64 "$1/lib64"
}

# with NAME FILE…: what these are linked with.
with() {
    name=$1
    shift
    for file in "$@"; do ldd "$file" 2>/dev/null | grep -o '/[^ ]*' || true; done | sort -u | while read -r library; do
        cp -L --parents "$(readlink -f "$(dirname "$library")")/$(basename "$library")" "$name"
    done
}

# archive NAME COMMAND-AS-JSON
archive() {
    tar -C "$1" --sort=name -cf "$1.layer" .
    sum=$(sha256sum <"$1.layer" | cut -d' ' -f1)
    mkdir "$1.image"
    mv "$1.layer" "$1.image/layer.tar"
    cat >"$1.image/config.json" <<JSON
{"architecture":"amd64","os":"linux","config":{"Cmd":$2,"Env":["PATH=/usr/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:$sum"]}}
JSON
    echo "[{\"Config\":\"config.json\",\"RepoTags\":[\"$1:bench\"],\"Layers\":[\"layer.tar\"]}]" >"$1.image/manifest.json"
    tar -C "$1.image" -cf "$1.tar" manifest.json config.json layer.tar
    rm -r "$1.image" "$1"
}

if python=$(readlink -f /usr/bin/python3); then
    library=/usr/lib/$(basename "$python")
    root python
    cp --parents "$python" python
    ln -s "$(basename "$python")" python/usr/bin/python3
    cp -a --parents "$library" python
    with python "$python" "$library"/lib-dynload/*.so
    cat >python/app/web.py <<'PYTHON'
import asyncio, concurrent.futures, csv, ctypes, decimal, email.message, http.server, json, logging.config
import sqlite3, ssl, urllib.request, unittest.mock, xml.etree.ElementTree, zipfile
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), http.server.SimpleHTTPRequestHandler)
print("ready", flush=True)
server.serve_forever()
PYTHON
    archive python '["python3","/app/web.py"]'
fi

if node=$(command -v node); then
    root node
    cp -L "$node" node/usr/bin/node
    with node "$node"
    cat >node/app/web.js <<'NODE'
const modules = ["crypto", "dns", "fs", "http2", "https", "net", "stream", "tls", "url", "worker_threads", "zlib"].map(require);
require("http").createServer((_, answer) => answer.end(String(modules.length)))
    .listen(8080, "127.0.0.1", () => console.log("ready"));
NODE
    archive node '["node","/app/web.js"]'
fi

if java=$(command -v java); then
    home=$(dirname "$(dirname "$(readlink -f "$java")")")
    root java
    mkdir java/opt
    cp -rL "$home" java/opt/java 2>/dev/null || true
    rm -rf java/opt/java/jmods java/opt/java/lib/src.zip java/opt/java/include java/opt/java/demo
    with java "$home"/bin/java "$home"/lib/*.so "$home"/lib/server/libjvm.so
    cat >java/app/Hello.java <<'JAVA'
import java.nio.file.*;
import java.util.*;
import java.util.stream.*;

public class Hello {
    public static void main(String[] arguments) throws Exception {
        Map<String, Long> words = Stream.of("read", "y", "read").collect(Collectors.groupingBy(w -> w, Collectors.counting()));
        System.out.println(String.format("ready %s %s", new TreeMap<>(words), Files.exists(Path.of("/app"))));
    }
}
JAVA
    "$home"/bin/javac -d java/app java/app/Hello.java
    archive java '["/opt/java/bin/java","-cp","/app","Hello"]'
fi

if redis=$(command -v redis-server); then
    root redis
    cp -L "$redis" redis/usr/bin/redis-server
    with redis "$redis"
    archive redis '["redis-server","--port","8080","--save",""]'
fi
