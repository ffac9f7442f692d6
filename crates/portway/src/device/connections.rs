//! `portway device connections`: who is connected through a device at this moment.

use std::fmt::Write as _;

use portway_control::api::{Connection, ConnectionState, Connections};

use crate::failure::{Outcome, printable};
use crate::output::table::{Text, Tone};
use crate::output::{Format, Look, Out, csv, human, table};

/// Prints what the daemon has listed.
pub(super) fn print(out: &mut Out, found: &Connections, format: Format) -> Outcome {
    match format {
        Format::Table => {
            let text = text(found, out.look);
            out.text(&text)
        }
        Format::Json => out.json(found),
        Format::Yaml => out.yaml(found),
        Format::Csv => out.text(&csv_text(found)),
    }
}

/// Who the client is, and through whom it came.
pub(crate) fn client(connection: &Connection) -> String {
    match (connection.client, connection.via) {
        (Some(client), Some(via)) => format!("{client} via {via}"),
        (Some(client), None) => client.to_string(),
        (None, _) => connection.protocol.clone(),
    }
}

/// How it stands out in this state.
pub(crate) const fn tone(state: ConnectionState) -> Tone {
    match state {
        ConnectionState::Open | ConnectionState::Flow => Tone::Good,
        ConnectionState::Announcing | ConnectionState::Dialling | ConnectionState::Held => Tone::Warn,
        ConnectionState::ClientEnded | ConnectionState::TargetEnded => Tone::Plain,
    }
}

fn text(found: &Connections, look: Look) -> String {
    let header = ["CLIENT", "TARGET", "STATE", "AGE", "IDLE", "IN", "OUT"];
    let rows = found.connections.iter().map(|connection| {
        [
            Text::new(client(connection)),
            Text::new(&connection.target),
            Text::new(connection.state.word()).tone(tone(connection.state)),
            Text::number(human::seconds(connection.age_ms / 1000)),
            Text::number(human::seconds(connection.idle_ms / 1000)),
            Text::number(human::bytes(connection.bytes_in)),
            Text::number(human::bytes(connection.bytes_out)),
        ]
    });
    let mut text = table::render(header, rows.collect(), look);
    let listed = u64::try_from(found.connections.len()).unwrap_or(u64::MAX);
    let more = found.connections_now.saturating_sub(listed);
    match (more, &found.unlisted) {
        (0, None) => {}
        (0, Some(why)) => {
            // Writing to a String cannot fail, here and below.
            let _infallible = writeln!(text, "{}", printable(why));
        }
        (more, Some(why)) => {
            let _infallible = writeln!(text, "and {more} more: {}", printable(why));
        }
        (more, None) => {
            let _infallible = writeln!(text, "and {more} more");
        }
    }
    text
}

fn csv_text(found: &Connections) -> String {
    let mut text = csv::line([
        "id",
        "protocol",
        "client",
        "via",
        "target",
        "state",
        "age_ms",
        "idle_ms",
        "bytes_in",
        "bytes_out",
    ]);
    let address =
        |address: Option<std::net::SocketAddr>| address.map_or_else(String::new, |it| it.to_string());
    for one in &found.connections {
        text.push_str(&csv::line([
            one.id.as_str(),
            &one.protocol,
            &address(one.client),
            &address(one.via),
            &one.target,
            one.state.word(),
            &one.age_ms.to_string(),
            &one.idle_ms.to_string(),
            &one.bytes_in.to_string(),
            &one.bytes_out.to_string(),
        ]));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One that carries much, one that came through a proxy and is held, one of a unix client.
    pub(crate) fn sample() -> Connections {
        let one = Connection {
            id: "4711-0".to_owned(),
            protocol: "tcp".to_owned(),
            client: Some("192.0.2.7:50312".parse().unwrap()),
            via: None,
            target: "tcp:127.0.0.1:80".to_owned(),
            state: ConnectionState::Open,
            age_ms: 185_000,
            idle_ms: 20,
            bytes_in: 1_258_291,
            bytes_out: 4_831_838_208,
        };
        let held = Connection {
            id: "4711-1".to_owned(),
            client: Some("[2001:db8::7]:443".parse().unwrap()),
            via: Some("192.0.2.1:40000".parse().unwrap()),
            state: ConnectionState::Held,
            age_ms: 3000,
            idle_ms: 3000,
            bytes_in: 0,
            bytes_out: 0,
            ..one.clone()
        };
        let unix = Connection {
            id: "4711-2".to_owned(),
            protocol: "unix".to_owned(),
            client: None,
            target: "unix:/run/x\u{1b}[2J".to_owned(),
            state: ConnectionState::ClientEnded,
            age_ms: 900,
            idle_ms: 900,
            ..one.clone()
        };
        Connections { connections_now: 40, connections: vec![one, held, unix], unlisted: None }
    }

    /// Fails when: those that are not listed are not told, or text of a path reaches the terminal as it is.
    #[test]
    fn connections_in_every_format() {
        let plain = Look { width: None, colour: false };
        let found = sample();
        insta::assert_snapshot!("table", text(&found, plain));
        insta::assert_snapshot!("csv", csv_text(&found));
        let why = Some("the kernel carries the device: it counts and does not list".to_owned());
        let none = Connections { connections_now: 7, connections: Vec::new(), unlisted: why };
        assert!(
            text(&none, plain)
                .ends_with("and 7 more: the kernel carries the device: it counts and does not list\n")
        );
    }
}
