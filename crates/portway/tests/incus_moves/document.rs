//! `docs/openapi.yaml` against a running daemon: every operation and status in it is provoked, every
//! answer fits its schema, and nothing is answered that it does not describe.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use portway_testkit::{Api, wait_for};
use serde_json::{Value, json};

use crate::scene::Scene;

/// The document, and what of it was seen.
struct Document {
    root: Value,
    api: Api,
    seen: BTreeSet<String>,
    schemas: BTreeSet<String>,
}

impl Document {
    fn open(api: Api) -> Document {
        let text = include_str!("../../../../docs/openapi.yaml");
        let root: Value = serde_saphyr::from_str(text).unwrap();
        Document { root, api, seen: BTreeSet::new(), schemas: BTreeSet::new() }
    }

    /// Sends a request and holds the answer against the document. `path` is a template of the
    /// document and `target` what it becomes.
    fn call(&mut self, method: &str, path: &str, target: &str, body: Option<&Value>, status: u16) -> Value {
        let answer = self.api.call(method, target, body, Duration::from_secs(60)).unwrap();
        let name = format!("{method} {path} {status}");
        assert_eq!(answer.status, status, "{name}: {}", answer.body);
        let operation = self.root["paths"][path][method.to_lowercase()].clone();
        assert!(operation.is_object(), "{name} is not in the document");
        if let Some(body) = body.filter(|_| status == 200) {
            let schema = operation["requestBody"]["content"]["application/json"]["schema"].clone();
            self.fits(body, &schema, &format!("body of {name}"));
        }
        let responses = &operation["responses"];
        let key = status.to_string();
        let response = if responses[&key].is_object() { &responses[&key] } else { &responses["default"] };
        let response = self.resolved(response).clone();
        if let Some(schema) = response["content"]["application/json"]["schema"].as_object() {
            self.fits(&answer.body, &Value::Object(schema.clone()), &name);
        }
        self.seen.insert(name);
        answer.body
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(path) => self.root.pointer(path.trim_start_matches('#')).unwrap(),
            None => value,
        }
    }

    /// JSON Schema, as much of it as the document uses.
    fn fits(&mut self, value: &Value, schema: &Value, at: &str) {
        if let Some(path) = schema["$ref"].as_str() {
            let target = self.root.pointer(path.trim_start_matches('#')).unwrap().clone();
            self.schemas.insert(path.rsplit('/').next().unwrap().to_owned());
            return self.fits(value, &target, at);
        }
        if let Some(any) = schema["anyOf"].as_array() {
            // The two alternatives of the document are a schema and null.
            let chosen = usize::from(value.is_null());
            return self.fits(value, &any[chosen].clone(), at);
        }
        let kinds = match &schema["type"] {
            Value::Array(kinds) => kinds.clone(),
            one => vec![one.clone()],
        };
        let kind = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        assert!(kinds.contains(&json!(kind)), "{at}: {value} is no {}", schema["type"]);
        if let Some(words) = schema["enum"].as_array() {
            assert!(words.contains(value), "{at}: {value} is none of {words:?}");
        }
        if let (Some(least), Some(number)) = (schema["minimum"].as_i64(), value.as_i64()) {
            assert!(number >= least, "{at}: {value}");
        }
        for (index, one) in value.as_array().into_iter().flatten().enumerate() {
            self.fits(one, &schema["items"].clone(), &format!("{at}[{index}]"));
        }
        let Some(fields) = value.as_object() else { return };
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(fields.contains_key(name.as_str().unwrap()), "{at}: no {name} in {value}");
        }
        for (name, field) in fields {
            let inner = match (&schema["properties"][name], &schema["additionalProperties"]) {
                (Value::Null, Value::Object(other)) => Value::Object(other.clone()),
                (Value::Null, _) => panic!("{at}: {name} is not in the document"),
                (inner, _) => inner.clone(),
            };
            self.fits(field, &inner, &format!("{at}.{name}"));
        }
    }

    /// What the document describes and nothing has provoked.
    fn missed(&self) -> Vec<String> {
        let mut missed = Vec::new();
        for (path, operations) in self.root["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                for status in operation["responses"].as_object().unwrap().keys() {
                    let name = format!("{} {path} {status}", method.to_uppercase());
                    if status != "default" && !self.seen.contains(&name) {
                        missed.push(name);
                    }
                }
            }
        }
        let schemas = self.root["components"]["schemas"].as_object().unwrap().keys();
        missed.extend(
            schemas.filter(|name| !self.schemas.contains(*name)).map(|name| format!("schema {name}")),
        );
        missed
    }
}

