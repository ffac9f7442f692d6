//! Pairings that carry whole messages: records, unix datagrams, and those with udp.

use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use portway_testkit::udp::{UdpClient, UdpEcho};
use portway_testkit::{Addr, MessageSocket, Pattern, Rig};

use crate::PORTWAY;
use crate::datagrams::socket_addr;
use crate::place::{BOTH, Bind, Kind, Pair, SocketFile};

/// A message that is not answered in this time is lost; nothing here loses any.
const LIMIT: Duration = Duration::from_secs(10);

/// Sizes of messages; the last is what a program can send without asking the kernel for more.
const SIZES: [usize; 5] = [1, 0, 1_472, 65_536, 212_960];

/// Records, unix datagrams, and unix datagrams with udp in both directions, at paths and abstract names, on both `bind`
/// sides. The client and the service are told apart from every other by name and boundaries stay.
///
/// Fails when: the listener of the wrong type is opened; the socket towards a target has no name to be answered at; the
/// worker is not given the folder that a client's path is looked up in.
#[test]
fn every_message_pairing() {
    let Some(rig) = Rig::start(PORTWAY, "msgs").unwrap() else { return };
    let mut number = 0;
    let mut failures = Vec::new();
    let mut run = |bind,
                   (listen, from): (Kind, &str),
                   (connect, to): (Kind, &str),
                   check: fn(&Pair, u16) -> Result<()>| {
        number += 1;
        let result = Pair::new(&rig, bind, listen, connect, number).and_then(|mut pair| {
            pair.listen.key = pair.listen.key.replacen("unix:", from, 1);
            pair.connect.key = pair.connect.key.replacen("unix:", to, 1);
            pair.add(&rig, "pair", &[])?;
            let result = check(&pair, number);
            rig.device_ok("remove", &["pair"])?;
            result
        });
        let row = format!("{} {from} to {} {to}, bind={}", listen.name(), connect.name(), bind.name());
        match result {
            Ok(()) => println!("pass: {row}"),
            Err(error) => failures.push(format!("{row}: {error:#}")),
        }
    };
    for bind in BOTH {
        for one in [Kind::Path, Kind::Abstract] {
            for other in [Kind::Path, Kind::Abstract] {
                run(bind, (one, "unixpacket:"), (other, "unixpacket:"), records);
                run(bind, (one, "unixgram:"), (other, "unixgram:"), grams);
            }
            run(bind, (one, "unixgram:"), (Kind::Udp, "udp:"), gram_to_udp);
            run(bind, (Kind::Udp, "udp:"), (one, "unixgram:"), udp_to_gram);
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

fn payload(size: usize) -> Vec<u8> {
    Pattern::new(8).bytes(size)
}

fn records(pair: &Pair, _: u16) -> Result<()> {
    let service =
        pair.connect.site.run(|| MessageSocket::listen(&pair.connect.addr))?.context("no service")?;
    let _file = SocketFile::open_to_all(&pair.connect.addr);
    let client = pair.listen.site.run(|| MessageSocket::connect(&pair.listen.addr))?.context("no client")?;
    let server = service.accept().context("the device does not connect")?;
    for (from, to) in [(&client, &server), (&server, &client)] {
        for size in SIZES {
            from.send(&payload(size))?;
            ensure!(to.receive()? == payload(size), "a record of {size} bytes came otherwise");
        }
        let (reader, _writer) = rustix::pipe::pipe()?;
        from.send_with(b"pipe", &[reader.as_fd()])?;
        ensure!(to.receive_with()?.1.len() == 1, "no descriptor came");
    }
    client.shutdown(std::net::Shutdown::Write)?;
    ensure!(server.receive()?.is_empty(), "the end did not come");
    server.send(b"last")?;
    ensure!(client.receive()? == b"last", "nothing came after the end");
    Ok(())
}

/// Echoes `count` datagrams.
fn serve(service: &MessageSocket, count: usize) -> Result<()> {
    for _ in 0..count {
        ensure!(service.answer(b"", LIMIT)?, "a datagram did not arrive");
    }
    Ok(())
}

fn exchange(client: &MessageSocket, service: &MessageSocket, sizes: &[usize]) -> Result<()> {
    for size in sizes {
        client.send(&payload(*size)).context("cannot send")?;
        serve(service, 1)?;
        ensure!(client.receive()? == payload(*size), "{size} bytes came back otherwise");
    }
    Ok(())
}

/// A client with an abstract name of the listening side.
fn named(pair: &Pair, number: u16) -> Result<MessageSocket> {
    pair.listen.site.run(|| {
        let client = MessageSocket::bind(&Addr::Abstract(format!("client-{number}-{}", std::process::id())))?;
        client.connect_to(&pair.listen.addr)?;
        Ok(client)
    })?
}

fn grams(pair: &Pair, number: u16) -> Result<()> {
    let service = pair.connect.site.run(|| MessageSocket::bind(&pair.connect.addr))?.context("no service")?;
    let _file = SocketFile::open_to_all(&pair.connect.addr);
    exchange(&named(pair, number)?, &service, &SIZES)?;
    let (Addr::Unix(listen), Bind::Host) = (&pair.listen.addr, pair.bind) else { return Ok(()) };
    // Whoever is answered at a path lets the relay's user write there.
    let addr = Addr::Unix(listen.with_extension("client"));
    let client = MessageSocket::bind(&addr)?;
    let _file = SocketFile::open_to_all(&addr);
    client.connect_to(&pair.listen.addr)?;
    exchange(&client, &service, &SIZES).context("a client with a path")
}

fn gram_to_udp(pair: &Pair, number: u16) -> Result<()> {
    let _echo = UdpEcho::start(&pair.connect.site, socket_addr(&pair.connect.addr)?, "")?;
    let client = named(pair, number)?;
    for size in [1, 0, 1_472, 65_507] {
        client.send(&payload(size)).context("cannot send")?;
        ensure!(client.receive()? == payload(size), "{size} bytes came back otherwise");
    }
    Ok(())
}

fn udp_to_gram(pair: &Pair, _: u16) -> Result<()> {
    let service = pair.connect.site.run(|| MessageSocket::bind(&pair.connect.addr))?.context("no service")?;
    let _file = SocketFile::open_to_all(&pair.connect.addr);
    let sizes = [1, 0, 1_472, 65_507];
    let client = UdpClient::connect(&pair.listen.site, socket_addr(&pair.listen.addr)?)?;
    std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve(&service, sizes.len()));
        for size in sizes {
            let answer = client.exchange(&payload(size), LIMIT)?;
            ensure!(answer == Some(payload(size)), "{size} bytes came back otherwise");
        }
        serving.join().expect("the service does not panic")
    })
}
