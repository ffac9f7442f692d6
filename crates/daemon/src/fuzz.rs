//! Every parser of bytes and texts that come from outside, one function each: fed by a fuzzer, and with
//! the committed corpus by a test. A function returns for whatever it is given; what it accepts must
//! print as something that is accepted again, and means the same.
//!
//! No part of the product.

use std::fmt::{Debug, Display};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use portway_config::Settings;
use portway_config::devices::{self, Form, Meaning};
use portway_control::{api, sse};
use portway_model::{
    AcceptProxy, CidrList, ConnectAddr, DeviceKey, DeviceName, DeviceSpec, GroupIds, InstanceKey,
    InstanceRef, ListenAddr, PortList, ProjectName, Provider, ProxyProtocol, Rate, format_duration,
    parse_duration,
};
use portway_proto::guest::{Frame, Held, Inbox};
use portway_proto::len16::Decoder;
use portway_proto::proxy_protocol::{
    Announced, DECODE_MAX_BYTES, Decoded, Endpoints, MAX_BYTES, decode, encode,
};
use portway_proto::sftp::{Operation, Request, RequestError};
use portway_relay::wire::{FromKeeper, FromWorker, ToKeeper, ToWorker};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::control::head;
use crate::instance::orphans::Orphans;
use crate::instance::placing::GroupText;
use crate::listeners;
use crate::moves::plan::Note;
use crate::moves::translate;
use crate::state::{self, StoredText};

/// What a fuzzer calls.
pub type Target = fn(&[u8]);

/// Names, as folders of the corpus and binaries of the fuzzer have them, and functions.
pub const TARGETS: &[(&str, Target)] = &[
    ("address", address),
    ("cidr", cidr),
    ("control_body", control_body),
    ("control_events", control_events),
    ("control_head", control_head),
    ("device_keys", device_keys),
    ("devices_file", devices_file),
    ("duration", duration),
    ("guest_frame", guest_frame),
    ("guest_held", guest_held),
    ("incus_answer", incus_answer),
    ("incus_event", incus_event),
    ("keeper_message", keeper_message),
    ("len16", len16),
    ("log_filter", log_filter),
    ("moving_device", moving_device),
    ("name", name),
    ("netlink_answer", portway_nat::fuzz::answer),
    ("notes", notes),
    ("ports", ports),
    ("proxy_header", proxy_header),
    ("settings", settings),
    ("sftp_request", sftp_request),
    ("state_file", state_file),
    ("worker_message", worker_message),
];

/// Feeds one input to a target.
///
/// # Panics
/// When there is no such target, or the input has found a fault.
pub fn run(target: &str, data: &[u8]) {
    let found = TARGETS.iter().find(|(name, _)| *name == target);
    let (_, function) = found.expect("the name is one of the table");
    function(data);
}

/// What is accepted prints as a text that is accepted again, as the same value and the same text.
fn prints_back<T>(text: &str)
where
    T: FromStr<Err: Display> + Display + PartialEq + Debug,
{
    match text.parse::<T>() {
        Ok(value) => {
            let printed = value.to_string();
            let again = printed.parse::<T>();
            assert!(again.is_ok_and(|again| again == value && again.to_string() == printed), "{printed}");
        }
        Err(refusal) => assert!(!refusal.to_string().is_empty()),
    }
}

/// What is accepted is written as JSON that is accepted again, as the same value.
fn writes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<T>(data) {
        let written = serde_json::to_vec(&value).expect("what was read can be written");
        assert_eq!(serde_json::from_slice::<T>(&written).ok().as_ref(), Some(&value));
    }
}

fn text(data: &[u8]) -> &str {
    std::str::from_utf8(data).unwrap_or_default()
}

fn address(data: &[u8]) {
    prints_back::<ListenAddr>(text(data));
    prints_back::<ConnectAddr>(text(data));
}

fn cidr(data: &[u8]) {
    prints_back::<CidrList>(text(data));
    prints_back::<AcceptProxy>(text(data));
    prints_back::<Rate>(text(data));
    prints_back::<GroupIds>(text(data));
}

/// A stream of frames: what is one is written as it was read.
fn guest_frame(data: &[u8]) {
    let mut inbox = Inbox::default();
    for piece in data.chunks(100) {
        inbox.room().get_mut(..piece.len()).expect("there is room").copy_from_slice(piece);
        inbox.filled(piece.len());
        while let Ok(Some(frame)) = inbox.next() {
            let Ok(read) = Frame::read(frame) else { continue };
            let mut written = Vec::new();
            read.write(&mut written).expect("it was short enough to be read");
            // A hello of another version is cut at its number.
            assert!(written.get(4..) == Some(frame) || matches!(read, Frame::Hello(_)));
        }
    }
}