const DEVICES: &str = "/1.0/devices";
const DEVICE: &str = "/1.0/devices/{instance}/{device}";
const RENAME: &str = "/1.0/devices/{instance}/{device}/rename";
const LIVE: &str = "/1.0/devices/{instance}/{device}/connections";
const ADOPT: &str = "/1.0/instances/{instance}/adopt";
const EVENTS: &str = "/1.0/events";

/// Fails when an answer has a field that the document lacks, lacks one that it has, or when the
/// document promises a status that nothing provokes.
#[test]
fn every_answer_is_what_the_document_says() {
    let Some(scene) = Scene::start("openapi", false) else { return };
    let port = scene.rig.ports.run(4).unwrap();
    scene.wait_until_ready();
    let socket = scene.rig.daemon.dir().join("portway.sock");
    let mut doc = Document::open(scene.rig.daemon.api());
    let mut events = BufReader::new(UnixStream::connect(&socket).unwrap());
    events.get_mut().set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    events.get_mut().write_all(b"GET /1.0/events HTTP/1.0\r\n\r\n").unwrap();

    let key = format!("incus:default/{}", scene.name());
    let encoded = key.replace(':', "%3A").replace('/', "%2F");
    let target = |name: &str| format!("/1.0/devices/{encoded}/{name}");
    let keys = |port: u16| json!({"listen": format!("tcp:127.0.0.1:{port}"), "connect": "tcp:127.0.0.1:7"});
    let web = json!({"instance": key, "name": "web", "keys": keys(port)});
    doc.call("POST", DEVICES, DEVICES, Some(&web), 200);
    read_event(&mut doc, &mut events);

    doc.call("GET", "/1.0", "/1.0", None, 200);
    doc.call("GET", DEVICES, DEVICES, None, 200);
    doc.call("GET", DEVICES, "/1.0/devices?instance=x", None, 400);
    doc.call("GET", DEVICES, "/1.0/devices?instance=incus%3Adefault%2Fnobody", None, 404);
    doc.call("POST", DEVICES, DEVICES, Some(&json!({})), 400);
    doc.call("POST", DEVICES, DEVICES, Some(&web), 409);
    doc.call("POST", DEVICES, DEVICES, Some(&json!("x".repeat(1 << 20))), 413);
    doc.call("GET", DEVICE, &target("web"), None, 200);
    doc.call("GET", DEVICE, &target("none"), None, 404);
    doc.call("GET", DEVICE, &target("w%20b"), None, 400);
    doc.call("GET", EVENTS, "/1.0/events?kind=device-stat", None, 400);
    scene.wait_until_served(port);
    // It is served, so it is listed.
    let mut client = scene.rig.host().run(|| TcpStream::connect(("127.0.0.1", port)).unwrap()).unwrap();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    doc.call("GET", LIVE, &format!("{}/connections", target("web")), None, 200);
    drop(client);
    doc.call("GET", LIVE, &format!("{}/connections?limit=0", target("web")), None, 400);
    doc.call("GET", LIVE, &format!("{}/connections", target("none")), None, 404);
    let change = json!({"set": {"hold": "5s"}, "unset": ["v6only"]});
    doc.call("PATCH", DEVICE, &target("web"), Some(&change), 200);
    doc.call("PATCH", DEVICE, &target("web"), Some(&json!({"set": {"hold": "x"}})), 400);
    doc.call("PATCH", DEVICE, &target("none"), Some(&change), 404);
    let elsewhere = json!({"set": {"connect": "tcp:127.0.0.1:1-2"}});
    doc.call("PATCH", DEVICE, &target("web"), Some(&elsewhere), 400);
    let other = json!({"instance": key, "name": "other", "keys": keys(port + 1)});
    doc.call("POST", DEVICES, DEVICES, Some(&other), 200);
    let taken = json!({"set": {"listen": format!("tcp:127.0.0.1:{port}")}});
    doc.call("PATCH", DEVICE, &target("other"), Some(&taken), 409);
    let rename = |name: &str| format!("{}/rename", target(name));
    doc.call("POST", RENAME, &rename("other"), Some(&json!({"name": "third"})), 200);
    doc.call("POST", RENAME, &rename("third"), Some(&json!({"name": "web"})), 409);
    doc.call("POST", RENAME, &rename("none"), Some(&json!({"name": "x"})), 404);
    doc.call("POST", RENAME, &rename("third"), Some(&json!({"name": "x y"})), 400);
    doc.call("DELETE", DEVICE, &target("third"), None, 200);
    doc.call("DELETE", DEVICE, &target("third"), None, 404);
    doc.call("DELETE", DEVICE, &target("w%20b"), None, 400);
    doc.call("GET", "/1.0/instances", "/1.0/instances", None, 200);
    let adopt = format!("/1.0/instances/{encoded}/adopt");
    doc.call("POST", ADOPT, &adopt, None, 200);
    doc.call("POST", ADOPT, "/1.0/instances/x/adopt", None, 400);
    doc.call("POST", ADOPT, "/1.0/instances/netns%3Anobody/adopt", None, 404);
    health(&mut doc, &scene, &encoded);
    apply(&mut doc, &key, keys(port + 2));
    moves(&mut doc, &scene, &key, port + 3);
    stale(&mut doc, &socket, &target("web"), &adopt);
    network(&mut doc, &scene);
    doc.call("GET", "/metrics", "/metrics", None, 200);
    assert_eq!(doc.missed(), [""; 0]);
}

