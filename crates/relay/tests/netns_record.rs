//! The access record: one per connection, with its fields, also for those that never reached their target.

#![expect(clippy::unwrap_used, reason = "a helper fails its test")]

mod rig;

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::Mutex;

use rig::{Rig, accept, connect, expect_to_end, in_netns, service};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Keeps the events of this process as text.
struct Recorder;

static RECORDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Times and ports differ from run to run.
        if field.name() == "client" {
            let client = format!("{value:?}");
            self.0.push_str(&format!("client={} ", client.rsplit_once(':').map_or("", |(ip, _)| ip)));
        } else if field.name() != "lasted" {
            self.0.push_str(&format!("{}={value:?} ", field.name()));
        }
    }
}

impl Subscriber for Recorder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("portway_relay")
    }

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        RECORDS.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

fn records() -> Vec<String> {
    RECORDS.lock().unwrap().iter().filter(|line| line.contains("connection over")).cloned().collect()
}

#[test]
fn one_record_per_connection() {
    tracing::subscriber::set_global_default(Recorder).unwrap();
    in_netns(|| {
        let mut rig = Rig::start();
        let target = service("tcp:127.0.0.1:2001");
        rig.add(0, "tcp:127.0.0.1:1000-1001", "tcp:127.0.0.1:2000-2001", &[]);
        let (client, server) = (connect("tcp:127.0.0.1:1001"), accept(&target));
        (&client).write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        expect_to_end(&server, b"hello");
        (&server).write_all(b"hi").unwrap();
        drop(server);
        expect_to_end(&client, b"hi");
        rig.until("closed", |rig| rig.live(0) == 0);
        let _ = rig::try_connect("tcp:127.0.0.1:1000").map(|refused| (&refused).read(&mut [0]));
        rig.until("refused", |_| records().len() == 2);
        let (client, server) = (connect("tcp:127.0.0.1:1001"), accept(&target));
        (&client).write_all(b"x").unwrap();
        (&server).read_exact(&mut [0]).unwrap();
        client.reset();
        rig.until("reset", |_| records().len() == 3);
        assert_eq!(
            records(),
            [
                "message=connection over device=\"netns:test/dev\" client=127.0.0.1 listener=1 bytes_in=5 bytes_out=2 reached=true end=Clean ",
                "message=connection over device=\"netns:test/dev\" client=127.0.0.1 listener=0 bytes_in=0 bytes_out=0 reached=false end=Reset ",
                "message=connection over device=\"netns:test/dev\" client=127.0.0.1 listener=1 bytes_in=1 bytes_out=0 reached=true end=Reset ",
            ]
        );
    });
}