/// A stream of what is said to a session that stays and by one: what is a frame is written as it was read.
fn guest_held(data: &[u8]) {
    let mut inbox = Inbox::default();
    for piece in data.chunks(100) {
        inbox.room().get_mut(..piece.len()).expect("there is room").copy_from_slice(piece);
        inbox.filled(piece.len());
        while let Ok(Some(frame)) = inbox.next() {
            let Ok(read) = Held::read(frame) else { continue };
            let mut written = Vec::new();
            read.write(&mut written).expect("it was short enough to be read");
            // What another version says first is cut at its number.
            let is_cut = matches!(
                read,
                Held::Attach { .. } | Held::Ask { .. } | Held::Kill { .. } | Held::Other { .. }
            );
            assert!(written.get(4..) == Some(frame) || is_cut);
        }
    }
}

/// A packet: what has a number gets an answer, and attributes are written as they were read.
fn sftp_request(data: &[u8]) {
    let read = Request::read(data);
    assert_eq!(data.len() < 5, read == Err(RequestError::Headless));
    if let Ok(Request::Do { id, operation: Operation::Lsetstat { path, attributes } }) = read {
        let length = u32::try_from(path.len()).expect("it came with 32 bits of length").to_be_bytes();
        let mut again = [&[9][..], &id.to_be_bytes(), &length, path].concat();
        attributes.write(&mut again);
        let operation = Operation::Setstat { path, attributes };
        assert_eq!(Request::read(&again), Ok(Request::Do { id, operation }));
    }
}

/// Once it is decided what the bytes are it stays so, however they come; and the header of a tcp client is
/// written again as one that says the same.
fn proxy_header(data: &[u8]) {
    let mut decided = Decoded::More;
    for end in 0..=data.len() {
        let found = decode(data.get(..end).unwrap_or_default());
        if let (Decoded::More, Decoded::Header { length, .. }) = (decided, found) {
            assert_eq!(length, end, "known with its last byte");
        }
        assert!(decided == Decoded::More || decided == found, "{decided:?}, then {found:?}");
        decided = found;
    }
    assert!(decided != Decoded::More || data.len() < DECODE_MAX_BYTES);
    let Decoded::Header { announced: Announced::Tcp { client, local }, .. } = decided else { return };
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let mut out = [0; MAX_BYTES];
        let again = decode(encode(version, Endpoints::Tcp { client, local }, &mut out));
        assert!(
            matches!(again, Decoded::Header { announced: Announced::Tcp { client: c, local: l }, .. } if c == client && l == local)
        );
    }
}

fn ports(data: &[u8]) {
    prints_back::<PortList>(text(data));
}

fn name(data: &[u8]) {
    prints_back::<InstanceRef>(text(data));
    prints_back::<InstanceKey>(text(data));
    prints_back::<ProjectName>(text(data));
    prints_back::<DeviceName>(text(data));
    prints_back::<DeviceKey>(text(data));
}

fn duration(data: &[u8]) {
    let (least, most) = (Duration::ZERO, Duration::from_secs(24 * 3600));
    if let Ok(value) = parse_duration(text(data), least, most) {
        assert_eq!(parse_duration(&format_duration(value), least, most).ok(), Some(value));
    }
}

/// One `key=value` in each line.
fn device_keys(data: &[u8]) {
    let pairs = text(data).lines().filter_map(|line| line.split_once('='));
    let pairs: Vec<(String, String)> = pairs.map(|(key, value)| (key.into(), value.into())).collect();
    if let Ok(spec) = DeviceSpec::from_keys(pairs) {
        assert_eq!(DeviceSpec::from_keys(spec.to_keys()).ok(), Some(spec));
    }
}

/// Frames of a stream, read as a whole and in pieces: the same frames.
fn len16(data: &[u8]) {
    let frames = |size: usize| {
        let (mut decoder, mut frames) = (Decoder::default(), Vec::new());
        for mut piece in data.chunks(size) {
            while let Some(frame) = decoder.next(&mut piece) {
                frames.push(frame.to_vec());
            }
        }
        (frames, decoder.is_amid())
    };
    assert_eq!(frames(data.len().max(1)), frames(3));
}

fn settings(data: &[u8]) {
    // Its message names a place; that must be one of the text.
    let _ = Settings::parse(Path::new("portway.toml"), text(data));
}