/// A network that the daemon runs.
fn network(doc: &mut Document, scene: &Scene) {
    let (dir, port) = (scene.rig.folder(), scene.rig.ports.run(2).unwrap());
    let nodes = [format!("a=127.0.0.1:{port}"), format!("b=127.0.0.1:{}", port + 1)];
    let mut command = std::process::Command::new(crate::PORTWAY);
    command.args(["mesh", "genconf"]).args(nodes).arg("--dir").arg(dir);
    let made = command.output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let config = format!("[mesh.home]\nconfig = \"{}\"\n", dir.join("a.toml").display());
    let daemon = &scene.rig.daemon;
    std::fs::write(daemon.dir().join("portway.toml"), config).unwrap();
    daemon.reload().unwrap();
    let runs = || {
        let server = daemon.api().get("/1.0").ok()?;
        (server["networks"][0]["state"] == "running").then_some(())
    };
    wait_for("the network to run", runs).unwrap();
    doc.call("GET", "/1.0", "/1.0", None, 200);
}

/// A container that is asked for its health, as Compose would have it.
fn health(doc: &mut Document, scene: &Scene, encoded: &str) {
    const HEALTH: &str = "/1.0/health";
    const ASK: &str = "/1.0/instances/{instance}/health";
    let ask = format!("/1.0/instances/{encoded}/health");
    doc.call("POST", ASK, &ask, None, 404);
    doc.call("POST", ASK, "/1.0/instances/x/health", None, 400);
    let says = "tester=server\nretries=1\ninterval=1000\ntimeout=9000\nstart_period=0\nstart_interval=1000\ntest=true\n";
    let change = json!({"config": {"user.portway.health": says}});
    let target = format!("/1.0/instances/{}", scene.name());
    scene.rig.bed().incus().change("PATCH", &target, Some(&change)).unwrap();
    let told = doc.call("POST", ASK, &ask, None, 200);
    assert_eq!(told["state"], "healthy", "{told}");
    let all = doc.call("GET", HEALTH, &format!("{HEALTH}?instance={encoded}"), None, 200);
    assert_eq!(all.as_array().unwrap().len(), 1, "{all}");
    doc.call("GET", HEALTH, &format!("{HEALTH}?instance=x"), None, 400);
}

fn apply(doc: &mut Document, key: &str, keys: Value) {
    const APPLY: &str = "/1.0/apply";
    let list = json!({
        "devices": [{"instance": key, "name": "listed", "keys": keys}], "dry_run": true,
        "prune": [{"provider": "incus", "project": "default"}],
    });
    let plan = doc.call("POST", APPLY, APPLY, Some(&list), 200);
    assert_eq!(plan["plan"].as_array().unwrap().len(), 2, "{plan}");
    let mut stale = list.clone();
    stale["generation"] = json!(0);
    doc.call("POST", APPLY, APPLY, Some(&stale), 409);
    doc.call("POST", APPLY, APPLY, Some(&json!({"devices": 1})), 400);
    doc.call("POST", APPLY, APPLY, Some(&json!("x".repeat(16 << 20))), 413);
}

fn moves(doc: &mut Document, scene: &Scene, key: &str, port: u16) {
    const IMPORT: &str = "/1.0/import";
    const EXPORT: &str = "/1.0/export";
    scene.incus_device("moving", &[&format!("listen=tcp:127.0.0.1:{port}"), "connect=tcp:127.0.0.1:7"]);
    let device = |name: &str| json!({"instance": key, "name": name});
    let about = format!("?instance={}", key.replace(':', "%3A").replace('/', "%2F"));
    doc.call("GET", IMPORT, &format!("{IMPORT}{about}"), None, 200);
    doc.call("POST", IMPORT, IMPORT, Some(&device("moving")), 200);
    // Again, by who was not told: it has moved.
    doc.call("POST", IMPORT, IMPORT, Some(&device("moving")), 200);
    doc.call("GET", EXPORT, EXPORT, None, 200);
    doc.call("POST", EXPORT, EXPORT, Some(&device("moving")), 200);
    // One of ours that Incus cannot express, one of Incus that has a namesake here.
    doc.call("POST", EXPORT, EXPORT, Some(&device("web")), 409);
    scene.incus_device("web", &["listen=tcp:127.0.0.1:0", "connect=tcp:127.0.0.1:7"]);
    doc.call("POST", IMPORT, IMPORT, Some(&device("web")), 409);
    for (path, missing) in [(IMPORT, "none"), (EXPORT, "none")] {
        doc.call("POST", path, path, Some(&device(missing)), 404);
        doc.call("POST", path, path, Some(&json!({"instance": key})), 400);
        doc.call("GET", path, &format!("{path}?instance=x"), None, 400);
    }
    doc.call("GET", IMPORT, "/1.0/import?instance=incus%3Adefault%2Fnobody", None, 404);
}

/// Conditions that do not hold, which need a header.
fn stale(doc: &mut Document, socket: &std::path::Path, device: &str, adopt: &str) {
    let cases = [
        (
            "POST",
            DEVICES,
            DEVICES,
            r#"{"instance":"netns:a","name":"a","keys":{"listen":"tcp::1","connect":"tcp::1"}}"#,
        ),
        ("PATCH", DEVICE, device, r#"{"set":{}}"#),
        ("DELETE", DEVICE, device, ""),
        ("POST", RENAME, &format!("{device}/rename"), r#"{"name":"a"}"#),
        ("POST", ADOPT, adopt, ""),
    ];
    for (method, path, target, body) in cases {
        let mut stream = UnixStream::connect(socket).unwrap();
        let length = body.len();
        let request = format!(
            "{method} {target} HTTP/1.0\r\nIf-Match: \"0\"\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
        assert!(answer.split(' ').nth(1) == Some("412"), "{method} {target}: {answer}");
        let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        doc.fits(&body, &json!({"$ref": "#/components/schemas/Failure"}), target);
        doc.seen.insert(format!("{method} {path} 412"));
    }
}

/// The first event of a stream, as the document describes it.
fn read_event(doc: &mut Document, events: &mut BufReader<UnixStream>) {
    let mut head = Vec::new();
    let mut data = None;
    while data.is_none() {
        let mut line = String::new();
        assert!(events.read_line(&mut line).unwrap() > 0, "the stream ended: {head:?}");
        data = line.strip_prefix("data: ").map(str::to_owned);
        head.push(line);
    }
    assert!(head[0].contains(" 200 "), "{head:?}");
    assert!(
        head.iter().any(|line| line.to_lowercase().starts_with("content-type: text/event-stream")),
        "{head:?}"
    );
    let event: Value = serde_json::from_str(&data.unwrap()).unwrap();
    doc.fits(&event, &json!({"$ref": "#/components/schemas/Event"}), "an event");
    doc.seen.insert(format!("GET {EVENTS} 200"));
}