fn log_filter(data: &[u8]) {
    let _ = portway_config::LogFilter::new(text(data));
}

fn control_body(data: &[u8]) {
    if let Ok(request) = serde_json::from_slice::<api::AddDevice>(data) {
        let _ = DeviceSpec::from_keys(request.keys);
    }
    writes_back::<api::Apply>(data);
    writes_back::<api::Applied>(data);
    writes_back::<api::Move>(data);
    writes_back::<api::MoveDevice>(data);
    writes_back::<api::ChangeDevice>(data);
    writes_back::<api::RenameDevice>(data);
    writes_back::<api::Device>(data);
    writes_back::<api::Failure>(data);
    writes_back::<api::Server>(data);
}

/// The head of a request: one that is whole stays so, whatever follows it.
fn control_head(data: &[u8]) {
    if head::is_complete(data) == Ok(true) {
        assert_eq!(head::is_complete(&[data, b"\n".as_slice()].concat()), Ok(true));
    }
}

/// A file of devices in both forms; what is accepted reads the same when it is written as JSON.
fn devices_file(data: &[u8]) {
    let meaning = Meaning { provider: Provider::Incus, project: None };
    let read = |bytes: Vec<u8>, form| devices::parse(Path::new("devices"), bytes, form, &meaning);
    for form in [Form::Yaml, Form::Toml] {
        let Ok(entries) = read(data.to_vec(), form) else { continue };
        let written = entries.iter().map(|entry| {
            let mut keys = entry.spec.to_keys();
            keys.insert("instance".into(), entry.key.instance.to_string());
            keys.insert("name".into(), entry.key.device.to_string());
            keys
        });
        let written = serde_json::json!({ "devices": written.collect::<Vec<_>>() });
        let again = read(written.to_string().into_bytes(), Form::Yaml).expect("what was read can be written");
        let plain = |entries: Vec<devices::Entry>| {
            entries.into_iter().map(|entry| (entry.key, entry.spec)).collect::<Vec<_>>()
        };
        assert_eq!(plain(entries), plain(again));
    }
}

/// A device of Incus, one `key=value` in each line, or a note of one; there and back it is the same.
fn moving_device(data: &[u8]) {
    writes_back::<Note>(data);
    let pairs = text(data).lines().filter_map(|line| line.split_once('='));
    let device = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    if let Ok(ours) = translate::to_ours(Provider::Incus, &device)
        && let Ok(theirs) = translate::to_theirs(Provider::Incus, "web", &ours.spec)
    {
        assert_eq!(translate::to_ours(Provider::Incus, &theirs).map(|again| again.spec), Ok(ours.spec));
    }
}

/// The stream of events as a client reads it; cut in pieces anywhere it says the same.
fn control_events(data: &[u8]) {
    const LIMIT: usize = 4096;
    let whole = sse::Reader::new(LIMIT).push(data);
    let mut reader = sse::Reader::new(LIMIT);
    let mut pieces = Vec::new();
    for piece in data.chunks(3) {
        match reader.push(piece) {
            Ok(events) => pieces.extend(events),
            Err(_) => return,
        }
    }
    for event in &pieces {
        writes_back::<api::Event>(event);
    }
    // Events before one that is too long are told only where they came in a piece of their own.
    if let Ok(whole) = whole {
        assert_eq!(whole, pieces);
    }
}

fn worker_message(data: &[u8]) {
    writes_back::<ToWorker>(data);
    writes_back::<FromWorker>(data);
}

fn keeper_message(data: &[u8]) {
    writes_back::<ToKeeper>(data);
    writes_back::<FromKeeper>(data);
}

/// What the daemon has others keep for it: notes of listeners, names of clients, groups of workers.
fn notes(data: &[u8]) {
    writes_back::<listeners::Note>(data);
    writes_back::<GroupText>(data);
    let (name, note) = text(data).split_once('\n').unwrap_or((text(data), ""));
    let _ = Orphans::recover(name, note, Vec::new());
}

/// A state file, and the devices in it past the checksum.
fn state_file(data: &[u8]) {
    let _ = state::decode(Path::new("state.json"), data);
    writes_back::<StoredText>(data);
    if let Ok(Err(refused)) = serde_json::from_slice(data).map(StoredText::read) {
        let _ = refused.show();
    }
}

fn incus_answer(data: &[u8]) {
    portway_incus::fuzz::answer(data);
}

fn incus_event(data: &[u8]) {
    portway_incus::fuzz::event(data);
}
